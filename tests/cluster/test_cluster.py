"""The cluster of the tests is a real one: pods run, talk to this machine, and are refused what policy refuses."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.cluster import keeper, node, programs
from tests.cluster.control_plane import ControlPlane
from tests.clusters import BUSYBOX, PYTHON, Cluster

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(name="namespace")
def _namespace(kube_cluster: Cluster) -> Iterator[str]:
    with kube_cluster.namespace() as name:
        yield name


def pod(name: str, image: str, *command: str) -> str:
    container = {"name": "main", "image": image, "command": command, "imagePullPolicy": "IfNotPresent"}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def run_pod(cluster: Cluster, namespace: str, image: str, *command: str) -> str:
    """Run a pod to its good end; returns what it printed."""
    cluster.kubectl("apply", "--namespace", namespace, "--filename", "-", given=pod("a-pod", image, *command))
    ended = "{.status.containerStatuses[0].state.terminated.exitCode}"
    cluster.kubectl("wait", "pod/a-pod", f"--for=jsonpath={ended}", "--timeout=90s", "--namespace", namespace)
    said = cluster.kubectl("logs", "a-pod", "--namespace", namespace)
    status = cluster.kubectl("get", "pod/a-pod", "--namespace", namespace, "--output", f"jsonpath={ended}")
    assert status == "0", said
    return said


def test_a_pod_runs_and_its_log_can_be_read(kube_cluster: Cluster, namespace: str) -> None:
    program = "import sys, ssl; print(sys.version_info[:2])"
    assert run_pod(kube_cluster, namespace, PYTHON, "python", "-c", program) == "(3, 11)\n"


def test_a_job_of_several_pods_completes(kube_cluster: Cluster, namespace: str) -> None:
    template = json.loads(pod("", BUSYBOX, "sh", "-c", "echo $JOB_COMPLETION_INDEX; sleep 0.1"))
    spec = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": {"spec": template["spec"]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a-job"}, "spec": spec}
    kube_cluster.kubectl("apply", "--namespace", namespace, "--filename", "-", given=json.dumps(job))
    kube_cluster.kubectl("wait", "job/a-job", "--for=condition=Complete", "--timeout=90s", "--namespace", namespace)
    said = kube_cluster.kubectl("logs", "--selector", "job-name=a-job", "--namespace", namespace)
    assert sorted(said.split()) == ["0", "1"]


def test_a_pod_talks_to_a_server_of_this_machine(kube_cluster: Cluster, namespace: str) -> None:
    if kube_cluster.machine is None:
        pytest.skip("which address of this machine pods reach is known of the tests' own cluster alone")

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello from the machine")

    with HTTPServer((kube_cluster.machine, 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://{kube_cluster.machine}:{server.server_port}"
        said = run_pod(kube_cluster, namespace, BUSYBOX, "wget", "-q", "-O", "-", url)
        server.shutdown()
        thread.join()
    assert said == "hello from the machine"


def test_a_pod_is_somebody_to_the_api_server(kube_cluster: Cluster, namespace: str) -> None:
    """What a pod finds in its environment and its files is enough to be known, and lets it do nothing."""
    program = """
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
token = open(folder + "/token").read()
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
url += "/apis/authentication.k8s.io/v1/selfsubjectreviews"
body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
context = ssl.create_default_context(cafile=folder + "/ca.crt")
request = urllib.request.Request(url, body, headers)
print(json.load(urllib.request.urlopen(request, context=context))["status"]["userInfo"]["username"])
"""
    user = f"system:serviceaccount:{namespace}:default"
    assert run_pod(kube_cluster, namespace, PYTHON, "python", "-c", program) == f"{user}\n"
    with pytest.raises(AssertionError, match=f'User "{user}" cannot list resource "secrets"'):
        kube_cluster.kubectl("get", "secrets", "--as", user, "--namespace", namespace)


def test_a_pod_reaches_another_by_the_name_of_its_service(kube_cluster: Cluster, namespace: str) -> None:
    web = json.loads(pod("web", PYTHON, "python", "-m", "http.server", "8080"))
    web["metadata"]["labels"] = {"app": "web"}
    web["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    spec = {"selector": {"app": "web"}, "ports": [{"port": 8080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    for manifest in (web, service):
        kube_cluster.kubectl("apply", "--namespace", namespace, "--filename", "-", given=json.dumps(manifest))
    kube_cluster.kubectl("wait", "pod/web", "--for=condition=Ready", "--timeout=90s", "--namespace", namespace)
    program = """
import socket, urllib.request
print(urllib.request.urlopen("http://web:8080/etc/", timeout=20).read())
try:
    socket.getaddrinfo("web.example", 80)
except OSError as error:
    print(error)
"""
    said = run_pod(kube_cluster, namespace, PYTHON, "python", "-c", program)
    assert "passwd" in said
    assert "Name or service not known" in said


def test_pod_security_refuses_what_is_not_restricted(kube_cluster: Cluster) -> None:
    refused = pytest.raises(AssertionError, match='violates PodSecurity "restricted:latest"')
    with kube_cluster.namespace(RESTRICTED) as namespace, refused:
        run_pod(kube_cluster, namespace, BUSYBOX, "true")


def test_an_api_server_alone_keeps_what_it_had_when_it_is_killed(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "kept")
    control_plane.restart("--max-requests-inflight", "100")
    assert "Active" in control_plane.kubectl("get", "namespace", "kept")
    about = json.loads(control_plane.kubectl("version", "--output", "json"))
    assert about["serverVersion"]["gitVersion"] == about["clientVersion"]["gitVersion"]
    assert about["serverVersion"]["gitVersion"] == programs.version("k8s.io/kubernetes")
    assert about["serverVersion"]["minor"].isdigit()


def test_helm_asks_the_cluster(kube_cluster: Cluster, namespace: str) -> None:
    assert kube_cluster.helm("version", "--short").startswith("v")
    assert json.loads(kube_cluster.helm("list", "--namespace", namespace, "--output", "json")) == []


def test_what_a_killed_cluster_left_is_removed_by_the_next() -> None:
    if why := node.missing():
        pytest.skip(f"no node here: {why}")
    with keeper.own_place() as place:
        place.prepare()
        mounted = place.folder / "mounted"
        mounted.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
        log = mounted / "log"
        log.touch()
        daemon, in_pod = subprocess.Popen(["tail", "-f", log]), subprocess.Popen(["sleep", "600"])
        for group in place.cgroups():
            (group / "cgroup.procs").write_text(str(in_pod.pid))
    with keeper.own_place():
        assert (daemon.wait(30), in_pod.wait(30)) == (-signal.SIGKILL, -signal.SIGKILL)
        assert str(place.folder) not in Path("/proc/mounts").read_text()
        assert not place.folder.exists()
        assert not Path("/sys/class/net", place.link).exists()
        assert not Path("/run/netns", place.link).exists()
        assert place.cgroups() == []
