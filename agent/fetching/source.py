"""What a platform is told to fetch: written by the agent, read by `launchbay fetch-code` there. Pure.

It holds no secret, and is the same for the same code: platforms keep code under a hash of it. Secrets have variables.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from agent.config.model import AgentConfig
from protocol.errors import LaunchbayError
from protocol.json_read import Reader
from protocol.json_types import Json, JsonObject

FORM = 1
"""Of what is written here. What is of another was written by another version."""

GIT_REMOTE = "LAUNCHBAY_GIT_REMOTE"
"""Variable with the remote as it was written, where there is a user or a password in it."""
GIT_TOKEN = "LAUNCHBAY_GIT_TOKEN_"  # noqa: S105 -- the name of a variable
GIT_KEY = "LAUNCHBAY_GIT_KEY_"
"""Variables with the tokens and private keys of git hosts; numbers follow."""
KNOWN_HOSTS = "LAUNCHBAY_KNOWN_HOSTS"
"""Variable with the ssh keys of git hosts, as the file of that name has them."""

_CONFIGURATION = {"limits": True, "policy": {"git_hosts", "git_http_hosts"}}
_OF_GIT = {"git": {"submodules", "timeout", "accept_new_hosts"}}


class SourceError(LaunchbayError):
    """What is to be fetched cannot be understood."""

    code = "bad_code_source"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an artifact."""

    id: str
    digest: str


@dataclass(frozen=True, slots=True)
class GitCode:
    """A commit of a repository."""

    remote: str
    """Without what may be secret."""
    commit: str
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    """By host, the variable with the private key for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageContext:
    """How code becomes what an image is built of (`agent/building/context.py`), beside the Dockerfile."""

    root: str = ""
    """Which folder of the code it is made of; empty or `.` for all of it."""
    place: str = ""
    """Where that goes; empty for the top."""
    notebook: str = ""
    """Which of its files is to become a script; from that folder."""
    more: tuple[str, ...] = ()
    """Which other files go along, as a recipe names them."""
    limit: int
    """The most code, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSource:
    """What to fetch, and how it is made ready to run."""

    code: Version | GitCode | None = None
    job: Version | None = None
    """The job's own files, where they are needed: its frozen requirements, its patch."""
    packages: str = ""
    """What to install where there is no code: a requirements file."""
    notebook: str = ""
    """Which of its files is to become a script; from where the job begins."""
    build_context: str = ""
    program: str = ""
    """The last word of its command, where that helps to find out where it begins."""
    subfolder: str = ""
    """Where the launch is to begin, if it says so."""
    image: ImageContext | None = None
    """Of code that goes into an image and does not run by itself."""
    config: JsonObject = field(default_factory=dict[str, Json])
    """What of the agent's configuration is about fetching, as far as it is not the default."""


def config_block(config: AgentConfig, hosts: Mapping[str, JsonObject] | None = None) -> JsonObject:
    """Return what of a configuration is about fetching; for git, `hosts` are those of `git.hosts`."""
    keys = {**_CONFIGURATION, **(_OF_GIT if hosts is not None else {})}
    block = config.model_dump(mode="json", include=keys, exclude_defaults=True)
    if hosts:
        block["git"] = {**block.get("git", {}), "hosts": hosts}
    return block


def written(source: CodeSource) -> JsonObject:
    """Return a source as JSON."""
    texts = {name: getattr(source, name) for name in ("packages", "notebook", "build_context", "program", "subfolder")}
    fields: dict[str, Json] = {name: text for name, text in texts.items() if text}
    match source.code:
        case Version():
            fields["artifact"] = _version(source.code)
        case GitCode(remote, commit, keys):
            fields["git"] = {"remote": remote, "commit": commit, **({"keys": dict(keys)} if keys else {})}
        case None:
            pass
    if source.job:
        fields["job"] = _version(source.job)
    if source.image:
        fields["image"] = asdict(source.image)
    if source.config:
        fields["config"] = source.config
    return {"form": FORM, **fields}


def read(raw: Json) -> CodeSource:
    """Read what `written` has returned; raises `SourceError`."""
    source = Reader(raw, SourceError)
    if source.integer("form") != FORM:
        raise SourceError(
            f"What is to be fetched is told in form {source.raw.get('form')!r}, and this version reads {FORM}. Whoever "
            "runs the agent has to see that the image that fetches is of the agent's own version."
        )
    return CodeSource(
        code=_code(source),
        job=_read_version(source.inner("job")) if "job" in source.raw else None,
        packages=source.text("packages") or "",
        notebook=source.path_in_code("notebook") or "",
        build_context=source.path_in_code("build_context") or "",
        program=source.text("program") or "",
        subfolder=source.path_in_code("subfolder") or "",
        image=_read_image(source.inner("image")) if "image" in source.raw else None,
        config=source.object("config"),
    )


def _code(source: Reader) -> Version | GitCode | None:
    if "artifact" in source.raw:
        return _read_version(source.inner("artifact"))
    if "git" not in source.raw:
        return None
    git = source.inner("git")
    keys = git.inner("keys")
    return GitCode(
        git.required_text("remote"), git.required_text("commit"), {host: keys.required_text(host) for host in keys.raw}
    )


def _read_image(image: Reader) -> ImageContext:
    return ImageContext(
        root=image.path_in_code("root") or "",
        place=image.path_in_code("place") or "",
        notebook=image.path_in_code("notebook") or "",
        more=image.texts("more"),
        limit=image.integer("limit"),
    )


def _version(version: Version) -> JsonObject:
    return {"id": version.id, "digest": version.digest}


def _read_version(version: Reader) -> Version:
    return Version(version.required_text("id"), version.required_text("digest"))
