"""Fetches from git: a program of its own, which `agent/sources/repositories.py` starts for each piece of work.

It reads one line of JSON, a `Task`, and prints one, an `Answer`; what git says goes to standard error. It must lead a
process group: the agent kills that to end it early, and so does the program itself when standard input ends, for then
the agent has gone.

A repository is not trusted. Git runs without system and user configuration, hooks, filters, prompts, and with the
transports that the agent names; what a commit holds is measured before it is checked out; its symbolic links may not
lead out of it. GitPython runs git, because it checks options and protocols once more.
"""

import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NoReturn

from agent.sources import git_credential

FULL_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SHORT_HASH = re.compile(r"[0-9a-f]{4,63}")
TREE = "tree"
"""Where the code is in the folder of a task."""
REPOSITORY = "repository"
"""Where what was fetched is; nobody needs it afterwards."""
_REPOSITORY = ("--git-dir", REPOSITORY, "--work-tree", TREE)
_EVERYTHING = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
DISK_BLOCK = 4096
"""Bytes that even an empty file counts for: a small repository may hold billions of them."""
OLDEST_GIT = (2, 32)
"""Older ones do not know the variables that keep configuration away, and would not say so."""
MOST_MEMORY = 4 * 1024**3
"""Bytes for each process: a few of them, sent as differences, can ask for any number."""
STALL_SECONDS = 60
CONNECT_SECONDS = 30


class Kind(StrEnum):
    """What can go wrong."""

    AUTHENTICATION = "authentication"
    CERTIFICATE = "certificate"
    DISK_FULL = "disk_full"
    FILE_TOO_BIG = "file_too_big"
    HOST_KEY = "host_key"
    MOVED = "moved"
    NO_GIT = "no_git"
    NO_SUCH_COMMIT = "no_such_commit"
    NOT_A_REPOSITORY = "not_a_repository"
    OTHER = "other"
    PATCH = "patch"
    SYMLINK = "symlink"
    TOO_BIG = "too_big"
    UNREACHABLE = "unreachable"


_SIGNS: tuple[tuple[Kind, str], ...] = (
    (Kind.DISK_FULL, r"No space left on device|Disk quota exceeded|unable to write file"),
    (Kind.FILE_TOO_BIG, r"Out of memory"),
    (Kind.TOO_BIG, r"File too large|died of signal 25|file size limit exceeded"),
    (Kind.HOST_KEY, r"Host key verification failed"),
    (
        Kind.AUTHENTICATION,
        r"Authentication failed|could not read (?:Username|Password)|Permission denied \(|returned error: 40[13]",
    ),
    (Kind.CERTIFICATE, r"SSL certificate problem|certificate verif|certificate subject name"),
    (Kind.MOVED, r"returned error: 30[1278]|unable to update url base from redirection"),
    (
        Kind.NO_SUCH_COMMIT,
        r"not our ref|couldn't find remote ref|unadvertised object|no such remote ref|shallow capabilities",
    ),
    (
        Kind.UNREACHABLE,
        r"Could not resolve|Failed to connect|Couldn't connect|Connection (?:refused|timed out|reset|closed)|timed out"
        r"|No route to host|Network is unreachable|too slow|returned error: (?:408|429|5\d\d)|Empty reply"
        r"|name resolution|Could not resolve hostname|early EOF|hung up|kex_exchange_identification",
    ),
    (
        Kind.NOT_A_REPOSITORY,
        r"does not appear to be a git repository|not valid: is this a git repository"
        r"|repository '.*' not found|Could not read from remote repository|returned error: 404|not found",
    ),
)
"""By kind, how git says so in English. The first that fits counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to do."""

    action: Literal["resolve", "fetch", "patch"]
    """`resolve` finds the commit of a name, `fetch` checks a commit out, `patch` changes a copy of a tree."""
    folder: str = ""
    """Empty; everything is made in it. The code will be in its folder `TREE`."""
    url: str = ""
    reference: str = ""
    """A branch, a tag, a commit; nothing for the remote's default branch. For `fetch`, a full hash."""
    transports: Sequence[str] = ()
    redirects: bool = False
    """Whether a remote may send us elsewhere."""
    host: str = ""
    user: str = ""
    password: str = ""
    """For `host` alone."""
    key_file: str | None = None
    known_hosts: Sequence[str] = ()
    """Files with the keys of hosts; new keys go to the first."""
    accept_new_hosts: bool = False
    max_file: int | None = None
    max_total: int | None = None
    """Bytes of the largest file, and of all together; None for no limit."""
    tree: str = ""
    """For `patch`: what to copy."""
    patch: str = ""
    """For `patch`: the file to apply."""


@dataclass(frozen=True, slots=True)
class Submodule:
    """A place in a tree where another repository belongs."""

    path: str
    url: str
    """As the repository has it: it may be relative, and anything at all."""
    commit: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How it went. With an error nothing else counts."""

    error: Kind | None = None
    detail: str = ""
    """In git's own words."""
    commit: str = ""
    size: int = 0
    """Bytes."""
    submodules: Sequence[Submodule] = field(default_factory=tuple[Submodule, ...])


class Failed(Exception):
    """The work cannot be done."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def main() -> None:
    """Do one task."""
    line = _first_line()
    threading.Thread(target=_die_with_the_agent, daemon=True).start()
    try:
        answer = perform(Task(**json.loads(line)))
    except Failed as failed:
        answer = Answer(failed.kind, str(failed))
    except OSError as error:
        answer = Answer(Kind.DISK_FULL if _is_full(error) else Kind.OTHER, str(error))
    print(json.dumps(asdict(answer)), flush=True)  # noqa: T201 -- this is its answer


def perform(task: Task) -> Answer:
    """Do what is asked. Raises `Failed`, or `OSError` where this machine is at fault."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    if task.max_total is not None:
        # What a remote sends is one file, and its size is not known before. Beyond this, writing fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (task.max_total, task.max_total))
    folder = Path(task.folder)
    os.environ.update(_environment(task))
    if task.action == "patch":
        return _patch(task, folder)
    git = _Git(folder)
    if task.action == "resolve":
        return Answer(commit=_resolve(git, task))
    return _fetch(git, task)


# --- running git ------------------------------------------------------------------------------------------------------


class _Git:
    """Git in one folder. Every error of it is a `Failed`."""

    def __init__(self, folder: Path) -> None:
        """Look for git; `Failed` if there is none."""
        try:
            import git
        except ImportError as error:  # it looks for the program when it is imported
            raise Failed(Kind.NO_GIT, str(error).strip().splitlines()[0]) from error
        self._error = git.GitCommandError
        self._git = git.Git(str(folder))
        self._refused = (git.UnsafeOptionError, git.UnsafeProtocolError)
        if self._git.version_info < OLDEST_GIT:
            found = ".".join(map(str, self._git.version_info))
            raise Failed(Kind.NO_GIT, f"it is {found}, and at least {'.'.join(map(str, OLDEST_GIT))} is needed")

    def run(self, *arguments: str) -> str:
        """Return what a command prints."""
        try:
            # Python ignores SIGXFSZ, and so must git: then it says that a file is too large, and does not just die.
            command = ["git", *arguments]
            return str(self._git.execute(command, strip_newline_in_stdout=False, restore_signals=False))
        except self._error as error:
            raise understood(str(error.stderr)) from error

    def ls_remote(self, *arguments: str) -> str:
        """Return references of a remote."""
        try:
            return str(self._git.ls_remote(*arguments))
        except self._error as error:
            raise understood(str(error.stderr)) from error
        except self._refused as error:
            raise Failed(Kind.OTHER, str(error)) from error

    def entries(self, commit: str) -> Iterator[tuple[str, str, int, str]]:
        """Yield mode, object, size and path of everything in a commit; as it comes, for it may be endless."""
        command = ["git", *_REPOSITORY, "ls-tree", "-r", "-l", "-z", "--full-tree", commit]
        process: Any = self._git.execute(command, as_process=True)
        waiting = b""
        while block := process.stdout.read(1 << 16):
            *lines, waiting = (waiting + block).split(b"\0")
            for line in lines:
                head, _, path = line.partition(b"\t")
                mode, _, name, size = head.decode().split()
                yield mode, name, 0 if size == "-" else int(size), os.fsdecode(path)
        process.wait()


def understood(said: str) -> Failed:
    """Make an error of what git said. GitPython puts it between quotes, behind a word."""
    said = said.strip().removeprefix("stderr:").strip().removeprefix("'").removesuffix("'")
    sys.stderr.write(said + "\n")
    # What a remote has its clients print says nothing of what git has found.
    own = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("remote:")]
    text = "\n".join(own)
    kind, signs = next(
        ((kind, signs) for kind, signs in _SIGNS if re.search(signs, text)), (Kind.OTHER, "^fatal:|^error:")
    )
    telling = [line for line in own if re.search(signs, line)]
    return Failed(kind, next(iter(telling or own), "git said nothing"))


def _environment(task: Task) -> dict[str, str]:
    """Return the variables that keep git to what it is here for."""
    helper = shlex.join([sys.executable, "-I", "-S", str(Path(git_credential.__file__))])
    settings = {
        "core.askPass": "",
        "core.bigFileThreshold": "16m",  # what is bigger is streamed, not kept in memory
        "core.fsmonitor": "false",
        "core.hooksPath": os.devnull,
        "core.symlinks": "true",
        "credential.helper": helper if task.user or task.password else "",
        "fetch.unpackLimit": "1",  # one pack: a limit on a file's size is a limit on what is fetched
        "gc.auto": "0",
        "http.followRedirects": "initial" if task.redirects else "false",
        "http.lowSpeedLimit": "1",
        "http.lowSpeedTime": str(STALL_SECONDS),
        "init.defaultBranch": "main",
        "maintenance.auto": "false",
        "submodule.recurse": "false",
    }
    numbered = {f"GIT_CONFIG_KEY_{index}": key for index, key in enumerate(settings)}
    numbered |= {f"GIT_CONFIG_VALUE_{index}": value for index, value in enumerate(settings.values())}
    return {
        "GIT_CONFIG_COUNT": str(len(settings)),
        **numbered,
        "GIT_ALLOW_PROTOCOL": ":".join(task.transports),
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(Path(task.folder).resolve()),  # the state folder may be in a repository
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_SSH_COMMAND": shlex.join(_ssh(task)),
        "GIT_SSH_VARIANT": "ssh",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_TEMPLATE_DIR": "",
        "HOME": str(Path(task.folder, "home")),  # is not there: no .netrc, no keys that nobody named
        "LC_ALL": "C",
        git_credential.HOST: task.host,
        git_credential.USER: task.user,
        git_credential.PASSWORD: task.password,
    }


def _ssh(task: Task) -> list[str]:
    known = " ".join(f'"{path}"' for path in task.known_hosts) or os.devnull
    options = {
        "BatchMode": "yes",
        "ClearAllForwardings": "yes",
        "ConnectTimeout": str(CONNECT_SECONDS),
        "ControlPath": "none",
        "ForwardAgent": "no",
        "GlobalKnownHostsFile": "none",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": f'"{task.key_file}"' if task.key_file else "none",
        "PermitLocalCommand": "no",
        "ServerAliveInterval": "15",
        "StrictHostKeyChecking": "accept-new" if task.accept_new_hosts else "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": known,
    }
    return ["ssh", "-F", "none", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


# --- resolve ----------------------------------------------------------------------------------------------------------


def _resolve(git: _Git, task: Task) -> str:
    """Return the full hash of a commit: of a branch, else a tag, else a commit whose hash begins so."""
    name = task.reference
    if FULL_HASH.fullmatch(name):
        return name
    # Clients before us took main or master, whatever the remote says; where its HEAD leads nowhere, so do we.
    wanted = [f"refs/heads/{name}", f"refs/tags/{name}^{{}}", f"refs/tags/{name}"] if name else ["HEAD"]
    wanted += [f"{name}^{{}}", name] if name.startswith("refs/") else []
    wanted += [] if name else ["refs/heads/main", "refs/heads/master"]
    listed = git.ls_remote("--quiet", "--", task.url, *wanted)
    found = {line.partition("\t")[2]: line.partition("\t")[0] for line in listed.splitlines()}
    for reference in wanted:
        if reference in found:
            return found[reference]
    if SHORT_HASH.fullmatch(name):
        return _whole_hash(git, task)
    raise Failed(Kind.NO_SUCH_COMMIT, "")


def _whole_hash(git: _Git, task: Task) -> str:
    """Return the commit whose hash begins so. Takes the remote's history, but not its files where the server can."""
    git.run("init", "--quiet", "--bare", REPOSITORY)
    git.run(*_REPOSITORY, "remote", "add", "--", "origin", task.url)
    git.run(*_REPOSITORY, "fetch", "--quiet", "--no-tags", "--filter=tree:0", "origin", *_EVERYTHING)
    return _commit_of(git, task.reference)


def _commit_of(git: _Git, name: str) -> str:
    try:
        return git.run(*_REPOSITORY, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    except Failed as failed:
        raise Failed(Kind.NO_SUCH_COMMIT, "") from failed


# --- fetch ------------------------------------------------------------------------------------------------------------


def _fetch(git: _Git, task: Task) -> Answer:
    tree = Path(task.folder, TREE)
    tree.mkdir()
    git.run("init", "--quiet", "--bare", REPOSITORY)
    fetch = (*_REPOSITORY, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
    try:
        git.run(*fetch, "--depth=1", "--", task.url, task.reference)
    except Failed as failed:
        if failed.kind != "no_such_commit" or "not our ref" in str(failed):
            raise
        # Not every server gives out a commit by its hash, or without its history.
        git.run(*fetch, "--", task.url, *_EVERYTHING)
    commit = _commit_of(git, task.reference)
    size, links = _measure(git, commit, task)
    if size > shutil.disk_usage(tree).free:
        raise Failed(Kind.DISK_FULL, f"{size} bytes are more than there is room for")
    git.run(*_REPOSITORY, "checkout", "--quiet", "--force", "--detach", commit)
    check_links(tree)
    return Answer(commit=commit, size=size, submodules=list(_submodules(git, commit, links)))


def _measure(git: _Git, commit: str, task: Task) -> tuple[int, dict[str, str]]:
    """Return the size of a commit's files, and what it has of other repositories: commits by path."""
    total = 0
    links: dict[str, str] = {}
    for mode, name, size, path in git.entries(commit):
        total += max(size, DISK_BLOCK)
        _check_size(task, path, size, total)
        if mode == "160000":
            links[path] = name
    return total, links


def _check_size(task: Task, path: str, size: int, total: int) -> None:
    if task.max_file is not None and size > task.max_file:
        raise Failed(Kind.FILE_TOO_BIG, f"{path!r} has {size} bytes")
    if task.max_total is not None and total > task.max_total:
        raise Failed(Kind.TOO_BIG, f"it has {total} bytes with {path!r}")


def _submodules(git: _Git, commit: str, links: dict[str, str]) -> Iterator[Submodule]:
    """Yield those submodules whose repository the commit names."""
    if not links:
        return
    try:
        listed = git.run(*_REPOSITORY, "config", "--null", "--list", "--blob", f"{commit}:.gitmodules")
    except Failed:
        return  # nobody can check out what has no address; git itself leaves an empty folder, too
    settings = dict(entry.split("\n", 1) for entry in listed.split("\0") if "\n" in entry)
    for key, path in settings.items():
        url = settings.get(f"{key.removesuffix('.path')}.url")
        if key.endswith(".path") and path in links and url:
            yield Submodule(path, url, links[path])


def check_links(tree: Path) -> None:
    """Refuse symbolic links that lead out of a tree: whoever reads the code would read this machine's files.

    Where a link leads depends on all that is there; so ask again whenever a tree has become more. Raises `Failed`.
    """
    root = os.path.realpath(tree)
    for folder, folders, files in os.walk(tree):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if not path.is_symlink():
                continue
            target = path.readlink()
            there = os.path.realpath(path)
            if target.is_absolute() or not (there == root or there.startswith(root + os.sep)):
                raise Failed(Kind.SYMLINK, f"{str(path.relative_to(tree))!r} leads to {str(target)!r}")


# --- patch ------------------------------------------------------------------------------------------------------------


def _patch(task: Task, folder: Path) -> Answer:
    """Apply a patch to a copy of a tree, as `patch -p1` would. Git refuses paths that leave the tree by itself."""
    tree = folder / TREE
    copy_tree(Path(task.tree), tree)
    try:
        _Git(tree).run("apply", "-p1", "--whitespace=nowarn", "--", task.patch)
    except Failed as failed:
        raise (
            failed if failed.kind in {Kind.DISK_FULL, Kind.TOO_BIG, Kind.NO_GIT} else Failed(Kind.PATCH, str(failed))
        ) from failed
    check_links(tree)
    total = 0
    for path in (Path(above, name) for above, _, files in os.walk(tree) for name in files):
        size = path.lstat().st_size
        total += max(size, DISK_BLOCK)
        _check_size(task, str(path.relative_to(tree)), size, total)
    return Answer(size=total)


def copy_tree(tree: Path, place: Path) -> None:
    """Copy a tree to a place where there is nothing, or an empty folder. Raises `OSError`, with one cause."""
    try:
        shutil.copytree(tree, place, symlinks=True, dirs_exist_ok=True)
    except shutil.Error as error:  # it has a line for each file that a full disk did not take
        (_, path, why), *_ = error.args[0]
        full = os.strerror(errno.ENOSPC)
        raise (OSError(errno.ENOSPC, full, path) if full in why else OSError(errno.EIO, why)) from error


# --- the process ------------------------------------------------------------------------------------------------------


def _first_line() -> bytes:
    """Read the task, and nothing behind it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            sys.exit("there is no task")
        line += byte
    return bytes(line)


def _die_with_the_agent() -> NoReturn:
    """Wait for the end of standard input, which is the agent's; then end everything that was started here."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
    raise AssertionError("dead")


def _is_full(error: OSError) -> bool:
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


if __name__ == "__main__":
    main()
