"""An image of rootless BuildKit, of this machine's files: as `moby/buildkit:rootless`, by its own Dockerfile."""

import io
import shutil
import struct
import tarfile
from pathlib import Path

from tests import engines
from tests.agent.building.parts import libraries
from tests.cluster import images

NAME = "docker.io/library/buildkit:rootless"
PROGRAMS = ("buildkitd", "buildctl", "buildctl-daemonless.sh", "rootlesskit")
HELPERS = {"newuidmap": 7, "newgidmap": 6}
"""Those that map accounts, with the number of the capability that each has, whoever calls it."""
APPLETS = ("sh", "cat", "sleep", "id", "mktemp", "rm", "awk", "expr")
USER = 1000
FILES = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nuser:x:{USER}:{USER}::/home/user:/bin/sh\n",
    "etc/group": f"root:x:0:\nuser:x:{USER}:\n",
    "etc/subuid": "user:100000:65536\n",
    "etc/subgid": "user:100000:65536\n",
}
FOLDERS = {"tmp": 0, "home/user/.local/tmp": USER, "home/user/.local/share/buildkit": USER, "run/user/1000": USER}


def missing() -> str | None:
    """Return why there can be no such image here; None if there can be one."""
    absent = [name for name in (*PROGRAMS, *HELPERS, "runc") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def write(path: Path) -> Path:
    """Write the image's archive; returns the path."""
    return images.write(
        path,
        NAME,
        [engines.busybox_root({}), images.layer({}, {f"bin/{name}": "busybox" for name in APPLETS}), _layer()],
        [],
        User=f"{USER}:{USER}",
        Env=[
            "PATH=/usr/bin:/bin",
            "HOME=/home/user",
            "USER=user",
            f"XDG_RUNTIME_DIR=/run/user/{USER}",
            "TMPDIR=/home/user/.local/tmp",
        ],
    )


def _layer() -> bytes:
    output = io.BytesIO()
    found = {name: Path(shutil.which(name) or "") for name in (*PROGRAMS, *HELPERS, "runc")}
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, program in found.items():
            target = f"usr/bin/{'buildkit-runc' if name == 'runc' else name}"
            _add(tar, target, program.read_bytes(), 0o755, HELPERS.get(name))
        for library in libraries([found[name] for name in ("buildkitd", "runc", *HELPERS)]):
            _add(tar, str(library).lstrip("/"), library.read_bytes(), 0o755)
        for name, text in FILES.items():
            _add(tar, name, text.encode(), 0o644)
        for name, user in FOLDERS.items():
            _add_folder(tar, name, user)
    return output.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int, capability: int | None = None) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    if capability is not None:
        # As the kernel keeps it: the second form, which is in force at once, and what is permitted.
        value = struct.pack("<5I", 0x02000001, 1 << capability, 0, 0, 0)
        entry.pax_headers = {"SCHILY.xattr.security.capability": value.decode("utf-8", "surrogateescape")}
    tar.addfile(entry, io.BytesIO(data))


def _add_folder(tar: tarfile.TarFile, name: str, user: int) -> None:
    """Add a folder, with those above it below the home of its account."""
    parts = Path(name).parts
    for depth in range(2 if user else 1, len(parts) + 1):
        entry = tarfile.TarInfo("/".join(parts[:depth]))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        entry.uid = entry.gid = 0 if entry.name == "run/user" else user
        tar.addfile(entry)
