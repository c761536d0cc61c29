"""A git repository behind a URL that the stock client accepts, without any network but loopback.

The client takes `https://`, `ssh://` and `git@host:path` and nothing else. So it is given an address of that kind, and
git, through its own configuration, is told where that address really is.
"""

import functools
import os
import subprocess
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTTPS = "https://git.test/"
SSH = "git@git.test:"
AUTHOR = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@git.test"}
COMMITTER = {"GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@git.test"}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class calls it so
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class GitRemote:
    """A served repository, and a working copy to change it."""

    name: str
    working: Path
    served: Path
    environment: Mapping[str, str]
    """What a process needs to know to find it under its address."""

    @property
    def https(self) -> str:
        """Its address for those who use HTTPS."""
        return f"{HTTPS}{self.name}.git"

    @property
    def ssh(self) -> str:
        """Its address for those who use SSH."""
        return f"{SSH}{self.name}.git"

    def commit(self, **files: str) -> str:
        """Write files, by name without suffix `.py`; returns the commit, which is a new one in any case."""
        for name, content in files.items():
            (self.working / f"{name}.py").write_text(content)
        git(self.working, "add", "--all")
        git(self.working, "commit", "--quiet", "--allow-empty", "--message", "a change")
        git(self.working, "push", "--quiet", str(self.served), "main")
        git(self.served, "update-server-info")
        return git(self.working, "rev-parse", "HEAD")

    def clone(self, folder: Path) -> None:
        """Clone it as a user does who knows its address."""
        git(folder.parent, "clone", "--quiet", self.https, str(folder), env=self.environment)
        git(folder, "remote", "set-url", "origin", self.https, env=self.environment)


def git(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run git; returns what it prints."""
    environment = {**os.environ, **AUTHOR, **COMMITTER, "GIT_CONFIG_GLOBAL": os.devnull, **(env or {})}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def git_remote(folder: Path, name: str) -> Generator[GitRemote]:
    """Serve an empty repository while the block runs."""
    working, served = folder / "working", folder / "served" / f"{name}.git"
    working.mkdir(parents=True)
    git(working, "init", "--quiet", "--initial-branch", "main")
    git(folder, "init", "--quiet", "--bare", "--initial-branch", "main", str(served))
    handler = functools.partial(_Quiet, directory=str(served.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield GitRemote(name, working, served, _rewriting(f"http://127.0.0.1:{server.server_port}/"))
        finally:
            server.shutdown()
            thread.join()


def _rewriting(base: str) -> dict[str, str]:
    rules = {f"GIT_CONFIG_KEY_{index}": f"url.{base}.insteadOf" for index in range(2)}
    addresses = {f"GIT_CONFIG_VALUE_{index}": address for index, address in enumerate((HTTPS, SSH))}
    return {"GIT_CONFIG_COUNT": "2", **rules, **addresses}
