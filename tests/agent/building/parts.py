"""Real parts for tests of images: an engine and a registry of their own, and a base image made of this machine."""

import io
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
from uv import find_uv_bin

from agent.building.buildx import find_buildx
from agent.errors import LaunchFailed

START_SECONDS = 120.0
SHELL = "launchbay-test/shell:1"
PYTHON = "launchbay-test/python:1"
PROGRAMS = ("sh", "grep", "cat", "sleep", "ls", "id", "env", "cp", "touch", "mkdir")
USER, PASSWORD = "agent", "a-password-of-the-registry"
PASSWORD_HASH = "$2b$04$dFeq0Gm5ZNcj/NFtUHq3AOCmw7Nn/Tx.BE.XNm0uJbguGfYyQRAtS"
LEFT_OUT = frozenset({"site-packages", "test", "tests", "idlelib", "__pycache__", "tkinter", "turtledemo", "lib2to3"})


@dataclass(frozen=True)
class Engine:
    """A container engine."""

    url: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a program is to be run with that uses it, and no configuration of whoever runs the tests."""
        return {"PATH": os.environ["PATH"], "DOCKER_HOST": self.url, "DOCKER_CONFIG": str(self.folder / "config")}

    def client(self) -> docker.DockerClient:
        """Return a client, which somebody has to close."""
        return docker.DockerClient(base_url=self.url)


@contextmanager
def engine() -> Generator[Engine]:
    """Run Docker's engine while the block runs. Steps of builds want a bridge, and this one leads nowhere."""
    number = os.getpid() % 250
    bridge = f"launchbay{number}"
    # Not below pytest's folders: the path of a socket has about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="launchbay-builds-", dir="/tmp") as name:
        folder = Path(name)
        for command in (f"add {bridge} type bridge", f"set {bridge} up"):
            subprocess.run(["ip", "link", *command.split()], check=True)
        subprocess.run(["ip", "address", "add", f"172.31.{number}.1/24", "dev", bridge], check=True)
        command = [
            *("dockerd", "--host", f"unix://{folder}/docker.sock", "--pidfile", str(folder / "pid")),
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--log-level", "warn"),
            *("--bridge", bridge, "--iptables=false", "--ip-masq=false", "--ip-forward=false"),
        ]
        try:
            with _running(command, folder, lambda: _answers(folder / "docker.sock")):
                yield Engine(f"unix://{folder}/docker.sock", folder)
        finally:
            subprocess.run(["ip", "link", "delete", bridge], check=False)
            _unmount(folder)


@contextmanager
def registry(folder: Path, *, is_private: bool = False, address: str = "127.0.0.1") -> Generator[str]:
    """Run a registry while the block runs; gives its host. A private one is for `USER` with `PASSWORD` alone."""
    host = f"{address}:{free_port()}"
    lines = ["version: 0.1", "log: {level: warn}", f"http: {{addr: '{host}'}}"]
    lines += [f"storage: {{filesystem: {{rootdirectory: '{folder / 'blobs'}'}}}}"]
    if is_private:
        users = folder / "htpasswd"
        users.write_text(f"{USER}:{PASSWORD_HASH}\n")
        lines += [f"auth: {{htpasswd: {{realm: r, path: '{users}'}}}}"]
    (folder / "config.yml").write_text("\n".join(lines))
    there = (address, int(host.partition(":")[2]))
    with _running(["docker-registry", "serve", str(folder / "config.yml")], folder, lambda: _listens(there)):
        yield host


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def buildkit(name: str, environment: Mapping[str, str]) -> Generator["subprocess.Popen[bytes]"]:
    """Run BuildKit's own daemon, which has built nothing yet, as a builder of the plugin's while the block runs."""
    plugin = str(find_buildx(environment))
    with tempfile.TemporaryDirectory(prefix="launchbay-buildkit-", dir="/tmp") as given:
        folder = Path(given)
        path = folder / "buildkitd.sock"
        command = [
            *("buildkitd", "--root", str(folder / "root"), "--addr", f"unix://{path}", "--containerd-worker=false"),
            # Without a network of its own, and without overlay mounts, which not every machine has.
            *("--oci-worker-net", "host", "--oci-worker-snapshotter", "native"),
        ]
        with _running(command, folder, lambda: _answers(path)) as process:
            words = ["create", "--name", name, "--driver", "remote", f"unix://{path}"]
            subprocess.run([plugin, *words], env=environment, check=True, capture_output=True)
            try:
                yield process
            finally:
                subprocess.run([plugin, "rm", name], env=environment, check=False, capture_output=True)
        _unmount(folder)


def missing() -> str | None:
    """Return why images cannot be built here; None if they can."""
    if os.geteuid() != 0:
        return "a container engine of the tests' own is for root"
    absent = [name for name in ("dockerd", "docker-registry", "ip") if shutil.which(name) is None]
    try:
        find_buildx(dict(os.environ))
    except LaunchFailed:
        absent.append("docker-buildx")
    return f"not installed: {', '.join(absent)}" if absent else None


def make_shell_image(client: docker.DockerClient) -> None:
    """Make an image with a shell, of this machine's files."""
    _import(client, SHELL, _root([]))


def make_python_image(client: docker.DockerClient) -> None:
    """Make an image with Python, a shell and what uv needs, of this machine's files."""
    _import(client, PYTHON, python_root())


def python_root() -> bytes:
    """Return a root file system with Python, a shell and what uv needs, of this machine's files, as an archive."""
    return _root([Path(sysconfig.get_path("stdlib"))])


def _import(client: docker.DockerClient, name: str, root: bytes) -> None:
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(root, repository=repository, tag=tag)


def _root(folders: Sequence[Path]) -> bytes:
    shells = [Path(found) for program in PROGRAMS if (found := shutil.which(program))]
    python = Path(sys.executable).resolve()
    programs = [*shells, *([python] if folders else [])]
    needy = [*programs, *([Path(find_uv_bin())] if folders else [])]
    needy += [file for folder in folders for file in folder.glob("lib-dynload/*.so")]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for folder in folders:
            tar.add(folder, str(folder).lstrip("/"), filter=_kept)
        # At the places where the loader looks for them, with the content that links lead to.
        for file in {*programs, *libraries(needy)}:
            tar.add(file.resolve(), str(file).lstrip("/"))
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        for link, target in ((f"usr/local/bin/python{version}", str(python)), ("bin/sh", shutil.which("sh"))):
            if target != f"/{link}":
                tar.addfile(_entry(link, tarfile.SYMTYPE, target or ""))
        tar.addfile(_entry("tmp", tarfile.DIRTYPE))
        users = b"root:x:0:0:root:/root:/bin/sh\n"
        entry = _entry("etc/passwd", tarfile.REGTYPE)
        entry.size, entry.mode = len(users), 0o644
        tar.addfile(entry, io.BytesIO(users))
    return output.getvalue()


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    if name in LEFT_OUT or name.startswith("config-") or name.endswith(".a"):
        return None
    entry.mode |= 0o755 if entry.isdir() else 0o644
    return entry


def _entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, target, 0o1777
    return entry


def libraries(files: list[Path]) -> set[Path]:
    """Return the shared libraries that programs need, by the paths that the loader looks for."""
    listed = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    words = [word for line in listed.splitlines() if not line.endswith(":") for word in line.split()]
    return {Path(word) for word in words if word.startswith("/") and ".so" in word}


@contextmanager
def _running(command: list[str], folder: Path, is_ready: Callable[[], bool]) -> Generator["subprocess.Popen[bytes]"]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} does not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unmount(folder: Path) -> None:
    """Unmount what an engine leaves mounted in its folder, deepest first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(str(folder))), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(address) == 0
