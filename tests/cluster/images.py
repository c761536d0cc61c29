"""Images for a cluster that pulls none, made of this machine's files, as archives that containerd imports."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import engines
from tests.agent.building import parts

# By the names of public images, so that tests run unchanged in a cluster that pulls them.
BUSYBOX = "docker.io/library/busybox:stable"
PYTHON = "docker.io/library/python:3.11-slim"
PAUSE = "launchbay.test/pause:1"


def write_all(folder: Path) -> list[Path]:
    """Write the archives of the images that every cluster has."""
    pause = shutil.which("catatonit")
    assert pause
    listed = subprocess.run([engines.BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    applets = {f"bin/{name}": "busybox" for name in listed if name != "busybox"}
    pythons = {f"usr/local/bin/{name}": "python3.11" for name in ("python", "python3")}
    return [
        write(folder / "pause.tar", PAUSE, [layer({"pause": Path(pause).read_bytes()}, {})], ["/pause", "-P"]),
        write(folder / "busybox.tar", BUSYBOX, [engines.busybox_root({}), layer({}, applets)], ["sh"]),
        write(folder / "python.tar", PYTHON, [parts.python_root(), layer({}, pythons)], ["python3"]),
    ]


def write(path: Path, name: str, layers: Sequence[bytes], command: Sequence[str], **config: Any) -> Path:
    """Write the archive of an image, with what more its configuration says; returns the path."""
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    about = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command), "Env": environment, **config},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in layers],
        },
    }
    names = [f"layer-{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    with tarfile.open(path, "w") as tar:
        _add(tar, "config.json", json.dumps(about).encode())
        for layer_name, content in zip(names, layers, strict=True):
            _add(tar, layer_name, content)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return path


def layer(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    """Return a layer with files and symbolic links."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, data in files.items():
            _add(tar, name, data)
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(entry)
    return output.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o755
    tar.addfile(entry, io.BytesIO(data))
