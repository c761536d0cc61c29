"""Git remotes: which texts are one, where they lead, and what in them is secret. Pure.

A remote comes with a job and is never trusted. What is not exactly of a form below is none: git itself knows many more
transports, some of which run commands (`ext::`) or read this machine's files (`file://`, paths).
"""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from protocol.image_names import HOST

FORMS = "https://, ssh:// and git@host:path"

_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_AT_HOST = rf"(?P<host>(?i:{HOST}))(?P<port>:[0-9]+)?(?P<path>/[^\x00-\x1f\x7f]*)?"
_HTTP = re.compile(rf"(?P<transport>https?)://(?:(?P<user>[^@:/?#\\\s]*)(?P<password>:[^@/?#\\\s]*)?@)?{_AT_HOST}")
_SSH = re.compile(rf"(?P<transport>ssh)://(?:{_USER}@)?{_AT_HOST}")
_SCP = re.compile(rf"(?:{_USER}@)?(?P<host>(?i:{HOST})):(?!:|//|-)[^\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class GitRemote:
    """A remote of a form that is understood."""

    transport: str
    """`https`, `http` or `ssh`."""
    host: str
    """In lower case, without a port."""
    url: str
    """For git and for people: without what may be secret."""
    user: str = ""
    """Of an `https` or `http` URL. May itself be a token."""
    password: str = field(default="", repr=False)


def parse_remote(text: str) -> GitRemote | None:
    """Read a remote; None if it is none. `http` is one too: whether it may be used is for the caller to decide."""
    if match := _HTTP.fullmatch(text):
        return GitRemote(
            match["transport"],
            match["host"].lower(),
            f"{match['transport']}://{match['host']}{match['port'] or ''}{match['path'] or ''}",
            unquote(match["user"] or ""),
            unquote((match["password"] or "").removeprefix(":")),
        )
    if match := _SSH.fullmatch(text) or _SCP.fullmatch(text):
        return GitRemote("ssh", match["host"].lower(), text)
    return None


def relative_remote(base: str, remote: str) -> str:
    """Return a submodule's remote, which may be relative to the one of the repository that it is part of, as git does.

    What goes further up than there is anything becomes a text that is no remote.
    """
    if not remote.startswith(("./", "../")):
        return remote
    base, joint = base.rstrip("/"), "/"
    while remote.startswith(("./", "../")):
        if remote.startswith("../"):
            cut = max(base.rfind("/"), base.rfind(":"))
            base, joint = base[: max(cut, 0)], base[cut : cut + 1]
        remote = remote.partition("/")[2]
    return f"{base}{joint}{remote}"


def is_reference(name: str) -> bool:
    """Whether this can be the name of a branch, a tag or a commit, by git's own rules; never an option or a pattern."""
    return bool(name) and not (
        name.startswith(("-", "+", "/", "."))
        or name.endswith(("/", ".", ".lock"))
        or re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/", name)
    )
