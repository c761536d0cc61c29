"""Real parts for tests of images: a container engine and a registry of their own, and a base image made of this machine."""

import io
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
from uv import find_uv_bin

START_SECONDS = 30.0
BASE = "launchbay-test/base:1"
PROGRAMS = ("sh", "grep", "cat", "sleep", "ls", "id", "env", "cp", "touch", "mkdir")
USER, PASSWORD = "agent", "a-password-of-the-registry"
PASSWORD_HASH = "$2b$04$dFeq0Gm5ZNcj/NFtUHq3AOCmw7Nn/Tx.BE.XNm0uJbguGfYyQRAtS"
LEFT_OUT = frozenset({"site-packages", "test", "tests", "idlelib", "__pycache__", "tkinter", "turtledemo", "lib2to3"})


@dataclass(frozen=True)
class Engine:
    """A container engine."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a program is to be run with that uses it."""
        return {"PATH": os.environ["PATH"], "DOCKER_HOST": self.url}

    def client(self) -> docker.DockerClient:
        """Return a client, which somebody has to close."""
        return docker.DockerClient(base_url=self.url)


@contextmanager
def engine(folder: Path) -> Generator[Engine]:
    """Run Docker's engine, without a network of its own, while the block runs."""
    path = folder / "docker.sock"
    command = [
        "dockerd",
        *("--host", f"unix://{path}", "--pidfile", str(folder / "pid")),
        *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
        *("--bridge=none", "--iptables=false", "--ip-masq=false"),
    ]
    with _running(command, folder, lambda: _answers(path)):
        yield Engine(f"unix://{path}")


@contextmanager
def registry(folder: Path, *, is_private: bool = False) -> Generator[str]:
    """Run a registry while the block runs; gives its host. A private one is for `USER` with `PASSWORD` alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    lines = ["version: 0.1", "log: {level: warn}", f"http: {{addr: '{host}'}}"]
    lines += [f"storage: {{filesystem: {{rootdirectory: '{folder / 'blobs'}'}}}}"]
    if is_private:
        users = folder / "htpasswd"
        users.write_text(f"{USER}:{PASSWORD_HASH}\n")
        lines += [f"auth: {{htpasswd: {{realm: r, path: '{users}'}}}}"]
    (folder / "config.yml").write_text("\n".join(lines))
    address = (host.partition(":")[0], int(host.partition(":")[2]))
    with _running(["docker-registry", "serve", str(folder / "config.yml")], folder, lambda: _listens(address)):
        yield host


def missing(*programs: str) -> list[str]:
    """Return which of these programs are not installed."""
    return [program for program in programs if shutil.which(program) is None]


def base_image(client: docker.DockerClient) -> str:
    """Make an image with Python, a shell and what uv needs, of this machine's files."""
    client.api.import_image_from_data(b"".join(_tar()), repository=BASE.partition(":")[0], tag="1")
    return BASE


def _tar() -> Iterator[bytes]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    python = Path(sys.executable).resolve()
    programs = [python, Path(find_uv_bin()), *(Path(found) for name in PROGRAMS if (found := shutil.which(name)))]
    extensions = [*(stdlib / "lib-dynload").glob("*.so")]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        tar.add(stdlib, str(stdlib).lstrip("/"), filter=_kept)
        for file in {*_libraries([*programs, *extensions]), *programs} - {Path(find_uv_bin())}:
            # At its own place, and where it leads to: /lib may be a link to /usr/lib.
            tar.add(file.resolve(), str(file).lstrip("/"))
        for name, target in {"usr/local/bin/python3.11": python, "usr/local/bin/python3": python}.items():
            tar.addfile(_link(name, str(target)))
        for name, content in {
            "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
            "etc/group": b"root:x:0:\n",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
        if not any(str(program) == "/bin/sh" for program in programs):
            tar.addfile(_link("bin/sh", shutil.which("sh") or "/bin/sh"))
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(entry)
    yield output.getvalue()


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    if name in LEFT_OUT or name.startswith("config-") or name.endswith(".a"):
        return None
    entry.mode |= 0o755 if entry.isdir() else 0o644
    return entry


def _link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def _libraries(files: list[Path]) -> set[Path]:
    """Return the shared libraries that programs need, by the paths that the loader looks for."""
    listed = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    words = [word for line in listed.splitlines() if not line.endswith(":") for word in line.split()]
    return {Path(word) for word in words if word.startswith("/") and ".so" in word}


@contextmanager
def _running(command: list[str], folder: Path, is_ready: Callable[[], bool]) -> Generator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} does not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
