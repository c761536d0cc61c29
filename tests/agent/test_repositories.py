"""Code from git: fetched once from real servers, whole or not at all, with one clear error for all that goes wrong."""

import asyncio
import hashlib
import os
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.caches.bounded import BoundedCache
from agent.config.model import AgentConfig
from agent.errors import LaunchFailed
from agent.launch import Cause, Launch
from agent.policy import Refused
from agent.sources.git_fetch import Kind, understood
from agent.sources.repositories import Checkout, Repositories
from protocol.job_file import GitSource
from tests.git_servers import (
    SSHD,
    HttpServer,
    Repository,
    SshServer,
    git,
    http_server,
    make_certificate,
    make_repository,
    ssh_server,
)

TOKEN = "a-token-that-nobody-may-see"


@dataclass
class Place:
    """A cache, a server and a repository on it."""

    folder: Path
    server: HttpServer
    repository: Repository
    told: list[str] = field(default_factory=list[str])
    variables: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        self.folders = BoundedCache(self.root, None, lambda: frozenset[str]())
        self.cache = self.with_variables(self.variables)

    def with_variables(self, variables: dict[str, str]) -> Repositories:
        """Return the cache as an agent with this environment has it."""
        return Repositories(self.folders, self.folder / "git", variables)

    @property
    def root(self) -> Path:
        return self.folder / "code"

    @property
    def remote(self) -> str:
        return f"{self.server.url}/{self.repository.served.name}"

    async def get(
        self, commit: str | None, remote: str | None = None, patch: str | None = None, **git: Any
    ) -> Checkout:
        """Ask for code as a job does, under a configuration's block `git`."""
        policy = {"git_http_hosts": ["127.0.0.1"], **git.pop("policy", {})}
        limits = git.pop("limits", {})
        config = AgentConfig.model_validate({"git": git, "policy": policy, "limits": limits})
        job = self.folder / "job"
        job.mkdir(exist_ok=True)
        (job / "diff.patch").unlink(missing_ok=True)
        if patch is not None:
            (job / "diff.patch").write_text(patch)
        self.launch = Launch("item", 1, "q", {}, "run")
        source = GitSource(remote or self.remote, commit)
        return await self.cache.check_out(config, self.launch, source, job, self.tell)

    async def tell(self, what: str) -> None:
        self.told.append(what)

    def kept(self) -> list[Path]:
        """Return all that is in the cache, or left from what was only needed for a moment."""
        return sorted([*self.root.glob("*"), *(self.folder / "git").glob("lookup*")])

    async def refused(self, commit: str | None, remote: str | None = None, **more: Any) -> LaunchFailed:
        """Ask for code that cannot be had; nothing is left behind."""
        before = self.kept()
        with pytest.raises(LaunchFailed) as caught:
            await self.get(commit, remote, **more)
        assert self.kept() == before
        return caught.value


@pytest.fixture(name="place")
async def _place(tmp_path: Path) -> AsyncIterator[Place]:
    async with http_server(tmp_path / "served") as server:
        repository = make_repository(tmp_path / "served", "code")
        yield Place(tmp_path, server, repository)


@pytest.fixture(name="ssh", scope="module")
def _ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if SSHD is None:
        pytest.skip("sshd is not installed: on Debian, apt-get install openssh-server")
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


# --- what is asked for ------------------------------------------------------------------------------------------------


async def test_a_commit_is_fetched_once_and_then_without_any_network(place: Place) -> None:
    first = place.repository.commit({"train.py": "1", "sub/more.py": "x"})
    place.repository.commit({"train.py": "2"})
    found = await place.get(first)
    assert found.commit == first
    assert {path.name for path in found.folder.iterdir()} == {"train.py", "sub"}, "and no repository"
    assert (found.folder / "train.py").read_text() == "1"
    place.server.requests.clear()
    assert await place.get(first) == found
    assert place.server.requests == []
    assert place.kept() == [found.folder.parent, found.folder.parent.with_suffix(".ready")]
    assert list(found.folder.parent.iterdir()) == [found.folder], "and nothing but the code"
    assert place.launch.uses == (found.folder.parent.name,)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with the program openssl")
async def test_over_https_git_believes_whom_the_agent_believes(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with http_server(tmp_path / "served", tls) as server:
        place = Place(tmp_path, server, make_repository(tmp_path / "served", "code"))
        commit = place.repository.commit({"train.py": "1"})
        error = await place.refused(commit)
        assert (error.reason, error.cause) == ("git:certificate", Cause.INFRASTRUCTURE)
        assert "SSL_CERT_FILE" in str(error)
        server.password = TOKEN
        variables = {"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(certificate), "GIT_TOKEN": TOKEN}
        place.cache = place.with_variables(variables)
        found = await place.get(commit, hosts={"127.0.0.1": {"token_env": "GIT_TOKEN"}})
        assert (found.folder / "train.py").read_text() == "1"


async def test_a_branch_is_looked_up_each_time_and_fetched_when_it_has_moved(place: Place) -> None:
    first = place.repository.commit({"train.py": "1"})
    git(place.repository.working, "tag", "v1", "-m", "with words")
    place.repository.push()
    place.repository.push("feature/x")
    second = place.repository.commit({"train.py": "2"})
    assert (await place.get("feature/x")).commit == first
    assert (await place.get("v1")).commit == first, "the commit of a tag that is an object"
    assert (await place.get("refs/tags/v1")).commit == first
    assert (await place.get("main")).commit == second
    assert (await place.get(None)).commit == second
    place.server.requests.clear()
    assert (await place.get("main")).commit == second
    assert not any("POST" in path or "git-receive" in path for path in place.server.requests)
    third = place.repository.commit({"train.py": "3"})
    found = await place.get("main")
    assert (found.commit, (found.folder / "train.py").read_text()) == (third, "3")
    assert (await place.get("refs/heads/main")).commit == third


async def test_a_short_hash_is_a_commit_and_a_branch_of_that_name_comes_first(place: Place) -> None:
    first = place.repository.commit({"train.py": "1"})
    second = place.repository.commit({"train.py": "2"})
    assert (await place.get(first[:7])).commit == first
    place.repository.push(first[:7])
    assert (await place.get(first[:7])).commit == second


async def test_servers_that_give_out_no_single_commits_give_their_history(place: Place, tmp_path: Path) -> None:
    """The plain-files protocol of http knows neither."""
    first = place.repository.commit({"train.py": "1"})
    place.repository.commit({"train.py": "2"})
    git(place.repository.served, "update-server-info")
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path / "served"), "0"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout
    try:
        port = (await process.stdout.readline()).decode().split(" port ")[1].split()[0]
        found = await place.get(first, f"http://127.0.0.1:{port}/code")
        assert (found.folder / "train.py").read_text() == "1"
    finally:
        process.terminate()
        await process.wait()


async def test_many_who_ask_at_once_wait_for_one_fetch(place: Place) -> None:
    commit = place.repository.commit({"train.py": "1"})
    found = await asyncio.gather(*(place.get(commit) for _ in range(5)))
    assert len(set(found)) == 1
    assert len([path for path in place.server.requests if "info/refs" in path]) == 1


# --- patches, submodules ----------------------------------------------------------------------------------------------


async def test_a_patch_is_applied_to_a_copy(place: Place) -> None:
    commit = place.repository.commit({"train.py": "1\n", "old.py": "gone\n"})
    (place.repository.working / "train.py").write_text("1\n2\n")
    (place.repository.working / "old.py").unlink()
    (place.repository.working / "new").mkdir()
    (place.repository.working / "new/file.bin").write_bytes(bytes(range(256)))
    git(place.repository.working, "add", "--all")
    patch = git(place.repository.working, "diff", "--binary", "--cached", "HEAD") + "\n"
    found = await place.get(commit, patch=patch)
    assert (found.folder / "train.py").read_text() == "1\n2\n"
    assert not (found.folder / "old.py").exists()
    assert (found.folder / "new/file.bin").read_bytes() == bytes(range(256))
    plain = await place.get(commit)
    assert (plain.folder / "train.py").read_text() == "1\n"
    place.server.requests.clear()
    assert await place.get(commit, patch=patch) == found
    assert place.launch.uses == (plain.folder.parent.name, found.folder.parent.name)
    assert await place.get(commit, patch=" \n") == plain
    assert place.server.requests == []


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        pytest.param("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-other\n+2\n", "does not apply", id="other text"),
        pytest.param("not a patch", "does not apply", id="no patch"),
        pytest.param("--- /dev/null\n+++ b/../out\n@@ -0,0 +1 @@\n+1\n", "does not apply", id="dots"),
        pytest.param("--- /dev/null\n+++ b//tmp/out\n@@ -0,0 +1 @@\n+1\n", "does not apply", id="absolute"),
        pytest.param("--- /dev/null\n+++ b/.git/config\n@@ -0,0 +1 @@\n+1\n", "does not apply", id="repository"),
        pytest.param("--- /dev/null\n+++ b/inner/../../out\n@@ -0,0 +1 @@\n+1\n", "does not apply", id="dots inside"),
        pytest.param(
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n"
            "\\ No newline at end of file\n",
            "a symbolic link that leads out of it ('l' leads to '/etc')",
            id="link",
        ),
        pytest.param(
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+..\n"
            "\\ No newline at end of file\ndiff --git a/l/out b/l/out\nnew file mode 100644\n"
            "--- /dev/null\n+++ b/l/out\n@@ -0,0 +1 @@\n+1\n",
            "does not apply",
            id="through a link",
        ),
    ],
)
async def test_a_patch_stays_in_its_tree(place: Place, patch: str, said: str) -> None:
    commit = place.repository.commit({"train.py": "1\n"})
    await place.get(commit)
    assert said in str(await place.refused(commit, patch=patch))
    assert not list(place.folder.rglob("out"))
    assert not Path("/tmp/out").exists()


async def test_submodules_are_fetched_where_they_are_enabled(place: Place) -> None:
    library = make_repository(place.folder / "served", "library")
    of_library = library.commit({"library.py": "1"})
    deeper = make_repository(place.folder / "served", "deeper")
    of_deeper = deeper.commit({"deep.py": "2"})
    add_submodule(library, "inner", "../deeper", of_deeper)
    of_library = library.commit()
    add_submodule(place.repository, "libs/library", f"{place.server.url}/library", of_library)
    commit = place.repository.commit({"train.py": "1"})
    without = await place.get(commit)
    assert list((without.folder / "libs/library").iterdir()) == []
    assert "leaving submodules out: git.submodules of the agent is false" in place.told
    found = await place.get(commit, submodules=True)
    assert (found.folder / "libs/library/library.py").read_text() == "1"
    assert (found.folder / "libs/library/inner/deep.py").read_text() == "2"
    place.server.requests.clear()
    assert await place.get(commit, submodules=True) == found
    assert place.server.requests == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc", "'file:///etc' is no git remote"),
        ("ext::sh -c 'touch /tmp/never'", "is no git remote"),
        ("--upload-pack=id", "is no git remote"),
        ("https://other.test/x", "Refused by `policy.git_hosts`: the job's code is on the git host 'other.test'"),
    ],
)
async def test_a_submodules_remote_is_under_the_same_rules(place: Place, url: str, said: str) -> None:
    add_submodule(place.repository, "library", url, "1" * 40)
    commit = place.repository.commit({"train.py": "1"})
    with pytest.raises(Refused) as refused:
        await place.get(commit, submodules=True, policy={"git_hosts": ["127.0.0.1"]})
    assert said in str(refused.value)
    assert place.kept() == []


async def test_links_may_not_lead_out_by_way_of_a_submodule(place: Place) -> None:
    """Until it is there the link below seems to stay in: `d/..` looks like nothing."""
    library = make_repository(place.folder / "served", "library")
    (library.working / "d").symlink_to(".")
    git(library.working, "add", "d")
    add_submodule(place.repository, "library", "../library", library.commit())
    (place.repository.working / "link").symlink_to("library/d/../../outside")
    git(place.repository.working, "add", "link")
    commit = place.repository.commit()
    await place.get(commit)
    with pytest.raises(LaunchFailed, match="has a symbolic link that leads out of it"):
        await place.get(commit, submodules=True)


def add_submodule(repository: Repository, path: str, url: str, commit: str) -> None:
    """Add a submodule without asking git whether that is wise."""
    settings = repository.working / ".gitmodules"
    settings.write_text(f'[submodule "{path}"]\n\tpath = {path}\n\turl = "{url}"\n')
    (repository.working / path).mkdir(parents=True, exist_ok=True)
    git(repository.working, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    git(repository.working, "add", ".gitmodules")
    git(repository.working, "commit", "--quiet", "--message", "a submodule")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commit", "remote", "said"),
    [
        ("no-such-branch", None, "has no 'no-such-branch': no branch, tag or commit is called so"),
        ("1" * 40, None, f"has no '{'1' * 40}': no branch, tag or commit is called so"),
        ("1111111", None, "has no '1111111': no branch, tag or commit is called so"),
        ("main", "{url}/no-such-repository", "There is no git repository at http://127.0.0.1:"),
        ("1" * 40, "{url}/no-such-repository", "There is no git repository at http://127.0.0.1:"),
        ("main", "http://127.0.0.1:9/x", "The git remote http://127.0.0.1:9/x cannot be reached"),
        ("main", "ssh://127.0.0.1:9/x", "The git remote ssh://127.0.0.1:9/x cannot be reached"),
        ("--upload-pack=touch /tmp/never", None, "cannot be a branch, a tag or a commit"),
        ("-x", None, "cannot be a branch, a tag or a commit"),
        ("main", "ext::sh -c 'touch /tmp/never'", "is no git remote that it understands"),
        ("main", "file:///etc", "is no git remote that it understands"),
        ("main", "--upload-pack=touch /tmp/never", "is no git remote that it understands"),
        ("main", "http://localhost:9/x", "Refused by `policy.git_http_hosts`"),
    ],
)
async def test_what_cannot_be_had_is_told_in_a_sentence(
    place: Place, commit: str, remote: str | None, said: str
) -> None:
    place.repository.commit({"train.py": "1"})
    error = await place.refused(commit, remote and remote.format(url=place.server.url))
    assert said in str(error)
    assert (error.cause is Cause.INFRASTRUCTURE) == ("cannot be reached" in said)
    assert not Path("/tmp/never").exists()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output", Kind.DISK_FULL),
        ("error: unable to write file data/big.bin", Kind.DISK_FULL),
        ("fatal: write error: File too large\nfatal: fetch-pack: invalid index-pack output", Kind.TOO_BIG),
        ("remote: Repository not found.\nfatal: repository 'https://g.test/x/' not found", Kind.NOT_A_REPOSITORY),
        ("remote: Host key verification failed.\nfatal: bad object", Kind.OTHER),
        ("git@g.test: Permission denied (publickey).\nfatal: Could not read from remote", Kind.AUTHENTICATION),
        ("fatal: unable to access 'https://g.test/x/': The requested URL returned error: 503", Kind.UNREACHABLE),
        ("fatal: unable to access 'https://g.test/x/': Operation too slow. Less than 1 bytes/sec", Kind.UNREACHABLE),
        ("fatal: unable to access 'https://g.test/x/': Could not resolve host: g.test", Kind.UNREACHABLE),
        (
            "ssh: Could not resolve hostname g.test: Name or service not known\n"
            "fatal: Could not read from remote repository.",
            Kind.UNREACHABLE,
        ),
        (
            "fatal: unable to access 'https://g.test/': server certificate verification failed. CAfile: none",
            Kind.CERTIFICATE,
        ),
        ("", Kind.OTHER),
    ],
)
def test_gits_words_are_understood(said: str, kind: Kind) -> None:
    """Those of faults that no test here can bring about."""
    assert understood(f"\n  stderr: '{said}'").kind is kind


@pytest.mark.parametrize("version", ["git version 2.31.9", None])
async def test_a_machine_without_a_new_git_says_so(place: Place, version: str | None) -> None:
    programs = place.folder / "programs"
    programs.mkdir()
    if version:
        (programs / "git").write_text(f"#!/bin/sh\necho {version}\n")
        (programs / "git").chmod(0o755)
    place.cache = place.with_variables({"PATH": str(programs)})
    error = await place.refused("main")
    assert "The agent's machine has no git that can be used" in str(error)
    assert error.cause is Cause.INFRASTRUCTURE


async def test_an_empty_repository_has_no_default_branch(place: Place) -> None:
    assert "has no default branch" in str(await place.refused(None))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "inner/../../outside", "way/passwd"])
async def test_links_out_of_the_tree_are_refused(place: Place, target: str) -> None:
    (place.repository.working / "link").symlink_to(target)
    (place.repository.working / "way").symlink_to("/etc" if target.startswith("way") else "train.py")
    (place.repository.working / "train.py").write_text("1")
    git(place.repository.working, "add", "--all")
    commit = place.repository.commit()
    assert "has a symbolic link that leads out of it" in str(await place.refused(commit))


async def test_links_inside_the_tree_stay_links(place: Place) -> None:
    (place.repository.working / "sub").mkdir()
    (place.repository.working / "sub/link").symlink_to("../train.py")
    (place.repository.working / "nowhere").symlink_to("no-such-file")
    git(place.repository.working, "add", "--all")
    found = await place.get(place.repository.commit({"train.py": "1"}))
    assert (found.folder / "sub/link").readlink() == Path("../train.py")
    assert (found.folder / "nowhere").is_symlink()


async def test_a_file_that_is_too_big_is_never_written(place: Place) -> None:
    """A gigabyte of zeros is a megabyte on its way; what counts is what it would be here."""
    with (place.repository.working / "zeros").open("wb") as file:
        file.truncate(8 << 20)
    git(place.repository.working, "add", "zeros")
    commit = place.repository.commit()
    error = await place.refused(commit, limits={"file": "4MiB"})
    assert "is bigger than `limits.file` of the agent, 4MiB ('zeros' has 8388608 bytes)." in str(error)
    assert "is bigger than `limits.total` of the agent, 4MiB (" in str(
        await place.refused(commit, limits={"total": "4MiB"})
    )
    found = await place.get(commit, limits={"file": None, "total": None})
    assert (found.folder / "zeros").stat().st_size == 8 << 20


async def test_what_is_too_big_to_fetch_is_not_fetched_to_its_end(place: Place) -> None:
    (place.repository.working / "noise").write_bytes(os.urandom(2 << 20))
    git(place.repository.working, "add", "noise")
    commit = place.repository.commit()
    error = await place.refused(commit, limits={"total": "1MiB"})
    assert "is bigger than `limits.total` of the agent, 1MiB (fatal: write error: File too large)." in str(error)


async def test_many_small_files_are_too_big_as_well(place: Place) -> None:
    """Seven trees of ten entries each, one in the other, are ten million files in a few hundred bytes."""
    served = place.repository.served
    blob = made(served, "hash-object", "-w", "--stdin", given="x")
    tree = made(served, "mktree", given="".join(f"100644 blob {blob}\t{index}\n" for index in range(10)))
    for _ in range(6):
        tree = made(served, "mktree", given="".join(f"040000 tree {tree}\t{index}\n" for index in range(10)))
    commit = git(served, "commit-tree", "-m", "bomb", tree)
    git(served, "update-ref", "refs/heads/main", commit)
    assert "is bigger than `limits.total`" in str(await place.refused(commit, limits={"total": "16MiB"}))


async def test_a_file_that_asks_for_any_amount_of_memory_gets_a_little(place: Place) -> None:
    """A difference says how big its result will be, and git asks for that much before it reads on."""
    served = place.repository.served
    claimed = 6 << 30
    files = enumerate(_put_difference(served, claimed))
    tree = made(served, "mktree", given="".join(f"100644 blob {name}\t{number}\n" for number, name in files))
    commit = git(served, "commit-tree", "-m", "bomb", tree)
    git(served, "update-ref", "refs/heads/main", commit)
    error = str(await place.refused(commit, limits={"file": None, "total": None}))
    assert f"Out of memory, malloc failed (tried to allocate {claimed + 1} bytes)" in error


def _put_difference(served: Path, size: int) -> list[str]:
    """Put a pack with two files into a repository, the second as a difference that claims this many bytes.

    Returns their names. The second's is made up: to know the true one, one would need the bytes.
    """
    base, name = b"base", hashlib.sha1(b"anything", usedforsecurity=False).digest()
    base_name = hashlib.sha1(b"blob %d\0%s" % (len(base), base), usedforsecurity=False).digest()
    difference = _number(len(base)) + _number(size) + b"\1x"  # and one byte is all that comes
    plain, refers = 3, 7
    entries = {
        base_name: bytes([plain << 4 | len(base)]) + zlib.compress(base),
        name: bytes([refers << 4 | len(difference)]) + base_name + zlib.compress(difference),
    }
    pack, offsets = b"PACK" + struct.pack("!II", 2, len(entries)), dict[bytes, int]()
    for each, entry in entries.items():
        offsets[each] = len(pack)
        pack += entry
    pack += hashlib.sha1(pack, usedforsecurity=False).digest()
    names = sorted(entries)
    index = b"\377tOc" + struct.pack("!I", 2)
    index += struct.pack("!256I", *(sum(each[0] <= first for each in names) for first in range(256)))
    index += b"".join(names)
    index += struct.pack(f"!{len(names)}I", *(zlib.crc32(entries[each]) for each in names))
    index += struct.pack(f"!{len(names)}I", *(offsets[each] for each in names))
    index += pack[-20:]
    index += hashlib.sha1(index, usedforsecurity=False).digest()
    path = served / "objects" / "pack" / f"pack-{pack[-20:].hex()}"
    path.with_suffix(".pack").write_bytes(pack)
    path.with_suffix(".idx").write_bytes(index)
    return [base_name.hex(), name.hex()]


def _number(number: int) -> bytes:
    """Write a number as git does: seven bits a byte, the lowest first, and a mark where more follow."""
    return (bytes([number & 0x7F | 0x80]) + _number(number >> 7)) if number > 0x7F else bytes([number])


def made(folder: Path, *arguments: str, given: str) -> str:
    """Run git with something on its standard input."""
    return subprocess.run(
        ["git", *arguments], cwd=folder, input=given, capture_output=True, text=True, check=True
    ).stdout.strip()


async def test_what_is_too_slow_is_killed(place: Place) -> None:
    commit = place.repository.commit({"train.py": "1"})
    place.server.delay = 30
    error = await place.refused(commit, timeout=0.5)
    assert str(error) == f"Fetching from {place.remote} took longer than 0.5 seconds (git.timeout of the agent)."
    assert processes(place) == []


async def test_a_stop_kills_it(place: Place) -> None:
    commit = place.repository.commit({"train.py": "1"})
    place.server.delay = 30
    fetching = asyncio.create_task(place.get(commit))
    await place.server.asked.wait()
    assert processes(place)
    fetching.cancel()
    await asyncio.wait([fetching])
    assert fetching.cancelled()
    assert processes(place) == []
    assert place.kept() == []


def processes(place: Place) -> list[bytes]:
    """Return the command lines of all that works in this place's folders: git, and what it started."""
    found: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            working = str((path / "cwd").readlink())
            if working.startswith(str(place.folder)):
                found.append((path / "cmdline").read_bytes())
        except OSError:
            continue
    return found


AGENT = """
import asyncio, json, os, sys
from pathlib import Path
from agent.config.model import AgentConfig
from agent.sources.git_fetch import Kind, understood
from agent.caches.bounded import BoundedCache
from agent.launch import Launch
from agent.sources.repositories import Repositories
from protocol.job_file import GitSource
async def tell(_): pass
folder, remote, commit = sys.argv[1:]
cache = Repositories(BoundedCache(Path(folder), None, set), Path(folder, "git"), dict(os.environ))
config = AgentConfig.model_validate({"policy": {"git_http_hosts": ["127.0.0.1"]}})
asyncio.run(cache.check_out(config, Launch("item", 1, "q", {}, "run"), GitSource(remote, commit), None, tell))
"""


async def test_what_a_killed_agent_leaves_ends_and_is_removed(place: Place) -> None:
    commit = place.repository.commit({"train.py": "1"})
    place.server.delay = 30
    command = [sys.executable, "-c", AGENT, str(place.root), place.remote, commit]
    process = await asyncio.create_subprocess_exec(*command)
    await place.server.asked.wait()
    assert processes(place)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with asyncio.timeout(120):
        while processes(place):  # noqa: ASYNC110 -- it happens in other processes
            await asyncio.sleep(0.02)
    assert [path.suffix for path in place.kept()] == [""]
    await place.folders.sweep()
    assert place.kept() == []
    place.server.delay = 0
    assert (await place.get(commit)).commit == commit


async def test_what_a_killed_agent_was_looking_up_is_removed(place: Place) -> None:
    (place.folder / "git" / "lookup-x").mkdir(parents=True)
    (place.folder / "git" / "known_hosts").touch()
    place.cache.remove_leftovers()
    assert [path.name for path in (place.folder / "git").iterdir()] == ["known_hosts"]


async def test_nothing_of_a_repository_runs(place: Place, tmp_path: Path) -> None:
    """Neither hooks, nor filters, nor what the user's own configuration says."""
    touch = f"touch {tmp_path}/never"
    (tmp_path / ".gitconfig").write_text(
        f'[filter "evil"]\n\tsmudge = {touch}\n\tprocess = {touch}\n[core]\n\tsshCommand = {touch}\n'
        f'\tfsmonitor = {touch}\n[credential]\n\thelper = "!{touch}"\n[alias]\n\tfetch = "!{touch}"\n'
    )
    place.variables |= {"HOME": str(tmp_path), "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor"}
    place.variables |= {"GIT_CONFIG_VALUE_0": touch, "GIT_EXEC_PATH": str(tmp_path), "GIT_SSH_COMMAND": touch}
    place.cache = place.with_variables(place.variables)
    commit = place.repository.commit(
        {".gitattributes": "* filter=evil\n", "hooks/post-checkout": f"#!/bin/sh\n{touch}\n", "train.py": "1"}
    )
    assert ((await place.get(commit)).folder / "train.py").read_text() == "1"
    assert not (tmp_path / "never").exists()


async def test_a_remote_elsewhere_is_followed_only_where_any_host_may_be(place: Place) -> None:
    commit = place.repository.commit({"train.py": "1"})
    async with http_server(place.folder / "nothing") as moved:
        moved.redirect = place.server.url
        remote = f"{moved.url}/code"
        error = await place.refused(commit, remote, policy={"git_hosts": ["127.0.0.1"]})
        assert "is elsewhere now" in str(error)
        assert (await place.get(commit, remote)).commit == commit


# --- private repositories ---------------------------------------------------------------------------------------------


async def test_a_token_is_given_to_its_host_and_stands_nowhere(place: Place) -> None:
    place.server.password = TOKEN
    commit = place.repository.commit({"train.py": "1"})
    error = await place.refused(commit)
    assert "needs authentication" in str(error)
    assert "`git.hosts.127.0.0.1.token_file`" in str(error)
    (place.folder / "token").write_text(f"{TOKEN}\n")
    mine = {"127.0.0.1": {"token_file": str(place.folder / "token")}}
    place.server.delay = 0.3
    fetching = asyncio.create_task(place.get(commit, hosts=mine))
    seen: set[bytes] = set()
    while not fetching.done():
        seen.update(processes(place))
        await asyncio.sleep(0.02)
    assert (await fetching).commit == commit
    assert any(b"remote-http" in command for command in seen)
    assert not any(TOKEN.encode() in command for command in seen)
    assert not any(TOKEN.encode() in path.read_bytes() for path in place.root.rglob("*") if path.is_file())
    wrong = {"127.0.0.1": {"token_env": "GIT_TOKEN"}}
    assert "token for the git host 127.0.0.1 cannot be read" in str(await place.refused("main", hosts=wrong))
    place.variables["GIT_TOKEN"] = "another-token"
    assert "does not accept what the agent has for it" in str(await place.refused("main", hosts=wrong))
    place.variables["GIT_TOKEN"] = TOKEN
    assert (await place.get("main", hosts=wrong)).commit == commit
    other = {"other.test": {"token_env": "GIT_TOKEN"}}
    assert "needs authentication" in str(await place.refused("main", hosts=other))


async def test_a_password_in_the_remote_is_used_and_shown_to_nobody(place: Place) -> None:
    place.server.password = TOKEN
    commit = place.repository.commit({"train.py": "1"})
    remote = place.remote.replace("http://", f"http://git:{TOKEN}@")
    found = await place.get(commit, remote)
    assert found.remote == place.remote
    wrong = await place.refused("main", remote.replace(TOKEN, "another-secret-of-mine"))
    assert "does not accept the password in the job's remote" in str(wrong)
    assert TOKEN not in str(place.told)
    assert "another-secret" not in str([wrong, wrong.log, place.told])
    error = await place.refused(commit)
    assert "needs authentication" in str(error), "who has no password does not get what was fetched with one"


async def test_ssh(place: Place, ssh: SshServer) -> None:
    commit = place.repository.commit({"train.py": "1"})
    remote = f"{ssh.url}{place.repository.served}"
    mine = {"127.0.0.1": {"key_file": str(ssh.key_file)}}
    known = {"known_hosts": str(ssh.known_hosts)}
    for reference in (commit, "main", commit[:8]):
        found = await place.get(reference, remote, hosts=mine, **known)
        assert (found.commit, (found.folder / "train.py").read_text()) == (commit, "1")
    assert "needs authentication" in str(await place.refused("main", remote, **known))
    error = await place.refused("main", remote, hosts=mine, known_hosts=os.devnull)
    assert "The ssh key of the git host 127.0.0.1 is unknown" in str(error)
    lost = await place.refused("main", f"{ssh.url}/no/such/place", hosts=mine, **known)
    assert "There is no git repository at ssh://" in str(lost)


async def test_new_ssh_hosts_may_be_trusted_and_changed_ones_are_not(place: Place, ssh: SshServer) -> None:
    commit = place.repository.commit({"train.py": "1"})
    remote = f"{ssh.url}{place.repository.served}"
    mine: dict[str, Any] = {"hosts": {"127.0.0.1": {"key_file": str(ssh.key_file)}}, "accept_new_hosts": True}
    assert (await place.get(commit, remote, **mine)).commit == commit
    known = place.folder / "git" / "known_hosts"
    assert "ssh-ed25519" in known.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place.folder / "other")], check=True)
    name = known.read_text().split()[0]
    known.write_text(f"{name} {(place.folder / 'other.pub').read_text()}")
    assert "unknown, or not the one that is known" in str(await place.refused("main", remote, **mine))
