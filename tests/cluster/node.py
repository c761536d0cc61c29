"""A node for tests: kubelet on containerd, with a network that leads to this machine and nowhere else.

The bridge of the pods is in a network namespace, where are none of the rules that others on this machine have for what
it forwards. One link leads from it to the machine, at whose end are the machine's addresses.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import images, names, programs
from tests.cluster.control_plane import START_SECONDS, ControlPlane, Daemon

NAME = "launchbay-test"
SOCKET = "containerd.sock"
BRIDGE = "pods"
CNI_PLUGINS = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")
# The kubelet sets these for the whole machine.
KERNEL_SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
# Where kubelet and containerd write, whatever they are told.
LOG_LINKS, NETWORK_RECORDS = Path("/var/log/containers"), Path("/var/lib/cni/results")
CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/plugins"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{folder}/runc"
"""


def missing() -> str | None:
    """Return why no node can be started here; None if it can."""
    if os.geteuid() != 0:
        return "a node is for root"
    absent = [
        name for name in ("runc", "ip", "nsenter", "setpriv", "busybox", "catatonit") if shutil.which(name) is None
    ]
    if not (CNI_PLUGINS / "bridge").exists():
        absent.append("containernetworking-plugins")
    return f"not installed: {', '.join(absent)}" if absent else None


@dataclass(frozen=True)
class Place:
    """What a cluster has of its machine, by its number: a folder, a link, cgroups, and networks."""

    number: int
    folder: Path

    @property
    def link(self) -> str:
        """The link to the pods, and the network namespace with their bridge."""
        return f"launchbay-k{self.number}"

    @property
    def cgroup(self) -> str:
        """The cgroup of all pods."""
        return f"launchbay-cluster-{self.number}"

    @property
    def network(self) -> str:
        """What the addresses of pods begin with; the first is the machine's."""
        return f"10.213.{self.number}"

    @property
    def services(self) -> str:
        """What the addresses of services begin with; the first is the API server's."""
        return f"10.214.{self.number}"

    @property
    def machine(self) -> str:
        """The address under which pods reach this machine."""
        return f"{self.network}.1"

    @property
    def api_address(self) -> str:
        """The address of the API server, which is the one that pods are told."""
        return f"{self.services}.1"

    def prepare(self) -> None:
        """Make the folder, the link and the cgroups."""
        self.folder.mkdir(mode=0o700)
        _ip("netns", "add", self.link)
        _ip("link", "add", self.link, "type", "veth", "peer", "machine", "netns", self.link)
        _ip("address", "add", f"{self.machine}/24", "dev", self.link)
        _ip("address", "add", f"{self.api_address}/32", "dev", self.link)
        _ip("-netns", self.link, "link", "add", BRIDGE, "type", "bridge")
        _ip("-netns", self.link, "link", "set", "machine", "master", BRIDGE, "up")
        _ip("-netns", self.link, "link", "set", BRIDGE, "up")
        _ip("link", "set", self.link, "up")
        for hierarchy in _hierarchies():
            group = hierarchy / self.cgroup
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (group / name).exists() and hierarchy != CGROUPS:
                    (group / name).write_text((hierarchy / name).read_text())

    def clear(self) -> None:
        """End and remove all that a cluster of this number has left here, however it ended."""
        deadline = time.monotonic() + START_SECONDS
        while found := self._processes():
            for process in found:
                _kill(process)
            assert time.monotonic() < deadline, f"processes of {self.folder} do not end: {found}"
            time.sleep(0.02)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(f"{self.folder}/")), key=len, reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        if Path("/sys/class/net", self.link).exists():
            _ip("link", "delete", self.link)
        if Path("/run/netns", self.link).exists():
            _ip("netns", "delete", self.link)
        while groups := self.cgroups():
            for group in groups:
                with suppress(OSError):  # as long as the last process is on its way out
                    group.rmdir()
            assert time.monotonic() < deadline, f"control groups do not go: {groups}"
        for link in LOG_LINKS.glob("*"):
            if link.is_symlink() and str(link.readlink()).startswith(f"{self.folder}/"):
                link.unlink()
        for file in NETWORK_RECORDS.glob("*"):
            with suppress(FileNotFoundError):  # as another cluster's, which goes just now
                if f'"{self.folder}/' in file.read_text():
                    file.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> set[int]:
        """Return the processes of pods, and those that name the folder on their command line."""
        found: set[int] = set()
        for group in self.cgroups():
            with suppress(OSError):  # it has gone
                found.update(map(int, (group / "cgroup.procs").read_text().split()))
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{self.folder}/".encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                    found.add(int(folder.name))
            except OSError:
                continue  # it has ended
        return found

    def cgroups(self) -> list[Path]:
        """Return all cgroups of pods, children first."""
        tops = [hierarchy / self.cgroup for hierarchy in _hierarchies()]
        found = [path.parent for top in tops if top.exists() for path in top.rglob("cgroup.procs")]
        return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _hierarchies() -> list[Path]:
    """Return where cgroups are made: of version 2 one place, of version 1 one for each controller."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [each for each in CGROUPS.iterdir() if (each / "cgroup.procs").exists() and not each.is_symlink()]


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@contextmanager
def running(place: Place, plane: ControlPlane) -> Generator[Daemon]:
    """Run the node while the block runs; gives its kubelet."""
    folder = place.folder
    socket = folder / SOCKET
    settings = {name: Path("/proc/sys", name).read_text() for name in KERNEL_SETTINGS}
    containerd = Daemon(folder, _containerd(place, socket), {"PATH": f"{programs.folder()}:{os.environ['PATH']}"})
    kubelet = Daemon(folder, _kubelet(place, plane, socket))
    with ExitStack() as stack:
        for name, value in settings.items():
            stack.callback(Path("/proc/sys", name).write_text, value)
        stack.callback(containerd.kill)
        containerd.start()
        containerd.wait_until(lambda: _ctr(socket, "version").returncode == 0, "ready")
        stack.enter_context(names.served(place.machine, plane.get))
        stack.callback(kubelet.kill)
        kubelet.start()
        import_images(socket, images.write_all(folder))
        kubelet.wait_until(lambda: _is_ready(plane), "ready for pods")
        yield kubelet


def import_images(socket: Path, archives: Sequence[Path]) -> None:
    """Give the node images."""
    for archive in archives:
        done = _ctr(socket, "--namespace", "k8s.io", "images", "import", str(archive))
        assert done.returncode == 0, done.stdout + done.stderr


def _ctr(socket: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(programs.folder() / "ctr"), "--address", str(socket), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _is_ready(plane: ControlPlane) -> bool:
    """Tell whether pods can start: the node is ready, and there is the account that they have by default."""
    said = plane.get(f"/api/v1/nodes/{NAME}")
    if said is None or plane.get("/api/v1/namespaces/default/serviceaccounts/default") is None:
        return False
    node = json.loads(said)
    conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


def _containerd(place: Place, socket: Path) -> list[str]:
    folder = place.folder
    network = {
        "cniVersion": "0.4.0",
        "name": place.link,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "addresses"),
                    "ranges": [[{"subnet": f"{place.network}.0/24", "gateway": place.machine}]],
                    "routes": [{"dst": f"{place.services}.0/24", "gw": place.machine}],
                },
            }
        ],
    }
    (folder / "plugins").mkdir()
    for name in ("host-local", "loopback"):
        (folder / "plugins" / name).symlink_to(CNI_PLUGINS / name)
    bridge = folder / "plugins/bridge"
    bridge.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{place.link} {CNI_PLUGINS}/bridge "$@"\n')
    bridge.chmod(0o755)
    (folder / "cni").mkdir()
    (folder / "cni/bridge.conflist").write_text(json.dumps(network))
    config = folder / "containerd.toml"
    text = CONTAINERD.format(folder=folder, socket=socket, pause=images.PAUSE)
    config.write_text(text)
    return [str(programs.folder() / "containerd"), "--config", str(config), "--log-level", "warn"]


def _kubelet(place: Place, plane: ControlPlane, socket: Path) -> list[str]:
    folder = place.folder
    plane.authority.make("kubelet", f"system:node:{NAME}", ["system:nodes"], hosts=[place.machine, NAME])
    plane.authority.kubeconfig(folder / "kubelet.kubeconfig", plane.url, "kubelet")
    (folder / "resolv.conf").touch()
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": place.machine,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(folder / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(folder / "kubelet.crt"),
        "tlsPrivateKeyFile": str(folder / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # The machine may be as full as it likes; nothing is evicted, and no image is removed.
        "evictionHard": dict.fromkeys(("memory.available", "nodefs.available", "imagefs.available"), "0%"),
        "imageGCHighThresholdPercent": 100,
        # Of the machine's firewall nothing is touched.
        "makeIPTablesUtilChains": False,
        "clusterDNS": [place.machine],
        "clusterDomain": names.DOMAIN,
        "resolvConf": str(folder / "resolv.conf"),
        "podLogsDir": str(folder / "logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "maxPods": 200,
        "shutdownGracePeriod": "0s",
    }
    (folder / "kubelet.json").write_text(json.dumps(config, indent=2))
    return [
        *(str(programs.folder() / "kubelet"), "--config", str(folder / "kubelet.json")),
        *("--kubeconfig", str(folder / "kubelet.kubeconfig"), "--hostname-override", NAME),
        *("--node-ip", place.machine, "--root-dir", str(folder / "kubelet"), "--cert-dir", str(folder / "pki")),
    ]
