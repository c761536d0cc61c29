"""What launches in a cluster may ask for: pods that are shut in, and nothing else that the operator has not listed."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.config.model import AgentConfig, KubernetesPolicy
from agent.policy import Refused, check
from protocol.errors import SpecError
from protocol.kubernetes_rules import Rule, uses
from protocol.launch_spec import parse_launch_spec
from tests.protocol.pod_security_cases import CASES, MORE, Manifest, of_container, pod, with_volume

SPEC = {"entity": "e", "project": "p", "docker": {"docker_image": "x"}, "resource": "kubernetes"}
TOKEN = {"serviceAccountToken": {"path": "t"}}


def refusal(args: Mapping[str, Any], services: Any = None, policy: Any = None, **clusters: Any) -> Refused | None:
    """Return the refusal of a launch with these resource args, where these lists are `policy.kubernetes`."""
    given = {"queues": ["q"], "resources": ["kubernetes"], "policy": {**(policy or {}), "kubernetes": clusters}}
    try:
        check(AgentConfig.model_validate(given), parse_launch_spec(SPEC), None, args, "x", "kubernetes", services)
    except Refused as refused:
        return refused
    return None


def rule(args: Mapping[str, Any], services: Any = None, **clusters: Any) -> str | None:
    """Return which rule of `policy.kubernetes` refuses it."""
    refused = refusal(args, services, **clusters)
    return refused and refused.rule.removeprefix("policy.kubernetes.")


def as_job(of: Manifest) -> Manifest:
    """Return resource args that describe such a pod for a Job."""
    return {"spec": {"template": {"metadata": of["metadata"], "spec": of["spec"]}}}


def nested(of: Manifest) -> dict[str, Manifest]:
    """Return resource args of every kind of nesting with this pod in them."""
    template = {"metadata": of["metadata"], "spec": of["spec"]}
    head = {"spec": {"containers": [{"name": "ray-head", "image": "i"}]}}
    volcano = {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job"}
    replicas = {"Master": {"template": head}, "Worker": {"template": template}}
    workers = [{"template": head}, {"template": template}]
    replicated = [{"name": "a", "template": {"spec": {"template": template}}}]
    return {
        "Job": as_job(of),
        "Pod": of,
        "Volcano Job": {**volcano, "spec": {"tasks": [{"template": head}, {"template": template}]}},
        "PyTorchJob": {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "spec": {"pytorchReplicaSpecs": replicas},
        },
        "JobSet": {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "spec": {"replicatedJobs": replicated}},
        "RayJob": {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "spec": {"rayClusterSpec": {"headGroupSpec": {"template": head}, "workerGroupSpecs": workers}},
        },
        "TrainJob": {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "spec": {"podTemplateOverrides": [{"targetJobs": [{"name": "node"}], **template}]},
        },
        "an unknown key": {"spec": {}, "extra": [[{"deep": template}]]},
    }


@pytest.mark.parametrize("case", [*CASES, *MORE])
def test_no_pod_is_let_out_by_default_however_it_is_nested(case: str) -> None:
    of, profile = {**CASES, **MORE}[case]
    weaker = {"baseline": "restricted", "privileged": "baseline"}[profile]
    for kind, args in nested(of).items():
        assert rule(args) == "pod_security", kind
        assert rule(args, pod_security=weaker) == "pod_security", kind
        assert rule(args, pod_security=profile) is None, kind
    for kind in ("Deployment", "StatefulSet"):
        service = {"config": {"apiVersion": "apps/v1", "kind": kind, **as_job(of)}, "name": "s"}
        assert rule({}, [{"config": None}, service]) == "pod_security"
        assert rule({}, [service], pod_security=profile) is None


@pytest.mark.parametrize(
    ("fields", "expected", "what"),
    [
        ({"serviceAccountName": "train"}, Rule.SERVICE_ACCOUNTS, "train"),
        ({"serviceAccount": "train"}, Rule.SERVICE_ACCOUNTS, "train"),
        ({"\u017fervice_account_name": "train"}, Rule.SERVICE_ACCOUNTS, "train"),
        ({"automountServiceAccountToken": True}, Rule.SERVICE_ACCOUNTS, "default"),
        ({"volumes": [{"name": "v", "projected": {"sources": [TOKEN]}}]}, Rule.SERVICE_ACCOUNTS, "default"),
        (
            {"volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": {"signerName": "s"}}]}}]},
            Rule.SERVICE_ACCOUNTS,
            "default",
        ),
        ({"volumes": [{"name": "v", "secret": {"secretName": "keys"}}]}, Rule.SECRETS, "keys"),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "keys"}}]}}]}, Rule.SECRETS, "keys"),
        ({"containers": [{"envFrom": [{"secretRef": {"name": "keys"}}]}]}, Rule.SECRETS, "keys"),
        (
            {"containers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]}]},
            Rule.SECRETS,
            "keys",
        ),
        ({"imagePullSecrets": [{"name": "keys"}]}, Rule.SECRETS, "keys"),
        ({"initContainers": [{"envFrom": [{"secretRef": {"name": "keys"}}]}]}, Rule.SECRETS, "keys"),
        ({"driver": {"secrets": [{"name": "keys", "path": "/k"}]}}, Rule.SECRETS, "keys"),
        ({"tls": [{"secretName": "keys"}]}, Rule.SECRETS, "keys"),
        ({"imagePullSecrets": ["keys"]}, Rule.SECRETS, "keys"),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}, Rule.CLAIMS, "data"),
        ({"volumes": [{"mountPath": "/d", "volumeClaimName": "data"}]}, Rule.CLAIMS, "data"),
        ({"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]}, Rule.CLAIMS, "shared"),
        (
            {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"volumeName": "pv-1"}}}}]},
            Rule.CLAIMS,
            "pv-1",
        ),
        (
            {"volumes": [{"ephemeral": {"volumeClaimTemplate": {"spec": {"dataSource": {"name": "data"}}}}}]},
            Rule.CLAIMS,
            "data",
        ),
        ({"volumeClaimTemplate": {"spec": {"dataSourceRef": {"name": "data"}}}}, Rule.CLAIMS, "data"),
        ({"volumes": [{"name": "v", "csi": {"driver": "secrets.test"}}]}, Rule.CSI_DRIVERS, "secrets.test"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/data"}}]}, Rule.HOST_PATHS, "/data"),
        ({"volumes": [{"name": "v", "host_path": {"path": "/data"}}]}, Rule.HOST_PATHS, "/data"),
        ({"priorityClassName": "urgent"}, Rule.PRIORITY_CLASSES, "urgent"),
        ({"schedulingPolicy": {"priorityClass": "urgent"}}, Rule.PRIORITY_CLASSES, "urgent"),
        ({"runtimeClassName": "nvidia"}, Rule.RUNTIME_CLASSES, "nvidia"),
        ({"headService": {"spec": {"type": "LoadBalancer"}}}, Rule.SERVICE_TYPES, "LoadBalancer"),
        ({"serviceType": "NodePort"}, Rule.SERVICE_TYPES, "NodePort"),
        ({"enableInTreeAutoscaling": True}, Rule.SERVICE_ACCOUNTS, "ray-autoscaler"),
    ],
)
def test_what_is_not_the_launchs_own_is_asked_for_by_its_name(fields: Manifest, expected: Rule, what: str) -> None:
    """Secrets, service accounts, claims and the like of the namespace are others', unless the operator lists them."""
    for args in nested(pod(fields)).values():
        assert rule(args) == expected
        assert rule(args, **{expected: [what]}) is None
        other = "NodePort" if what == "LoadBalancer" else "LoadBalancer" if expected == Rule.SERVICE_TYPES else "/other"
        assert rule(args, **{expected: [other]}) == expected


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (("rbac.authorization.k8s.io/v1", "RoleBinding"), "RoleBinding.rbac.authorization.k8s.io"),
        (("v1", "Secret"), "Secret"),
        (("v1", "ServiceAccount"), "ServiceAccount"),
        (("v1", "List"), "List"),
        (("argoproj.io/v1alpha1", "Application"), "Application.argoproj.io"),
        (("evil.test/v1", "Pod"), "Pod.evil.test"),
        (("apps/v1", "DaemonSet"), "DaemonSet.apps"),
    ],
)
def test_only_kinds_that_run_pods_are_launches_or_beside_them(kind: tuple[str, str], name: str) -> None:
    """Whatever the agent makes, it makes with its own rights."""
    manifest = {"apiVersion": kind[0], "kind": kind[1]}
    service = [{"config": manifest, "name": "s"}]
    assert rule(manifest) == rule({}, service) == "kinds"
    assert rule(manifest, kinds=[name]) is rule({}, service, kinds=[name]) is None
    assert rule(manifest, kinds=[f"*{name}*"]) is None
    refused = refusal({}, service, kinds=["Ingress.networking.k8s.io"])
    assert f"`additional_services[0].config.kind` is '{name}'" in str(refused)
    assert "Allowed: ConfigMap, Deployment.apps, Job.batch, " in str(refused)
    assert ", Ingress.networking.k8s.io. Who runs the agent" in str(refused)
    assert "JobSet.jobset.x-k8s.io" in str(refusal(manifest))


def test_group_and_version_of_the_resource_args_count_as_they_do_for_the_object() -> None:
    args = {"apiVersion": "kubeflow.org/v1", "kind": "RoleBinding", "group": "rbac.authorization.k8s.io"}
    assert rule(args, kinds=["*.kubeflow.org"]) == "kinds"
    assert rule({**args, "kind": "PyTorchJob", "group": "kubeflow.org"}) is None


class TestAServiceAccount:
    def test_that_is_listed_has_its_token_and_no_other_account_has(self) -> None:
        named = {"serviceAccountName": "train", "automountServiceAccountToken": True}
        token = {"volumes": [{"name": "t", "projected": {"sources": [TOKEN]}}]}
        assert rule(as_job(pod({**named, **token})), service_accounts=["train"]) is None
        assert rule(as_job(pod(token)), service_accounts=["train"]) == "service_accounts"
        assert rule(as_job(pod({**named, "serviceAccount": "admin"})), service_accounts=["train"]) == "service_accounts"

    def test_is_not_asked_for_by_saying_no(self) -> None:
        assert rule(as_job(pod({"automountServiceAccountToken": False, "serviceAccountName": None}))) is None
        assert rule(as_job(pod({"enableInTreeAutoscaling": False, "serviceAccountName": ""}))) is None


class TestASecret:
    def test_of_another_launch_is_not_meant_by_a_pattern(self) -> None:
        """It holds somebody else's API key."""
        other = as_job(pod({"imagePullSecrets": [{"name": "launch-0123456789abcdef-1"}]}))
        assert rule(other, secrets=["*", "launch-*"]) == "secrets"
        assert rule(other, secrets=["launch-0123456789abcdef-1"]) is None
        team = as_job(pod({"imagePullSecrets": [{"name": "team-a"}, {"name": "launch-pad"}]}))
        assert rule(team, secrets=["team-*", "launch-*"]) is None

    def test_without_a_name_is_none_that_is_listed(self) -> None:
        assert rule(as_job(with_volume(secret={"optional": True})), secrets=["keys"]) == "secrets"
        assert rule(as_job(with_volume(secret={"secretName": ["keys"]})), secrets=["keys"]) == "secrets"

    def test_counts_under_each_of_its_names(self) -> None:
        both = as_job(with_volume(secret={"name": "keys", "secretName": "other"}))
        assert rule(both, secrets=["keys"]) == "secrets"


class TestAPathOfANode:
    @pytest.mark.parametrize(
        ("path", "listed", "is_allowed"),
        [
            ("/data", ["/data"], True),
            ("/data/", ["/data"], True),
            ("/data/a", ["/data"], False),
            ("/data/a", ["/data/*"], True),
            ("/data/a/b", ["/data/*"], False),
            ("/data/../etc", ["/data/*", "/data/*/*"], False),
            ("/database", ["/data"], False),
            ("/", ["/*"], False),
            ("data", ["/data"], False),
            ("", ["/"], False),
        ],
    )
    def test_is_the_one_that_is_listed_and_none_below(self, path: str, listed: list[str], is_allowed: bool) -> None:
        """What a job leaves there may be a link to anywhere, which the next job would be given."""
        assert (rule(as_job(with_volume(hostPath={"path": path})), host_paths=listed) is None) == is_allowed

    def test_is_any_where_pods_may_be_privileged(self) -> None:
        assert rule(as_job(with_volume(hostPath={"path": "/etc"})), pod_security="privileged") is None
        assert rule(as_job(with_volume(hostPath={"path": "/etc"})), pod_security="baseline") == "host_paths"

    @pytest.mark.parametrize("entry", ["data", "/data/../etc", ""])
    def test_is_listed_whole(self, entry: str) -> None:
        with pytest.raises(ValidationError):
            KubernetesPolicy(host_paths=(entry,))


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (as_job(pod({"nodeName": "control-plane"})), "spec.template.spec.nodeName"),
        ({"metadata": {"finalizers": ["a/b"]}}, "metadata.finalizers"),
        (pod({"ephemeralContainers": [{"name": "e"}]}), "spec.ephemeralContainers"),
        ({"spec": {"template": {"metadata": {"namespace": "kube-system"}}}}, "spec.template.metadata.namespace"),
        ({"namespace": "a", "spec": [{"metadata": {"namespace": "b"}}]}, r"spec\[0\].metadata.namespace"),
    ],
)
def test_some_things_nobody_can_allow(args: Manifest, path: str) -> None:
    with pytest.raises(SpecError, match=f"`{path}` cannot be used here: "):
        refusal(args, pod_security="privileged")


def test_a_service_takes_no_address_from_others() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"externalIPs": ["10.0.0.1"]}}
    with pytest.raises(SpecError, match=r"`additional_services\[0\].config.spec.externalIPs` cannot be used here"):
        refusal({}, [{"config": service}], kinds=["*"], service_types=["LoadBalancer"])


def test_a_stateful_set_takes_no_volume_that_another_has_left_behind() -> None:
    """Its claims are called after it, and are there before it if there was another of its name."""
    spec = {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    config = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec}
    assert rule({}, [{"config": config}]) == "claims"
    assert rule({}, [{"config": config}], claims=["data-db-*"]) is None
    assert rule({}, [{"config": {**config, "metadata": {"name": "other"}}}], claims=["data-db-*"]) == "claims"


@pytest.mark.parametrize("services", ["text", {"config": {}}, [1], [{"config": "text"}], 1, True])
def test_services_that_cannot_be_read_are_none(services: Any) -> None:
    with pytest.raises(SpecError, match="`additional_services"):
        refusal({}, services)


ORDINARY = """
- {}
- namespace: research
  metadata: {name: nightly, labels: {kueue.x-k8s.io/queue-name: gpus, kueue.x-k8s.io/priority-class: high}}
  spec:
    suspend: true
    backoffLimit: 2
    activeDeadlineSeconds: 3600
    podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}
    template:
      metadata:
        annotations: {cluster-autoscaler.kubernetes.io/safe-to-evict: "false"}
      spec:
        restartPolicy: OnFailure
        schedulerName: kueue
        nodeSelector: {cloud.example/gpu: h200, secret: "yes"}
        tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
        affinity:
          nodeAffinity:
            requiredDuringSchedulingIgnoredDuringExecution:
              nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a]}]}]
        topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
        dnsPolicy: ClusterFirst
        hostNetwork: false
        automountServiceAccountToken: false
        securityContext: {runAsUser: 1000, runAsNonRoot: true, fsGroup: 0, seccompProfile: {type: RuntimeDefault},
          sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}]}
        initContainers: [{name: wait, image: busybox, command: [sleep, "1"]}]
        containers:
          - name: main
            image: ${image_uri}
            env: [{name: HF_HOME, value: /scratch}, {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
            envFrom: [{configMapRef: {name: settings}}]
            ports: [{containerPort: 8080, hostPort: 0}]
            resources: {limits: {nvidia.com/gpu: 1}, requests: {cpu: 4, memory: 16Gi}}
            readinessProbe: {httpGet: {path: /, port: 8080}}
            securityContext: {allowPrivilegeEscalation: false, privileged: false, readOnlyRootFilesystem: true,
              procMount: Default, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
            volumeMounts: [{name: scratch, mountPath: /scratch}]
        volumes:
          - {name: scratch, emptyDir: {medium: Memory}}
          - {name: settings, configMap: {name: settings}}
          - {name: about, downwardAPI: {items: []}}
          - {name: model, image: {reference: registry.test/model}}
          - {name: all, projected: {sources: [{configMap: {name: settings}}, {downwardAPI: {items: []}}]}}
          - {name: more, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: fast}}}}
- apiVersion: batch.volcano.sh/v1alpha1
  kind: Job
  spec:
    minAvailable: 2
    queue: research
    plugins: {svc: [], env: []}
    volumes: [{mountPath: /scratch, volumeClaim: {accessModes: [ReadWriteOnce]}}]
    policies: [{event: PodEvicted, action: RestartJob}]
    tasks: [{replicas: 2, name: worker, template: {spec: {containers: [{name: a, image: i}]}}}]
- apiVersion: kubeflow.org/v1
  kind: PyTorchJob
  spec:
    nprocPerNode: "8"
    pytorchReplicaSpecs:
      Worker: {replicas: 2, restartPolicy: Never, template: {spec: {containers: [{name: pytorch, image: i}]}}}
- apiVersion: ray.io/v1
  kind: RayJob
  spec:
    shutdownAfterJobFinishes: true
    runtimeEnvYAML: "env_vars: {A: b}"
    rayClusterSpec:
      headGroupSpec: {serviceType: ClusterIP, rayStartParams: {dashboard-host: 0.0.0.0},
        template: {spec: {containers: [{name: ray-head, image: i}]}}}
- apiVersion: trainer.kubeflow.org/v1alpha1
  kind: TrainJob
  spec: {runtimeRef: {name: torch-distributed}, trainer: {numNodes: 2, env: [{name: A, value: b}]}}
"""


def test_what_ordinary_queues_write_needs_no_policy() -> None:
    """That volumes, accounts and security contexts of documented configs were refused made agents useless."""
    for args in yaml.safe_load(ORDINARY):
        assert refusal(args) is None


def test_ordinary_services_need_no_policy() -> None:
    words = {"spec.template": "kind: Pod\nspec: {hostNetwork: true}", "serviceAccountName": "admin"}
    services = [
        {"name": "model", "config": {"apiVersion": "apps/v1", "kind": "Deployment", **as_job(pod())}},
        {"name": "db", "config": {"apiVersion": "apps/v1", "kind": "StatefulSet", **as_job(pod())}},
        {"name": "s", "config": {"apiVersion": "v1", "kind": "Service", "spec": {"type": "ClusterIP", "ports": []}}},
        {"name": "c", "config": {"apiVersion": "v1", "kind": "ConfigMap", "data": words}},
    ]
    assert refusal({}, services) is None


def test_a_refusal_tells_everything() -> None:
    refused = refusal(as_job(pod({"containers": [{}, {"envFrom": [{"secretRef": {"name": "keys"}}]}]})), secrets=["a"])
    assert str(refused) == (
        "Refused by `policy.kubernetes.secrets`: `spec.template.spec.containers[1].envFrom[0].secretRef` names the "
        "Secret 'keys', which is not the launch's own. Allowed: a. Who runs the agent can change that in its "
        "configuration."
    )
    assert refused
    assert refused.reason == "policy:kubernetes.secrets"
    assert str(refusal(as_job(of_container(runAsUser=0)), pod_security="restricted")) == (
        "Refused by `policy.kubernetes.pod_security`: `spec.template.spec.containers[0].securityContext.runAsUser` is "
        "'0', which needs the Pod Security profile `baseline`. Allowed: restricted. Who runs the agent can change that "
        "in its configuration."
    )


def test_a_refusal_is_short_however_long_the_wish() -> None:
    long = "x" * 100_000
    assert len(str(refusal({long: {"secretName": long}}))) < 800


@pytest.mark.parametrize("key", ["command", "args", "initContainers", "hostPID", "container_entrypoint"])
def test_secure_mode_looks_into_all_pods_and_services(key: str) -> None:
    config = AgentConfig.model_validate({"queues": ["q"], "resources": ["kubernetes"], "secure_mode": True})
    of = pod({key: ["x"]}) if key in {"initContainers", "hostPID"} else pod(container={key: ["x"]})
    services = [{"config": {"apiVersion": "apps/v1", "kind": "Deployment", **as_job(of)}}]
    for args, beside in [*((args, None) for args in nested(of).values()), ({}, services)]:
        with pytest.raises(Refused, match=f"Refused by `secure_mode`: the launch sets '.*{key}'"):
            check(config, parse_launch_spec(SPEC), None, args, "x", "kubernetes", beside)


def test_images_are_looked_up_in_every_pod_template_and_service() -> None:
    """Init containers and image volumes too."""
    listed: Any = {"images": ["good.test/*", "i", "x"]}
    evil = [
        pod(container={"image": "evil.test/x"}),
        pod({"initContainers": [{"image": "evil.test/x"}]}),
        with_volume(image={"reference": "evil.test/x"}),
    ]
    for of in evil:
        services = [{"config": {"apiVersion": "apps/v1", "kind": "Deployment", **as_job(of)}}]
        for args, beside in [*((args, None) for args in nested(of).values()), ({}, services)]:
            refused = refusal(args, beside, policy=listed)
            assert refused
            assert refused.rule == "policy.images"


def test_every_rule_is_a_key_of_the_policy() -> None:
    assert set(Rule) == set(KubernetesPolicy.model_fields)


WORDS = """
apiVersion kind group metadata namespace spec template containers securityContext capabilities add drop runAsUser type
seccompProfile seLinuxOptions sysctls name volumes hostPath path csi driver secret secretName secretKeyRef items data
imagePullSecrets serviceAccountName projected sources serviceAccountToken httpGet host annotations labels hostPort
volumeClaimTemplates dataSource privileged config nodeName finalizers
"""
KEYS = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "v1", "Job", "a"]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEYS | st.text(max_size=3), VALUES, max_size=6), VALUES)
def test_whatever_is_written_is_allowed_or_refused_and_stays_as_it_is(args: dict[str, Any], services: Any) -> None:
    before = deepcopy((args, services))
    try:
        asked = list(uses(args, services))
        assert (refusal(args, services) is None) == (not asked)
    except SpecError:
        pass
    assert repr((args, services)) == repr(before)
