"""A real PostgreSQL for tests: a cluster of its own, which needs nothing but the installed programs."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """Return the folder of the server's programs, of the newest version; None if PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    versions = [folder for folder in DEBIAN_PROGRAMS.glob("*/bin") if (folder / "initdb").exists()]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


@dataclass
class Cluster:
    """A running server, reached through a socket in its folder."""

    folder: Path
    account: str | None
    """The account that it runs as; PostgreSQL refuses to run as root."""
    programs: Path
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"test_{next(self._numbers)}"
        self.sql(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def copy_of(self, url: str) -> str:
        """Make a copy of a database that nobody uses; returns its URL."""
        name = f"test_{next(self._numbers)}"
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE "{_name(url)}" STRATEGY FILE_COPY')
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever still uses it."""
        self.sql(f'DROP DATABASE "{_name(url)}" WITH (FORCE)')

    def empty(self, url: str, tables: Sequence[str]) -> None:
        """Make a database as it was before anybody used it, also one that somebody still uses."""
        others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        statements = [
            f"SELECT pg_terminate_backend(pid) FROM {others}",  # noqa: S608 -- all of it is ours
            "SET session_replication_role = replica",  # no foreign key is checked
            *(f'DELETE FROM "{table}"' for table in tables),  # noqa: S608
            "SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S'",
        ]
        self.sql("; ".join(statements), _name(url))

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement; returns what it prints."""
        return self.run("psql", "-X", "-q", "-t", "-A", "-d", self.url(database), "-c", statement)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end."""
        done = subprocess.run(
            [*self._as_account(), str(self.programs / program), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def _as_account(self) -> list[str]:
        return (
            ["setpriv", f"--reuid={self.account}", f"--regid={self.account}", "--clear-groups"] if self.account else []
        )


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


@contextmanager
def running() -> Generator[Cluster]:
    """Run a cluster. It does not outlive the block, and forgets everything in a power cut."""
    # Not below pytest's folders: the path of a socket has about a hundred characters, and all may enter this one.
    with tempfile.TemporaryDirectory(prefix="launchbay-pg-", dir="/tmp") as folder:
        yield from _running(Path(folder))


def _running(folder: Path) -> Generator[Cluster]:
    found = programs()
    assert found is not None
    account = "postgres" if os.geteuid() == 0 else None
    if account:
        owner = pwd.getpwnam(account)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    cluster = Cluster(folder, account, found)
    data = str(folder / "data")
    cluster.run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
    settings = f"-c listen_addresses= -k {folder} -c fsync=off -c full_page_writes=off -c max_connections=200"
    log = str(folder / "log")
    cluster.run("pg_ctl", "-D", data, "-l", log, "-w", "-o", settings, "start")
    try:
        yield cluster
    finally:
        cluster.run("pg_ctl", "-D", data, "-m", "immediate", "stop")
