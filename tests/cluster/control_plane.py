"""A real control plane for tests: etcd and kube-apiserver, and if wanted, the controllers and the scheduler."""

import os
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import programs
from tests.cluster.credentials import Authority
from tests.engines import free_port

START_SECONDS = 60.0
ADMIN, CONTROLLERS, SCHEDULER = "admin", "system:kube-controller-manager", "system:kube-scheduler"
# Without a node nobody uses services, and nobody is told that the API server is one of them.
SERVICES, NO_SERVICE = "10.214.255.0/24", ("--endpoint-reconciler-type", "none")
# The controllers see at once what is new, and so do tests.
RATES = ("--kube-api-qps", "1000", "--kube-api-burst", "2000")


def missing() -> str | None:
    """Return why no control plane can be started here; None if it can."""
    if not programs.folder().exists():
        return "its programs are not there: python3 tests/cluster/programs.py gets them"
    return None


@dataclass
class Daemon:
    """A program that runs until it is stopped, or killed, and may be started again."""

    folder: Path
    command: Sequence[str]
    variables: dict[str, str] = field(default_factory=dict[str, str])
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def name(self) -> str:
        """The program's name."""
        return Path(self.command[0]).name

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"

    def start(self, *flags: str) -> None:
        """Start it, with more flags than it has anyway. It does not outlive the thread that starts it."""
        command = ["setpriv", "--pdeathsig", "KILL", *self.command, *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until(self, is_ready: Callable[[], bool], what: str) -> None:
        """Wait until something holds that the program is to bring about."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            assert self.process
            assert self.process.poll() is None, f"{self.name} has ended: {self.last_words()}"
            assert time.monotonic() < deadline, f"{self.name}: not {what}: {self.last_words()}"
            time.sleep(0.05)

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()


@dataclass
class ControlPlane:
    """A control plane that answers."""

    folder: Path
    url: str
    """Of the API server."""
    kubeconfig: Path
    """Of somebody who may do anything."""
    authority: Authority
    api_server: Daemon

    def kill(self) -> None:
        """Kill the API server. What it stored stays."""
        self.api_server.kill()

    def start(self, *flags: str) -> None:
        """Start the API server again, with more flags for this time, and wait until it answers."""
        self.api_server.start(*flags)
        self.api_server.wait_until(self.is_ready, "ready")

    def restart(self, *flags: str) -> None:
        """Kill the API server and start it again."""
        self.kill()
        self.start(*flags)

    def is_ready(self) -> bool:
        """Tell whether the API server is ready for everything."""
        return self.get("/readyz") is not None

    def get(self, path: str) -> bytes | None:
        """Ask the API server; returns its answer, or None if it has no good one now."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        context.load_cert_chain(self.folder / f"{ADMIN}.crt", self.folder / f"{ADMIN}.key")
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=2, context=context) as answer:
                return answer.read()
        except OSError:
            return None

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl to its end as somebody who may do anything; returns what it prints."""
        return kubectl(self.kubeconfig, *arguments, given=given)


def kubectl(kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    """Run kubectl to its end; returns what it prints."""
    return run_client("kubectl", kubeconfig, *arguments, given=given)


def run_client(program: str, kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    """Run kubectl or helm to its end; returns what it prints."""
    command = [programs.path(program), "--kubeconfig", str(kubeconfig), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def running(*flags: str, with_controllers: bool = False) -> Generator[ControlPlane]:
    """Run a control plane without a node, on loopback, with more flags for the API server than it has anyway."""
    with (
        tempfile.TemporaryDirectory(prefix="launchbay-api-", dir="/tmp") as name,
        running_in(Path(name), "127.0.0.1", free_port(), SERVICES, (*NO_SERVICE, *flags), with_controllers) as started,
    ):
        yield started


@contextmanager
def running_in(
    folder: Path, address: str, port: int, services: str, flags: Sequence[str] = (), with_controllers: bool = True
) -> Generator[ControlPlane]:
    """Run a control plane at an address of this machine, whose services have addresses of some network."""
    authority = Authority(folder)
    first_service = services.rpartition(".")[0] + ".1"
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    authority.make("api-server", "kube-apiserver", hosts=[address, "127.0.0.1", "localhost", first_service, *names])
    authority.make("to-kubelet", "kube-apiserver-to-kubelet", ["system:masters"])
    authority.make_key_pair("service-accounts")
    url = f"https://{address}:{port}"
    for file, user, groups in (
        (ADMIN, ADMIN, ["system:masters"]),
        ("controllers", CONTROLLERS, []),
        ("scheduler", SCHEDULER, []),
    ):
        authority.make(file, user, groups)
        authority.kubeconfig(folder / f"{file}.kubeconfig", url, file)

    with ExitStack() as stack:
        etcd_url = f"http://127.0.0.1:{free_port()}"
        etcd = Daemon(folder, _etcd(folder, etcd_url))
        api_server = Daemon(folder, [*_api_server(folder, etcd_url, address, port, services), *flags])
        started = ControlPlane(folder, url, folder / f"{ADMIN}.kubeconfig", authority, api_server)
        stack.callback(shutil.rmtree, folder / "etcd", ignore_errors=True)
        for daemon in (etcd, api_server):
            stack.callback(daemon.kill)  # nothing is kept, so nobody needs to say goodbye
            daemon.start()
        api_server.wait_until(started.is_ready, "ready")
        if with_controllers:
            for daemon in (Daemon(folder, _controllers(folder)), Daemon(folder, _scheduler(folder))):
                stack.callback(daemon.kill)
                daemon.start()
        yield started


def _etcd(folder: Path, url: str) -> list[str]:
    peers = f"http://127.0.0.1:{free_port()}"
    return [
        *(str(programs.folder() / "etcd"), "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"),
        *("--listen-client-urls", url, "--advertise-client-urls", url, "--log-level", "warn"),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"),
        *("--quota-backend-bytes", str(4 << 30)),
    ]


def _api_server(folder: Path, etcd_url: str, address: str, port: int, services: str) -> list[str]:
    return [
        *(str(programs.folder() / "kube-apiserver"), "--etcd-servers", etcd_url),
        *("--bind-address", address, "--secure-port", str(port), "--advertise-address", address),
        *("--tls-cert-file", str(folder / "api-server.crt"), "--tls-private-key-file", str(folder / "api-server.key")),
        *("--client-ca-file", str(folder / "ca.crt"), "--authorization-mode", "Node,RBAC"),
        *("--enable-admission-plugins", "NodeRestriction", "--service-cluster-ip-range", services),
        *("--service-account-issuer", "https://kubernetes.default.svc"),
        *("--service-account-key-file", str(folder / "service-accounts.pub")),
        *("--service-account-signing-key-file", str(folder / "service-accounts.key")),
        *("--kubelet-certificate-authority", str(folder / "ca.crt")),
        *("--kubelet-client-certificate", str(folder / "to-kubelet.crt")),
        *("--kubelet-client-key", str(folder / "to-kubelet.key")),
        *("--kubelet-preferred-address-types", "InternalIP", "--allow-privileged"),
    ]


def _controllers(folder: Path) -> list[str]:
    return [
        *(str(programs.folder() / "kube-controller-manager"), "--kubeconfig", str(folder / "controllers.kubeconfig")),
        *("--service-account-private-key-file", str(folder / "service-accounts.key")),
        *("--root-ca-file", str(folder / "ca.crt"), "--use-service-account-credentials", "--secure-port", "0"),
        *("--leader-elect=false", "--concurrent-job-syncs", "20", *RATES),
        *("--node-monitor-period", "1s", "--node-monitor-grace-period", "20s"),
    ]


def _scheduler(folder: Path) -> list[str]:
    config = folder / "scheduler.yaml"
    config.write_text(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
        f"clientConnection: {{kubeconfig: {folder}/scheduler.kubeconfig, qps: 1000, burst: 2000}}\n"
        "leaderElection: {leaderElect: false}\npodInitialBackoffSeconds: 1\npodMaxBackoffSeconds: 2\n"
    )
    return [str(programs.folder() / "kube-scheduler"), "--config", str(config), "--secure-port", "0"]
