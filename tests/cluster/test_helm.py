"""The charts: what they say is taken by a cluster that enforces restricted pods, what the agent may do there is what it
needs, and a launch goes through with them, also while they are upgraded.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from agent.control_plane import ControlPlane
from tests.cluster import own_image
from tests.clusters import BUSYBOX, Cluster
from tests.test_deploy import check_command

ROOT = Path(__file__).parents[2]
AGENT, SERVER = str(ROOT / "helm/launchbay-agent"), str(ROOT / "helm/launchbay-server")
LAUNCHBAY = Path(sys.executable).with_name("launchbay")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SECONDS = 90.0
"""No condition takes longer, on a busy machine."""
IMAGE = ("--set", f"image.repository={own_image.REPOSITORY},image.tag={own_image.TAG}")
MUST_SAY: dict[str, dict[str, Any]] = {
    "server": {"url": "http://server:8080", "apiKey": {"existingSecret": "api-key"}},
    "config": {"queues": ["default"]},
}
EVERYTHING: dict[str, Any] = {
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"limits": {"memory": "2Gi"}},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"secretRef": {"name": "more", "optional": True}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "serviceAccount": {"annotations": {"a": "b"}},
}
AGENTS: dict[str, dict[str, Any]] = {
    "one": {},
    "several": {"replicas": 2, "persistence": {"enabled": True}, "networkPolicy": {"egress": [{}]}},
    "claim": {"persistence": {"existingClaim": "state"}, "launches": {"roles": False}},
    "building": {
        "builds": {"enabled": True, "namespace": "NAMESPACE"},
        "config": {**MUST_SAY["config"], "builder": {"type": "buildkit", "destination": "registry.example/team/jobs"}},
    },
    "everything": {
        **EVERYTHING,
        "launches": {
            "namespaces": ["NAMESPACE"],
            "kinds": [{"apiGroup": "kubeflow.org", "resources": ["pytorchjobs"]}],
            "services": True,
            "nodes": True,
        },
        "metrics": {"serviceMonitor": {"enabled": True, "labels": {"a": "b"}}, "dashboard": {"enabled": True}},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]},
    },
}
SERVERS: dict[str, dict[str, Any]] = {
    "one": {},
    "passing": {"persistence": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "several": {"replicas": 2, "database": {"host": "postgres", "existingSecret": "postgres"}},
    "everything": {
        **EVERYTHING,
        "service": {"type": "NodePort", "annotations": {"a": "b"}},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"a": "b"},
            "host": "launchbay.example",
            "tlsSecret": "tls",
        },
        "networkPolicy": {"from": [{"podSelector": {}}], "egress": [{}]},
    },
}
VARIANTS = [(AGENT, name) for name in AGENTS] + [(SERVER, name) for name in SERVERS]


def until(check: Callable[[], Any], what: str) -> Any:
    """Look until there is something to see, and return it."""
    end = time.monotonic() + SECONDS
    while not (found := check()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.2)
    return found


@pytest.fixture(name="namespace")
def _namespace(kube_cluster: Cluster) -> Iterator[str]:
    with kube_cluster.namespace(RESTRICTED) as name:
        yield name


@dataclass(frozen=True)
class Charts:
    """Charts with the values of a variant."""

    cluster: Cluster
    folder: Path

    def values(self, chart: str, name: str, namespace: str = "default") -> Path:
        """Write the values; returns the file."""
        values = MUST_SAY | AGENTS[name] if chart == AGENT else SERVERS[name]
        path = self.folder / "values.json"
        path.write_text(json.dumps(values).replace("NAMESPACE", namespace))
        return path

    def rendered(self, chart: str, name: str, namespace: str = "default") -> list[dict[str, Any]]:
        """Return what a chart makes of them."""
        values = self.values(chart, name, namespace)
        text = self.cluster.helm("template", "it", chart, "--values", str(values), "--namespace", namespace)
        return [each for each in yaml.safe_load_all(text) if each]


@pytest.fixture(name="charts")
def _charts(kube_cluster: Cluster, tmp_path: Path) -> Charts:
    return Charts(kube_cluster, tmp_path)


# --- what they say ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chart", "name"), VARIANTS)
def test_a_chart_is_in_order(charts: Charts, chart: str, name: str) -> None:
    charts.cluster.helm("lint", "--strict", chart, "--values", str(charts.values(chart, name)))


@pytest.mark.parametrize(("chart", "name"), VARIANTS)
def test_a_cluster_of_restricted_pods_takes_what_a_chart_says(
    charts: Charts, namespace: str, chart: str, name: str
) -> None:
    objects = charts.rendered(chart, name, namespace)
    pods = [each for each in objects if each["kind"] == "Pod"]
    for each in objects:
        if each["kind"] == "Deployment":
            metadata = {**each["spec"]["template"]["metadata"], "name": each["metadata"]["name"]}
            pods.append(
                {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": each["spec"]["template"]["spec"]}
            )
    for pod in pods:
        # Its account is not there, as nothing of this is really made.
        pod["spec"]["serviceAccountName"] = "default"
    objects = [each for each in objects if each["kind"] not in {"ServiceMonitor", "Pod"}]
    apply = ("apply", "--server-side", "--dry-run=server", "--namespace", namespace, "--filename", "-")
    said = charts.cluster.kubectl(*apply, given=yaml.safe_dump_all([*objects, *pods]))
    assert said.count("serverside-applied") == len(objects) + len(pods)


@pytest.mark.parametrize(
    ("chart", "values", "told"),
    [
        (AGENT, {}, "server.url is not set"),
        (AGENT, {"server.url": "http://s"}, "server.apiKey.existingSecret is not set"),
        (AGENT, {"server.url": "http://s", "server.apiKey.existingSecret": "s"}, "config.queues is empty"),
        (AGENT, {"server.url": "s:8080"}, "does not match pattern"),
        (
            AGENT,
            {
                "server.url": "http://s",
                "server.apiKey.existingSecret": "s",
                "config.queues": "{q}",
                "builds.enabled": "true",
            },
            "config.builder is not set",
        ),
        (AGENT, {"replica": "2"}, "additional properties 'replica' not allowed"),
        (SERVER, {"replicas": "2"}, "set database.host"),
        (SERVER, {"database.host": "p"}, "database.existingSecret is not set"),
        (SERVER, {"ingress.enabled": "true"}, "ingress.host is not set"),
    ],
)
def test_what_is_missing_or_wrong_is_told(charts: Charts, chart: str, values: dict[str, str], told: str) -> None:
    words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    with pytest.raises(AssertionError, match=told):
        charts.cluster.helm("template", "it", chart, *words)


@pytest.mark.parametrize(("chart", "name"), VARIANTS)
def test_the_commands_are_ones_and_the_agents_configuration_is_valid(charts: Charts, chart: str, name: str) -> None:
    objects = charts.rendered(chart, name)
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    if chart == SERVER:
        check_command(container["args"])
        return
    (config,) = (each for each in objects if each["kind"] == "ConfigMap" and "agent.yaml" in each["data"])
    path = charts.folder / "agent.yaml"
    path.write_text(config["data"]["agent.yaml"])
    words = [word.replace("/etc/launchbay/agent.yaml", str(path)) for word in container["args"]]
    check_command([*words, "--check"])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    checked = subprocess.run(
        [LAUNCHBAY, *words, "--check", "--json"], env=environment, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    known = json.loads(checked.stdout)["config"]
    assert known["name"] == "default/it-launchbay-agent"
    assert known["leader_election"]["lease"] == "it-launchbay-agent"


@pytest.mark.parametrize("chart", [AGENT, SERVER])
def test_every_value_is_in_the_schema_and_the_other_way_round(chart: str) -> None:
    schema = json.loads((Path(chart) / "values.schema.json").read_text())
    del schema["properties"]["global"]  # Helm's own
    compare(schema, yaml.safe_load((Path(chart) / "values.yaml").read_text()), chart)


def compare(schema: dict[str, Any], values: dict[str, Any], where: str) -> None:
    """Assert that a schema names the same keys as values, as far down as it names any."""
    assert schema.get("additionalProperties") is False or where.endswith("/config"), where
    assert set(schema["properties"]) == set(values), where
    for key, below in schema["properties"].items():
        if "properties" in below:
            compare(below, values[key], f"{where}/{key}")


# --- at work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A server in a namespace of restricted pods, and one where launches run."""

    cluster: Cluster
    namespace: str
    launches: str
    url: str
    key: str

    def helm(self, *words: str) -> str:
        """Run Helm in its namespace."""
        return self.cluster.helm(*words, "--namespace", self.namespace)

    def kubectl(self, *words: str, given: str | None = None) -> str:
        """Run kubectl in its namespace."""
        return self.cluster.kubectl(*words, "--namespace", self.namespace, given=given)

    def launchbay(self, *words: str) -> str:
        """Run a command of Launchbay's on this machine."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        environment = {**own, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.key}
        done = subprocess.run([LAUNCHBAY, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def agent(self, *values: str) -> tuple[str, ...]:
        """Return the words that bring the agent into a form."""
        own = (
            f"server.url=http://server-launchbay-server.{self.namespace}.svc:8080",
            "server.apiKey.existingSecret=api-key,config.queues={jobs},config.max_jobs=5",
            f"replicas=2,launches.namespaces={{{self.launches}}},config.leader_election.seconds=6",
            *values,
        )
        sets = [word for value in own for word in ("--set", value)]
        return ("upgrade", "--install", "it", AGENT, *IMAGE, *sets, "--wait", "--timeout", "90s")


@pytest.fixture(name="site", scope="module")
def _site(kube_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """The server of the chart, and a key to it."""
    if kube_cluster.folder is None:
        pytest.skip("the image of this working tree can be brought into the tests' own cluster alone")
    kube_cluster.import_image(own_image.write(tmp_path_factory.mktemp("image") / "image.tar"))
    with kube_cluster.namespace(RESTRICTED) as namespace, kube_cluster.namespace() as launches:
        own = partial(kube_cluster.kubectl, "--namespace", namespace)
        install = ("install", "server", SERVER, *IMAGE, "--set", "persistence.enabled=false")
        kube_cluster.helm(*install, "--wait", "--timeout", "90s", "--namespace", namespace)
        selected = ("--selector", "app.kubernetes.io/instance=server")
        address = own("get", "pods", *selected, "--output", "jsonpath={.items[0].status.podIP}")
        key = own(
            "exec",
            "deployment/server-launchbay-server",
            "--",
            "python",
            "-c",
            "print(open('/data/launchbay/admin-api-key').read())",
        )
        own("create", "secret", "generic", "api-key", f"--from-literal=api-key={key.strip()}")
        yield Site(kube_cluster, namespace, launches, f"http://{address}:8080", key.strip())


def test_the_server_passes_the_test_of_its_chart(site: Site) -> None:
    assert "Phase:          Succeeded" in site.helm("test", "server")


def may(site: Site, namespace: str, verb: str, resource: str, name: str = "") -> bool:
    """Return whether the agent may do something; in all namespaces if that is empty. Resources as `batch/jobs`."""
    group, _, resource = resource.rpartition("/")
    asked = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name}
    user = f"system:serviceaccount:{site.namespace}:it-launchbay-agent"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": asked},
    }
    shown = ("--output", "jsonpath={.status.allowed}")
    return site.cluster.kubectl("create", "--filename", "-", *shown, given=json.dumps(review)) == "true"


@pytest.fixture(name="installed", scope="module")
def _installed(site: Site) -> Site:
    """Two agents of the chart, and a queue for them."""
    site.launchbay("queue", "create", "jobs", "-r", "kubernetes")
    site.helm(*site.agent())
    return site


def test_the_agent_passes_the_test_of_its_chart(installed: Site) -> None:
    assert "Phase:          Succeeded" in installed.helm("test", "it")


def test_the_agent_may_do_what_it_needs_and_no_more(installed: Site) -> None:
    here, there, everywhere = installed.namespace, installed.launches, ""
    for verb in ("create", "patch", "delete", "list", "watch"):
        assert may(installed, there, verb, "batch/jobs")
        assert not may(installed, here, verb, "batch/jobs")
        assert not may(installed, everywhere, verb, "batch/jobs")
    assert may(installed, there, "create", "secrets"), "those of its launches"
    for verb in ("list", "watch", "update"):
        assert not may(installed, there, verb, "secrets")
    for verb in ("get", "list", "create"):
        assert not may(installed, here, verb, "secrets"), "the agent's own namespace has its API key"
        assert not may(installed, everywhere, verb, "secrets")
    for resource in ("pods", "apps/deployments", "rbac.authorization.k8s.io/rolebindings"):
        assert not may(installed, there, "create", resource)
    lease = "coordination.k8s.io/leases"
    assert may(installed, here, "patch", lease, "it-launchbay-agent")
    assert not may(installed, here, "patch", lease, "another")


def agents(site: Site) -> dict[str, str]:
    """Return the names of the agents' pods, with their addresses."""
    selected = ("--selector", "app.kubernetes.io/instance=it")
    pods = json.loads(site.kubectl("get", "pods", *selected, "--output", "json"))["items"]
    return {
        each["metadata"]["name"]: each["status"].get("podIP", "")
        for each in pods
        if "deletionTimestamp" not in each["metadata"]
    }


def leader(site: Site) -> str | None:
    """Return the name of the agents' pod that works."""
    lease = json.loads(site.kubectl("get", "lease", "it-launchbay-agent", "--output", "json"))
    return (lease["spec"].get("holderIdentity") or "").partition("_")[0] or None


def push(site: Site, program: str) -> str:
    """Push a launch that runs a shell's program; returns its item."""
    spec: dict[str, Any] = {
        "docker": {"docker_image": BUSYBOX},
        "resource": "kubernetes",
        "project": "p",
        "entity": "admin",
    }
    spec["overrides"] = {"entry_point": ["sh", "-c", program]}
    query = """mutation Push($spec: JSONString!) { pushToRunQueueByName(input: {
      entityName: "admin", projectName: "model-registry", queueName: "jobs", runSpec: $spec }) { runQueueItemId } }"""
    return ask(site, query, spec=json.dumps(spec))["pushToRunQueueByName"]["runQueueItemId"]


def state(site: Site, item: str) -> tuple[str, str]:
    """Return an item's state, and what is told of its failure."""
    query = "query Item($id: ID!) { runQueueItem(id: $id) { state error { message } } }"
    found = ask(site, query, id=item)["runQueueItem"]
    return found["state"], (found["error"] or {"message": ""})["message"]


def start(site: Site) -> tuple[str, str, str]:
    """Have a launch run until it is told to stop or finds `/tmp/end`; returns its item, its Job's UID and its pod."""
    item = push(site, "trap exit TERM; until [ -e /tmp/end ]; do sleep 0.2; done")
    told = ("--output", "jsonpath={.items[?(@.status.phase=='Running')].metadata.name}", "--namespace", site.launches)

    def pod() -> str:
        now = state(site, item)
        assert now[0] != "FAILED", now
        return site.cluster.kubectl("get", "pods", *told)

    name = until(pod, "it runs")
    (job,) = jobs(site)
    return item, job, name


def ask(site: Site, query: str, **variables: str) -> dict[str, Any]:
    """Ask the server."""

    async def asking() -> dict[str, Any]:
        async with ControlPlane(site.url, site.key, random=Random(1)) as server:
            return dict(await server.ask(query, **variables))

    return asyncio.run(asking())


def test_a_launch_goes_through_an_upgrade_and_the_loss_of_its_agent(installed: Site) -> None:
    """One Job, from its start to its end, whichever agents come and go."""
    site = installed
    item, job, pod = start(site)

    before = agents(site)
    site.helm(*site.agent("podAnnotations.a=b"))
    until(lambda: len(agents(site)) == 2 and not set(before) & set(agents(site)), "other agents")
    until(lambda: leader(site) in agents(site), "one of them works")

    # As for a drain of its node: nothing is in the way of it.
    working = leader(site)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": working}}
    path = f"/api/v1/namespaces/{site.namespace}/pods/{working}/eviction"
    site.kubectl("create", "--raw", path, "--filename", "-", given=json.dumps(eviction))
    until(lambda: leader(site) not in {None, working}, "the other one works")

    assert jobs(site) == [job], "neither lost nor started again"
    site.cluster.kubectl("exec", pod, "--namespace", site.launches, "--", "touch", "/tmp/end")
    until(lambda: state(site, item)[0] in {"FAILED", "FINISHED"}, "it has ended")
    # It has ended well, and is no run of wandb's.
    assert "exited successfully but failed to call wandb.init" in state(site, item)[1]
    until(lambda: not jobs(site), "nothing of it is left")


def test_a_launch_is_stopped_with_the_rights_of_the_chart(installed: Site) -> None:
    item, _, _ = start(installed)
    installed.launchbay("stop", item)
    until(lambda: state(installed, item)[0] in {"FAILED", "STOPPED"}, "it has ended")
    assert "stopped" in state(installed, item)[1].lower()
    until(lambda: not jobs(installed), "nothing of it is left")
    secrets = ("get", "secrets", "--output", "name", "--namespace", installed.launches)
    until(lambda: not installed.cluster.kubectl(*secrets), "its Secret is gone, too")


def jobs(site: Site) -> list[str]:
    """Return the UIDs of the Jobs of launches."""
    output = ("--output", "jsonpath={.items[*].metadata.uid}")
    return site.cluster.kubectl("get", "jobs", *output, "--namespace", site.launches).split()


def test_a_release_that_is_removed_leaves_nothing(installed: Site) -> None:
    installed.helm("uninstall", "it", "--wait", "--timeout", "90s")
    for namespace in (installed.namespace, installed.launches):
        kinds = "deployments,pods,roles,rolebindings,configmaps,services,networkpolicies,pdb,serviceaccounts"
        selected = ("--selector", "app.kubernetes.io/instance=it")
        left = partial(installed.cluster.kubectl, "get", kinds, *selected, "--output", "name", "--namespace", namespace)
        until(lambda left=left: not left(), "nothing is left")
