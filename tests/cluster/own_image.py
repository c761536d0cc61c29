"""An image with Launchbay, of what is installed here: as the images of `deploy/Dockerfile`, without git and ssh.

Its init is the one of the node's pauses, in place of tini.
"""

import io
import shutil
import tarfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.agent.building import parts
from tests.cluster import images

ROOT = Path(__file__).parents[2]
REPOSITORY, TAG = "docker.io/library/launchbay", "test"
EXTRAS = frozenset({"kubernetes"})
PACKAGES = ("protocol", "agent", "backends", "server", "launchbay")
FOLDER = "opt/launchbay"
PROGRAM = b"#!/usr/local/bin/python3\nfrom launchbay.__main__ import main\nmain()\n"
PEOPLE = b"root:x:0:0:root:/root:/bin/sh\nlaunchbay:x:1000:1000::/home/launchbay:/bin/sh\n"


def write(path: Path) -> Path:
    """Write the image's archive; returns the path."""
    links = {f"usr/local/bin/{name}": "python3.11" for name in ("python", "python3")}
    init = shutil.which("catatonit")
    assert init, "a node of the tests' own has it"
    files = {"usr/local/bin/launchbay": PROGRAM, "etc/passwd": PEOPLE, "usr/local/bin/init": Path(init).read_bytes()}
    own = images.layer(files, links)
    return images.write(
        path,
        f"{REPOSITORY}:{TAG}",
        [parts.python_root(), _dependencies(), _packages(), own],
        [],
        Entrypoint=["init", "--", "launchbay"],
        Env=[f"PYTHONPATH=/{FOLDER}", "PYTHONDONTWRITEBYTECODE=1", "PATH=/usr/local/bin:/usr/bin:/bin"],
        User="1000",
    )


def _dependencies() -> bytes:
    """Return what Launchbay needs and Launchbay's own metadata, as a layer."""
    output = io.BytesIO()
    native: list[Path] = []
    with tarfile.open(fileobj=output, mode="w") as tar:
        for found in _needed("launchbay", EXTRAS, {}).values():
            for file in found.files or []:
                place = Path(str(found.locate_file(file)))
                if ".." not in file.parts and place.suffix not in {".pyc", ".pth"} and place.is_file():
                    tar.add(place, f"{FOLDER}/{file}")
                    native += [place] if ".so" in place.suffixes else []
        # An image of Debian has these, as that of C++.
        for library in parts.libraries(native):
            if library.is_relative_to("/lib") or library.is_relative_to("/usr/lib"):
                tar.add(library.resolve(), str(library).lstrip("/"))
    return output.getvalue()


def _needed(name: str, extras: frozenset[str], found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Return a distribution and all that it needs with these extras."""
    found[name] = distribution(name)
    for line in found[name].requires or []:
        wanted = Requirement(line)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if wanted.name not in found and (
            not wanted.marker or any(wanted.marker.evaluate(each) for each in environments)
        ):
            _needed(wanted.name, frozenset(wanted.extras), found)
    return found


def _packages() -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for package in PACKAGES:
            tar.add(
                ROOT / package,
                f"{FOLDER}/{package}",
                filter=lambda entry: None if "__pycache__" in entry.name else entry,
            )
    return output.getvalue()
