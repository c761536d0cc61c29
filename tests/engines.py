"""Real container engines for tests: Docker and Podman, each with a folder of its own, and nothing of the machine's."""

import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException

BUSYBOX = Path("/bin/busybox")
IMAGE = "localhost/launchbay-test:latest"
START_SECONDS = 120.0
APPLETS = ("sh", "env", "pwd", "sleep", "cat", "id", "tail", "touch", "echo", "grep", "hostname", "true")


@dataclass
class Engine:
    """A running engine."""

    url: str
    folder: Path
    process: "subprocess.Popen[bytes]"
    is_podman: bool

    def client(self) -> Any:
        """Return a client of the docker package."""
        return docker.APIClient(base_url=self.url, timeout=240)

    def pause(self) -> None:
        """Have it answer nobody."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self.process.send_signal(signal.SIGCONT)


def missing(programs: Sequence[str]) -> str | None:
    """Return why an engine cannot be started here; None if it can."""
    if os.geteuid() != 0:
        return "container engines of their own are for root"
    absent = [name for name in (*programs, "busybox") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@contextmanager
def running_docker() -> Generator[Engine]:
    """Run a Docker Engine. It has no network but its host's."""
    with _folder() as folder:
        (folder / "config.json").write_text("{}")
        command = [
            *("dockerd", "--config-file", str(folder / "config.json"), "--host", f"unix://{folder}/docker.sock"),
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--pidfile", str(folder / "pid"), "--bridge", "none", "--iptables=false", "--log-level", "warn"),
        ]
        yield from _running(command, folder, folder / "docker.sock", is_podman=False)


@contextmanager
def running_podman() -> Generator[Engine]:
    """Run Podman's service."""
    with _folder() as folder:
        path = folder / "podman.sock"
        command = [
            *("podman", "--root", str(folder / "data"), "--runroot", str(folder / "run"), "--tmpdir"),
            *(str(folder / "tmp"), "--cgroup-manager", "cgroupfs", "--runtime", "runc", "--storage-driver", "overlay"),
            *("--events-backend", "file", "system", "service", "--time", "0", f"unix://{path}"),
        ]
        yield from _running(command, folder, path, is_podman=True)


@contextmanager
def _folder() -> Generator[Path]:
    # Not below pytest's folders: the path of a socket has about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="launchbay-engine-", dir="/tmp") as folder:
        yield Path(folder)


def _running(command: Sequence[str], folder: Path, path: Path, *, is_podman: bool) -> Generator[Engine]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    engine = Engine(f"unix://{path}", folder, process, is_podman)
    try:
        client = _client(engine)
        import_image(client)
        yield engine
        for container in client.containers(all=True):
            client.remove_container(container["Id"], force=True, v=True)
        client.close()
    finally:
        process.terminate()
        process.wait(START_SECONDS)
        _unmount(folder)


def _client(engine: Engine) -> Any:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return engine.client()
        except DockerException:
            log = (engine.folder / "log").read_text(errors="replace")
            assert engine.process.poll() is None, f"the engine has ended: {log}"
            assert time.monotonic() < deadline, f"the engine does not answer: {log}"
            time.sleep(0.1)


def _unmount(folder: Path) -> None:
    """Unmount what an engine leaves mounted in its folder, deepest first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(str(folder))), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)


def import_image(
    client: Any, name: str = IMAGE, changes: Sequence[str] = (), files: Mapping[str, bytes] | None = None
) -> None:
    """Make an image of busybox alone."""
    repository, _, tag = name.rpartition(":")
    client.import_image_from_data(busybox_root(files or {}), repository=repository, tag=tag, changes=list(changes))


def busybox_root(files: Mapping[str, bytes]) -> bytes:
    """Return a root file system of busybox and some more files, as an archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("usr/bin", 0o755), ("tmp", 0o1777), ("etc", 0o755)):
            tar.addfile(_entry(name, tarfile.DIRTYPE, mode))
        program = _entry("bin/busybox", tarfile.REGTYPE, 0o755)
        program.size = BUSYBOX.stat().st_size
        with BUSYBOX.open("rb") as file:
            tar.addfile(program, file)
        for applet in APPLETS:
            for folder in ("bin", "usr/bin"):
                link = _entry(f"{folder}/{applet}", tarfile.SYMTYPE, 0o777)
                link.linkname = "/bin/busybox"
                tar.addfile(link)
        for name, data in {"etc/passwd": b"root:x:0:0:root:/tmp:/bin/sh\n", **files}.items():
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


# --- registries ------------------------------------------------------------------------------------------------------

USER, PASSWORD = "jane", "open sesame"
HTPASSWD = f"{USER}:$2b$04$fc4v5RQOOOzz9H1kRJF9fOMmfq0uFBopqkmnFyZ6OycCkkBihWBGS\n"  # bcrypt
REGISTRY = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}
http: {{addr: "{address}"}}
"""
WITH_PASSWORDS = "auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n"


@dataclass
class Registry:
    """A running registry on this machine."""

    address: str
    process: "subprocess.Popen[bytes]"

    def hang(self) -> None:
        """Have it answer nobody."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self.process.send_signal(signal.SIGCONT)

    def offer(self, engine: Engine, name: str, changes: Sequence[str] = ()) -> str:
        """Have it offer an image that the engine does not have; returns the image's name."""
        image = f"{self.address}/{name}"
        with engine.client() as client:
            import_image(client, image, changes, {"etc/name": name.encode()})
            said = client.push(image, auth_config={"username": USER, "password": PASSWORD})
            assert '"error"' not in said, said
            client.remove_image(image)
        return image


@contextmanager
def running_registry(*, is_private: bool = False) -> Generator[Registry]:
    """Run a registry of images, which wants a password if it is private."""
    with _folder() as folder:
        address = f"127.0.0.1:{free_port()}"
        text = REGISTRY + (WITH_PASSWORDS if is_private else "")
        (folder / "config.yml").write_text(text.format(folder=folder, address=address))
        (folder / "htpasswd").write_text(HTPASSWD)
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(address, process)
            yield Registry(address, process)
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as one:
            if one.connect_ex((host, int(port))) == 0:
                return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
