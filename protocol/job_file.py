"""The job file (`wandb-job.json`): what a job is made of."""

import re
from dataclasses import dataclass
from typing import TypeAlias

from protocol.errors import JobFileError, SpecError
from protocol.json_read import Reader
from protocol.json_types import JsonObject
from protocol.names import ArtifactName, parse_job_reference

_BY_ID = "wandb-artifact://_id/"
_BY_NAME = "wandb-artifact://"


@dataclass(frozen=True, slots=True)
class GitSource:
    """Code in a git repository."""

    remote: str
    commit: str | None


@dataclass(frozen=True, slots=True)
class CodeArtifactSource:
    """Code in an artifact, named by id or by reference."""

    artifact_id: str | None
    reference: ArtifactName | None


@dataclass(frozen=True, slots=True)
class ImageJobSource:
    """Code in a container image."""

    image: str
    args: tuple[str, ...] = ()
    """Of legacy jobs: what the image gets if the launch gives no arguments of its own."""


JobCode: TypeAlias = GitSource | CodeArtifactSource | ImageJobSource


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file, understood."""

    source: JobCode
    entry_point: tuple[str, ...]
    runtime: str | None
    """Python version, as `3.11` or `3.11.7`."""
    input_types: JsonObject
    output_types: JsonObject
    partial: bool
    notebook: bool
    base_image: str | None
    build_context: str | None
    dockerfile: str | None


def parse_job_file(raw: JsonObject) -> JobFile:
    """Read a job file; `JobFileError` says which key is wrong and what is allowed."""
    job = Reader(raw, JobFileError)
    source = job.inner("source")
    return JobFile(
        source=_code(job.required_text("source_type"), source),
        entry_point=_entry_point(source.texts("entrypoint")),
        runtime=_version(job.text("runtime")),
        input_types=job.object("input_types"),
        output_types=job.object("output_types"),
        partial=bool(raw.get("_partial")),
        notebook=bool(source.raw.get("notebook")),
        base_image=source.text("base_image"),
        build_context=source.path_in_code("build_context"),
        dockerfile=source.path_in_code("dockerfile"),
    )


def _code(kind: str, source: Reader) -> JobCode:
    if kind == "repo":
        git = source.inner("git")
        return GitSource(git.required_text("remote"), git.text("commit"))
    if kind == "artifact":
        return _code_artifact(source.required_text("artifact"))
    if kind == "image":
        return ImageJobSource(source.required_text("image"), source.texts("args"))
    raise JobFileError(f"`source_type` is {kind!r}; it must be repo, artifact or image.")


def _code_artifact(uri: str) -> CodeArtifactSource:
    wrong = JobFileError(f"`source.artifact` is {uri!r}; it must be {_BY_ID}ID or {_BY_NAME}E/P/NAME:ALIAS.")
    artifact_id = uri.removeprefix(_BY_ID)
    if artifact_id and artifact_id != uri:
        return CodeArtifactSource(artifact_id, None)
    if not uri.startswith(_BY_NAME):
        raise wrong
    try:
        return CodeArtifactSource(None, parse_job_reference(uri.removeprefix(_BY_NAME)))
    except SpecError as error:
        raise wrong from error


def _entry_point(words: tuple[str, ...]) -> tuple[str, ...]:
    """Repair what client 0.31 writes for captured jobs: `pythonCPython 3.11` where `python3.11` is meant."""
    if words and (match := re.fullmatch(r"python[A-Za-z]+ ([0-9]+\.[0-9]+)[0-9.]*", words[0])):
        return (f"python{match[1]}", *words[1:])
    return words


def _version(runtime: str | None) -> str | None:
    """Return the dotted number: client 0.31 writes the implementation's name in front of it."""
    match = re.search(r"[0-9]+(?:\.[0-9]+)+", runtime or "")
    return match[0] if match else None
