"""The programs of a Kubernetes cluster, for tests: built from their public modules, or from Debian's packages.

`python3 tests/cluster/programs.py` gets them all, once for each machine and each content of `go.sum`, and prints the
folder where they are. It needs nothing but Python, Go and apt. A cold build takes about ten minutes on two cores.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = Path(__file__).parent
BUILT = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "helm")
UNPACKED = ("etcd", "containerd", "containerd-shim-runc-v2", "ctr")
PACKAGES = ("etcd-server", "containerd")
# Current Kubernetes wants newer ones than Debian 12 has. They run there all the same, and are not installed, as the
# package of Docker wants the containerd of its own release.
SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FLAGS = "-s -w -X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor} \
-X k8s.io/component-base/version.gitVersion={kubernetes} -X k8s.io/component-base/version.gitTreeState=clean \
-X helm.sh/helm/v4/internal/version.version={helm}"


def folder() -> Path:
    """Return the folder for the programs that belong to this `go.sum`, which may not be there yet."""
    content = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum", Path(__file__).name))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "launchbay-cluster" / hashlib.sha256(content).hexdigest()[:16]


def version(module: str) -> str:
    """Return which version of a module the programs are built from."""
    found = re.search(rf"^\t{re.escape(module)} (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found, f"{MODULE / 'go.mod'} names no version of {module}"
    return found[1]


def path(name: str) -> str:
    """Return where a program is: the one in our folder, else whichever the machine has."""
    own = folder() / name
    return str(own) if own.exists() else name


def get() -> Path:
    """Have all programs in their folder; returns it."""
    wanted = folder()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with (wanted.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():
            with tempfile.TemporaryDirectory(dir=wanted.parent) as made:
                _unpack(Path(made))
                _build(Path(made) / "bin")
                (Path(made) / "bin").rename(wanted)
    return wanted


def _build(target: Path) -> None:
    kubernetes = version("k8s.io/kubernetes")
    major, minor, _ = kubernetes.removeprefix("v").split(".", 2)
    flags = FLAGS.format(kubernetes=kubernetes, major=major, minor=minor, helm=version("helm.sh/helm/v4"))
    command = ["go", "build", "-C", str(MODULE), "-trimpath", "-ldflags", flags, "-o", f"{target}/", "tool"]
    subprocess.run(command, env={**os.environ, "CGO_ENABLED": "0"}, check=True)


def _unpack(made: Path) -> None:
    """Fetch Debian's packages with apt, which verifies them, and take their programs."""
    (made / "bin").mkdir()
    (made / "lists/partial").mkdir(parents=True)
    (made / "sources.list").write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} main\n")
    settings = {
        "Dir::Etc::SourceList": made / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": made / "lists",
        "Dir::Cache": made / "cache",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "--quiet", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], stdout=sys.stderr, check=True)
    subprocess.run([*apt, "download", *PACKAGES], stdout=sys.stderr, cwd=made, check=True)
    for package in made.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(made / "root")], check=True)
    for name in UNPACKED:
        shutil.copy2(made / "root/usr/bin" / name, made / "bin" / name)


if __name__ == "__main__":
    print(get())
