"""Jobs as commands see them: the versions of a job, what one is made of, and which runs used it."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agent.control_plane import ControlPlane
from launchbay.errors import NotThere
from protocol.job_file import CodeArtifactSource, GitSource, ImageJobSource, JobFile, parse_job_file
from protocol.job_inputs import job_inputs
from protocol.json_types import dig
from protocol.masking import without_passwords
from protocol.names import JOB_TYPE, ArtifactName

JOB_FILE = "wandb-job.json"
MAX_VERSIONS = 1000
MOST_HINTS = 3

_CREATOR = """creator { username } createdBy { ... on Run { name project { name entity { name } } } }"""
_RUNS = """usedBy { edges { node {
  name displayName state createdAt user { username } project { name entity { name } }
} } }"""


async def list_jobs(server: ControlPlane, entity: str, project: str) -> list[dict[str, Any]]:
    """Return a project's jobs, each with its versions, the newest first."""
    data = await server.ask(
        f"""query Jobs($entity: String!, $project: String!) {{
              project(entityName: $entity, name: $project) {{
                artifactType(name: "{JOB_TYPE}") {{
                  artifactCollections {{ edges {{ node {{
                    name description
                    artifacts {{ edges {{ node {{ versionIndex state description createdAt aliases {{ alias }} }} }} }}
                    ... on ArtifactSequence {{ latestArtifact {{ {_CREATOR} }} }}
                  }} }} }}
                }}
              }}
            }}""",
        entity=entity,
        project=project,
    )
    jobs = _nodes(dig(data, "project", "artifactType", "artifactCollections"))
    return [_listed(job, f"{entity}/{project}") for job in jobs]


async def check_is_there(server: ControlPlane, name: ArtifactName) -> None:
    """Raise `NotThere` if there is no such version of a job, with what the user may have meant."""
    data = await server.ask(
        """query JobIsThere($entity: String!, $project: String!, $name: String!) {
             project(entityName: $entity, name: $project) {
               artifactCollectionMembership(name: $name) { artifact { artifactType { name } } }
             }
           }""",
        entity=name.entity,
        project=name.project,
        name=f"{name.collection}:{name.version}",
    )
    if dig(data, "project", "artifactCollectionMembership", "artifact", "artifactType", "name") != JOB_TYPE:
        raise await _not_there(server, name)


async def describe(server: ControlPlane, name: ArtifactName) -> dict[str, Any]:
    """Return what a version of a job is made of, what may be set of it, and what became of it."""
    data = await server.ask(
        f"""query Job($entity: String!, $project: String!, $name: String!, $versions: Int!) {{
              project(entityName: $entity, name: $project) {{
                artifactCollectionMembership(name: $name) {{
                  versionIndex
                  aliases {{ alias }}
                  artifact {{
                    state description metadata createdAt artifactType {{ name }} {_CREATOR}
                    files(names: ["{JOB_FILE}"]) {{ edges {{ node {{ name directUrl }} }} }}
                  }}
                  artifactCollection {{
                    description createdAt
                    artifacts(first: $versions) {{ edges {{ node {{
                      versionIndex state description createdAt aliases {{ alias }} {_RUNS}
                    }} }} }}
                  }}
                }}
              }}
            }}""",
        entity=name.entity,
        project=name.project,
        name=f"{name.collection}:{name.version}",
        versions=MAX_VERSIONS,
    )
    found = dig(data, "project", "artifactCollectionMembership")
    if found is None or dig(found, "artifact", "artifactType", "name") != JOB_TYPE:
        raise await _not_there(server, name)
    version, job = found["artifact"], found["artifactCollection"]
    raw = await _job_file(server, version, name)
    versions = _committed(job)
    used = [run["createdAt"] for each in versions for run in _nodes(each["usedBy"])]
    return {
        "reference": f"{name.entity}/{name.project}/{name.collection}:v{found['versionIndex']}",
        "aliases": [alias["alias"] for alias in found["aliases"]],
        "description": version["description"] or job["description"],
        **await _made_of(server, parse_job_file(raw)),
        "inputs": [asdict(each) for each in job_inputs(raw, json.loads(version["metadata"] or "null") or {})],
        **_creator(version),
        "created": version["createdAt"],
        "jobCreated": job["createdAt"],
        "lastUsed": max(used, default=None),
        "runs": len(used),
        "versions": [_version(each) for each in versions],
    }


async def runs_of(server: ControlPlane, name: ArtifactName, *, one_version: bool) -> list[dict[str, Any]]:
    """Return the runs that used a job, or only one version of it, the newest first."""
    data = await server.ask(
        f"""query JobRuns($entity: String!, $project: String!, $job: String!, $version: String!, $versions: Int!) {{
              project(entityName: $entity, name: $project) {{
                artifactCollection(name: $job) {{
                  defaultArtifactType {{ name }}
                  artifactMembership(aliasName: $version) {{ versionIndex }}
                  artifacts(first: $versions) {{ edges {{ node {{ versionIndex state {_RUNS} }} }} }}
                }}
              }}
            }}""",
        entity=name.entity,
        project=name.project,
        job=name.collection,
        version=name.version,
        versions=MAX_VERSIONS,
    )
    job = dig(data, "project", "artifactCollection")
    wanted = dig(job, "artifactMembership", "versionIndex")
    if dig(job, "defaultArtifactType", "name") != JOB_TYPE or (one_version and wanted is None):
        raise await _not_there(server, name)
    found = [
        _run(run, version["versionIndex"])
        for version in _committed(job)
        if not one_version or version["versionIndex"] == wanted
        for run in _nodes(version["usedBy"])
    ]
    # Of runs of one second those are newer that the server names later.
    return sorted(found, key=lambda run: run["created"])[::-1]


async def _not_there(server: ControlPlane, name: ArtifactName) -> NotThere:
    """Return what to say of a job that is not there: which version or name is nearest, if there is any."""
    said = f"There is no job {name}, or you may not see it."
    project = f"{name.entity}/{name.project}"
    listed = await list_jobs(server, name.entity, name.project)
    jobs = {job["reference"].removeprefix(f"{project}/"): job["versions"] for job in listed}
    if versions := jobs.get(name.collection):
        known = [word for version in versions for word in (*sorted(version["aliases"]), version["version"])]
        return NotThere(f"{said} Of {name.collection} there are: {', '.join(known)}.")
    if near := difflib.get_close_matches(name.collection, jobs, MOST_HINTS):
        return NotThere(f"{said} Did you mean {' or '.join(f'{project}/{each}:latest' for each in near)}?")
    names = f"`launchbay job list -e {name.entity} -p {name.project}` lists those that there are."
    return NotThere(f"{said} {names if jobs else f'The project {project} has no jobs.'}")


async def _job_file(server: ControlPlane, version: Mapping[str, Any], name: ArtifactName) -> dict[str, Any]:
    files = [file for file in _nodes(version["files"]) if file["name"] == JOB_FILE]
    if not files:
        raise NotThere(f"{name} has no {JOB_FILE}. Make the job again with `wandb job create`.")
    try:
        return json.loads(await server.download(files[0]["directUrl"]))
    except ValueError as error:
        raise NotThere(f"The {JOB_FILE} of {name} cannot be read: {error}. Make the job again.") from error


async def _made_of(server: ControlPlane, job: JobFile) -> dict[str, Any]:
    match job.source:
        case GitSource(remote, commit):
            source = {"type": "git", "remote": without_passwords(remote), "commit": commit}
        case CodeArtifactSource(artifact_id, reference):
            named = str(reference) if reference else await _name_of(server, artifact_id or "")
            source = {"type": "code", "artifact": named}
        case ImageJobSource(image):
            source = {"type": "image", "image": image}
    more = {"baseImage": job.base_image, "buildContext": job.build_context, "dockerfile": job.dockerfile}
    source |= {key: value for key, value in more.items() if value}
    return {"source": source, "entryPoint": list(job.entry_point), "python": job.runtime}


async def _name_of(server: ControlPlane, artifact_id: str) -> str:
    """Return the name of a code artifact, as far as there still is one."""
    data = await server.ask(
        """query Code($id: ID!) {
             artifact(id: $id) { versionIndex artifactSequence { name project { name entity { name } } } }
           }""",
        id=artifact_id,
    )
    collection = dig(data, "artifact", "artifactSequence")
    if collection is None:
        return f"{artifact_id} (it is gone)"
    project = collection["project"]
    return f"{project['entity']['name']}/{project['name']}/{collection['name']}:v{data['artifact']['versionIndex']}"


def _listed(job: Mapping[str, Any], project: str) -> dict[str, Any]:
    versions = _committed(job)
    newest: Mapping[str, Any] = versions[0] if versions else {}
    return {
        "reference": f"{project}/{job['name']}",
        "versions": [_version(version) for version in versions],
        "description": newest.get("description") or job["description"],
        **_creator(job.get("latestArtifact") or {}),
        "created": newest.get("createdAt"),
    }


def _version(version: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": f"v{version['versionIndex']}",
        "aliases": [alias["alias"] for alias in version["aliases"]],
        "created": version["createdAt"],
    }


def _run(run: Mapping[str, Any], version: int) -> dict[str, Any]:
    return {
        "run": _path(run),
        "name": run["displayName"],
        "state": run["state"],
        "version": f"v{version}",
        "user": dig(run, "user", "username"),
        "created": run["createdAt"],
    }


def _creator(version: Mapping[str, Any]) -> dict[str, Any]:
    """Say who made a version, and in which run if that is still there."""
    run = version.get("createdBy")
    return {"creator": dig(version, "creator", "username"), "createdByRun": _path(run) if run else None}


def _path(run: Mapping[str, Any]) -> str:
    return f"{dig(run, 'project', 'entity', 'name')}/{dig(run, 'project', 'name')}/{run['name']}"


def _committed(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [version for version in _nodes(job["artifacts"]) if version["state"] == "COMMITTED"]


def _nodes(connection: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [edge["node"] for edge in (connection or {}).get("edges", [])]
