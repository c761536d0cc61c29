"""What a launch becomes in Vertex AI. Every job is understood by the SDK's own messages."""

from typing import Any

import pytest

from backends.base import BackendError, StartRequest
from backends.vertex.access import _parsed, _types, load
from backends.vertex.names import LABELS_VARIABLE, label_value, launch_of, owner_of, read_labels, written_labels
from backends.vertex.request import custom_job
from backends.vertex.secrets import THROUGH
from backends.vertex.settings import Settings, read_settings

PARENT = "projects/p/locations/us-central1"
POOL: dict[str, Any] = {"machine_spec": {"machine_type": "n1-standard-4"}, "container_spec": {"image_uri": "i:1"}}
SPEC: dict[str, Any] = {"worker_pool_specs": [POOL], "staging_bucket": "gs://bucket"}
LABELS = {"item": "UnVu:==", "run": "Ab12", "owner": "me"}


def request(
    spec: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    command: tuple[str, ...] = ("train",),
    **more: Any,
) -> StartRequest:
    given: dict[str, Any] = {"environment": {"A": "b"}, "labels": LABELS, "image": "job:v1", **more}
    block = {"spec": SPEC if spec is None else spec, **({} if run is None else {"run": run})}
    return StartRequest("launch-1", command, **given, resource_args=block)


def made(asked: StartRequest, through: tuple[str, ...] = ()) -> Any:
    """Return the message that Vertex AI would be sent."""
    load("jobs")
    return _parsed(custom_job(asked, PARENT, "me", through), _types("jobs", "custom_job").CustomJob)


def variables(job: Any, pool: int = 0) -> dict[str, str]:
    return {each.name: each.value for each in job.job_spec.worker_pool_specs[pool].container_spec.env}


def test_a_launch_becomes_a_job_by_the_protocols_rules() -> None:
    environment = {"WANDB_NAME": "a run", "WANDB_RUN_ID": "Ab12"}
    job = made(
        request(environment=environment, secrets={"WANDB_API_KEY": "key"}, command=("python", "train.py", "--fast"))
    )
    assert job.display_name == "a run"
    pool = job.job_spec.worker_pool_specs[0]
    assert list(pool.container_spec.command) == ["python", "train.py", "--fast"]
    assert pool.machine_spec.machine_type == "n1-standard-4"
    shown = variables(job)
    assert read_labels(shown.pop(LABELS_VARIABLE)) == LABELS
    assert shown == {**environment, "WANDB_API_KEY": "key"}
    assert dict(job.labels) == {
        "launchbay-owner": owner_of("me"),
        "launchbay-launch": "launch-1",
        "wandb-run-id": label_value("Ab12"),
    }


def test_several_pools_of_gpu_machines() -> None:
    gpus = {"machine_type": "n1-highmem-16", "accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 4}
    chief = {"machine_spec": gpus, "replica_count": 1, "container_spec": {"image_uri": "${image_uri}"}}
    workers = {
        **chief,
        "replica_count": 3,
        "container_spec": {"image_uri": "other:1", "env": [{"name": "X", "value": "y"}]},
    }
    job = made(request({**SPEC, "worker_pool_specs": [chief, workers]}))
    pools = job.job_spec.worker_pool_specs
    assert [pool.replica_count for pool in pools] == [1, 3]
    assert [pool.machine_spec.accelerator_type.name for pool in pools] == ["NVIDIA_TESLA_T4"] * 2
    assert [list(pool.container_spec.command) for pool in pools] == [["train"]] * 2
    assert variables(job, 1) == {"X": "y", "A": "b"}


def test_everything_else_that_the_protocol_names_reaches_the_job() -> None:
    spec = {
        **SPEC,
        "base_output_dir": "gs://other/out",
        "encryption_spec_key_name": "projects/p/locations/r/keyRings/k/cryptoKeys/c",
        "labels": {"team": "research"},
    }
    run = {
        "timeout": 3600,
        "service_account": "a@p.iam.gserviceaccount.com",
        "network": "projects/1/global/networks/n",
        "enable_web_access": True,
        "experiment": "exp",
        "experiment_run": "first",
        "tensorboard": "123",
        "restart_job_on_worker_restart": True,
        "disable_retries": True,
        "persistent_resource_id": "pool",
        "scheduling_strategy": "spot",
        "max_wait_duration": 60,
    }
    job = made(request(spec, run))
    told = job.job_spec
    assert told.base_output_directory.output_uri_prefix == "gs://other/out"
    assert job.encryption_spec.kms_key_name == spec["encryption_spec_key_name"]
    assert job.labels["team"] == "research"
    assert told.scheduling.timeout.total_seconds() == 3600
    assert told.scheduling.max_wait_duration.total_seconds() == 60
    assert told.scheduling.strategy.name == "SPOT"
    assert told.scheduling.restart_job_on_worker_restart
    assert told.scheduling.disable_retries
    assert (told.service_account, told.network) == (run["service_account"], run["network"])
    assert told.enable_web_access
    contexts = f"{PARENT}/metadataStores/default/contexts"
    assert (told.experiment, told.experiment_run) == (f"{contexts}/exp", f"{contexts}/exp-first")
    assert told.tensorboard == f"{PARENT}/tensorboards/123"
    assert told.persistent_resource_id == "pool"


def test_all_attempts_of_a_run_share_the_folder_of_its_checkpoints() -> None:
    again = StartRequest("launch-1-a2", ("train",), {}, labels=LABELS, image="i", resource_args={"spec": SPEC})
    first, second = (made(each).job_spec.base_output_directory.output_uri_prefix for each in (request(), again))
    assert first == second == "gs://bucket/launchbay/Ab12"


def test_an_image_without_an_entry_point_keeps_its_own_program() -> None:
    container = made(request(command=(), args=("--fast",))).job_spec.worker_pool_specs[0].container_spec
    assert (list(container.command), list(container.args)) == ([], ["--fast"])


def test_the_jobs_image_stands_in_where_the_queue_names_none() -> None:
    spec = {**SPEC, "worker_pool_specs": [{"container_spec": {"env": []}}]}
    container = made(request(spec)).job_spec.worker_pool_specs[0].container_spec
    assert container.image_uri == "job:v1"


def test_who_the_run_is_cannot_be_changed_by_the_queue() -> None:
    own = [{"name": "WANDB_RUN_ID", "value": "another"}, {"name": "KEPT", "value": "1"}]
    spec = {**SPEC, "worker_pool_specs": [{"container_spec": {"image_uri": "i", "env": own}}]}
    shown = variables(made(request(spec, environment={"WANDB_RUN_ID": "Ab12"})))
    assert (shown["WANDB_RUN_ID"], shown["KEPT"]) == ("Ab12", "1")


def test_with_secret_manager_no_secret_stands_in_the_job() -> None:
    job = made(request(secrets={"WANDB_API_KEY": "do-not-show"}), THROUGH)
    assert "do-not-show" not in str(job)
    assert list(job.job_spec.worker_pool_specs[0].container_spec.command) == [*THROUGH, "train"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param(request({}), "Vertex requires at least one worker pool spec", id="no pool"),
        pytest.param(
            request({**SPEC, "worker_pool_specs": [{}]}), "requires a container spec for each", id="no container"
        ),
        pytest.param(request({"worker_pool_specs": [POOL]}), "Vertex requires a staging bucket", id="no bucket"),
        pytest.param(request({**SPEC, "labls": {}}), "Did you mean `labels`", id="misspelt"),
        pytest.param(request(run={"timeout": "long"}), "`vertex.run.timeout` cannot be read", id="timeout"),
        pytest.param(request(run={"tensorboard": "1"}), "needs `vertex.run.service_account`", id="tensorboard"),
        pytest.param(request(run={"experiment_run": "1"}), "needs `vertex.run.experiment`", id="experiment run"),
        pytest.param(request({**SPEC, "labels": {"a": 1}}), "an object of texts", id="labels"),
        pytest.param(request(environment={f"V{n}": "" for n in range(100)}), "takes 100", id="too many variables"),
        pytest.param(
            request({**SPEC, "worker_pool_specs": [{"container_spec": {"env": 1}}]}, image=None),
            "no image",
            id="no image",
        ),
        pytest.param(
            request({**SPEC, "worker_pool_specs": [{**POOL, "machine_spec": {"machine": "x"}}]}),
            'no field named "machine"',
            id="field",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(asked: StartRequest, words: str) -> None:
    with pytest.raises(BackendError) as caught:
        made(asked)
    assert words in str(caught.value)


def test_an_images_own_program_cannot_be_given_a_secret() -> None:
    with pytest.raises(BackendError, match="Give the launch an entry point"):
        made(request(command=()), THROUGH)


def test_names_fit_into_labels_and_stay_different() -> None:
    texts = ["launch-1", "Launch-1", "a" * 63, "a" * 64, "a" * 65, "", "ü", "lb-x.y", "lb-x-y"]
    values = [launch_of(text) for text in texts]
    assert len(set(values)) == len(texts)
    assert all(len(value) <= 63 and set(value) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for value in values)
    assert [launch_of(value) for value in values] == values
    assert read_labels(written_labels(LABELS)) == LABELS
    assert read_labels("[1") == read_labels("[1]") == {}


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({}, "needs a region"),
        ({"region": "Mars!"}, "needs a region"),
        ({"region": "us-central1", "regoin": 1}, "`backends.gcp-vertex.regoin` is not known"),
        ({"region": "us-central1", "poll_seconds": 0}, "a number of seconds"),
        ({"region": "us-central1", "secrets": {"prefix": "a/b"}}, "{prefix: launchbay-}"),
        ({"region": "us-central1", "endpoints": {"moon": "x"}}, "by service"),
    ],
)
def test_a_bad_block_is_refused(block: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_REGION", raising=False)
    with pytest.raises(BackendError) as caught:
        read_settings(block)
    assert words in str(caught.value)


def test_the_region_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_REGION", "europe-west4")
    assert read_settings({}) == Settings("europe-west4")
    assert read_settings({"region": "us-central1"}).region == "us-central1"
