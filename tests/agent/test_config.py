"""The agent's configuration: layers, errors that say what to do, the stock agent's keys, schema and reference."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agent.config.builder import cluster_builder, docker_builder
from agent.config.file import load as load_config
from agent.config.file import read as read_config
from agent.config.keys import every_key
from agent.config.masking import mask
from agent.config.model import AgentConfig, LeaderElection
from agent.config.reloading import AT_THE_START
from agent.config.schema import schema
from agent.config.stock_blocks import STOCK_BLOCKS, backend_block
from agent.errors import ConfigError
from agent.launch import Cause
from protocol.masking import REDACTED

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "configuration.md").read_text()
SCHEMA = ROOT / "docs" / "agent-config.schema.json"


def write(tmp_path: Path, text: str) -> Path:
    """Return a file of this text."""
    path = tmp_path / "launch-config.yaml"
    path.write_text(text)
    return path


def load(tmp_path: Path, text: str = "", environment: dict[str, str] | None = None, **flags: Any) -> AgentConfig:
    """Load a configuration from a file of this text."""
    return load_config(write(tmp_path, text), environment or {}, flags)


def error_of(tmp_path: Path, text: str, environment: dict[str, str] | None = None, **flags: Any) -> str:
    """Return what is said of a file that cannot be used."""
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text, environment, **flags)
    return str(error.value)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_flags_go_over_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = "queues: [a]\nmax_jobs: 2\nentity: from-file\n"
    assert load(tmp_path, text).max_jobs == 2
    assert load(tmp_path, text, {"WANDB_LAUNCH_MAX_JOBS": "3", "WANDB_ENTITY": "env"}).max_jobs == 3
    loaded = load(tmp_path, text, {"WANDB_LAUNCH_MAX_JOBS": "3"}, max_jobs=4, queues=("b",), entity=None)
    assert (loaded.max_jobs, loaded.queues, loaded.entity) == (4, ("b",), "from-file")


def test_where_each_value_came_from_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, "queues: [a]\nmax_jobs: 2\nentity: e\nverbosity:\n")
    loaded = read_config(path, {"WANDB_LAUNCH_MAX_JOBS": "3"}, {"queues": ("b",), "state_dir": None})
    assert loaded.origins == {"queues": "flag", "max_jobs": "WANDB_LAUNCH_MAX_JOBS", "entity": str(path)}


def test_a_missing_file_is_an_error_only_if_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml", {}, {"queues": ("q",)})
    assert load_config(None, {}, {"queues": ("q",)}, default_path=tmp_path / "none.yaml").queues == ("q",)


def test_the_default_file_is_read_if_it_is_there(tmp_path: Path) -> None:
    assert load_config(None, {}, {}, default_path=write(tmp_path, "queues: [q]")).queues == ("q",)


def test_a_key_without_a_value_is_as_if_not_given(tmp_path: Path) -> None:
    assert load(tmp_path, "queues: [q]\nmax_jobs:\nbuilder:\ntimeouts:\n") == AgentConfig(queues=("q",))


def test_one_queue_may_be_named_in_the_singular(tmp_path: Path) -> None:
    assert load(tmp_path, "queue: only").queues == ("only",)
    assert load(tmp_path, "queues: [a]\nqueue: b").queues == ("a", "b")
    assert load(tmp_path, "queue: only", queues=("flag",)).queues == ("flag",)


def test_the_state_folder_may_be_in_the_home_folder(tmp_path: Path) -> None:
    assert load(tmp_path, "queues: [q]\nstate_dir: ~/state").state_dir == Path.home() / "state"


def test_on_is_a_key_of_retry_rules_and_off_still_means_false(tmp_path: Path) -> None:
    """Older YAML reads both as truth values, and yes and no too."""
    loaded = load(tmp_path, "queues: [q]\nsecure_mode: yes\nretries: [{on: [workload, {exit_code: [75]}]}]")
    assert loaded.secure_mode is True
    assert loaded.retries[0].on[0] is Cause.WORKLOAD
    assert load(tmp_path, "queues: [q]\nsecure_mode: off").secure_mode is False


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_job: 2", "`max_job` is not a known key. Did you mean `max_jobs`?"),
        ("xyzzy: 2", "`xyzzy` is not a known key. Known keys: entity, queues"),
        ("1: 2", "`1` is not a known key."),
        ("base_url: x", "`base_url` is not a known key. Set WANDB_BASE_URL instead."),
        ("timeouts: {strat: 3}", "`timeouts.strat` is not a known key. Did you mean `timeouts.start`?"),
        (
            "timeouts: {xyzzy: 3}",
            "`timeouts.xyzzy` is not a known key. Known keys of `timeouts`: prepare, admit, schedule, pull, start,",
        ),
        ("retries: [{on: [workload], attempt: 1}]", "`retries.0.attempt` is not a known key. Did you mean"),
        ("slots: {max_jobs: 3}", "`slots.max_jobs` is not a known key. Did you mean `max_jobs`?"),
        ("prepare: 3", "`prepare` is not a known key. Did you mean `timeouts.prepare`?"),
        ("max_jobs: -2", "`max_jobs` is -2; it must be 1 or more, or -1 for no limit."),
        ("max_jobs: many", "`max_jobs` is 'many'; it must be a whole number."),
        ("resources: abc", "`resources` is 'abc'; it must be a list."),
        ("queue: [a, b]", "`queue` must be one name"),
        ("secure_mode: perhaps", "`secure_mode` is 'perhaps'; it must be true or false."),
        ("timeouts: 3", "`timeouts` is 3; it must be a mapping of keys to values."),
        ("timeouts: {run: 0}", "`timeouts.run` is 0; it must be greater than 0."),
        ("drain: {running: kill}", "`drain.running` is 'kill'; it must be 'leave' or 'wait'."),
        ("slots: {cpus: many}", "`slots.cpus` is 'many'; it must be 'auto' or a number."),
        ("slots: {gpus: 0}", "`slots.gpus` is 0; it must be 'auto' or 'none' or a list."),
        ("slots: {gpus: [0, 1.5]}", "`slots.gpus.1` is 1.5; it must be text."),
        ("slots: {gpus: [-1]}", "`slots.gpus.0` is -1; it must be text."),
        ("slots: {memory: much}", "`slots.memory` is 'much'; it must be auto, a number of bytes, or a size as 8GiB"),
        ("slots: {memory: 1.5}", "`slots.memory` is 1.5; it must be auto, a number of bytes"),
        ("slots: {memory: -1}", "`slots.memory` is -1; it must be auto, a number of bytes"),
        ("listen: '9100'", "`listen` is '9100'; it must be HOST:PORT, as 127.0.0.1:9100 or [::1]:9100."),
        ("listen: 9100", "`listen` is 9100; it must be HOST:PORT"),
        ("listen: {host: a}", "`listen` is a mapping; it must be HOST:PORT"),
        ("queue_limits: {q: -1}", "`queue_limits.q` is -1; it must be"),
        ("retries: [{attempts: 2}]", "`retries.0.on` is missing."),
        ("retries: [{on: []}]", "`retries.0.on` is an empty list; it must be a list with something in it."),
        (
            "retries: [{on: [bad_luck]}]",
            "`retries.0.on.0` is 'bad_luck'; it must be 'workload', 'preempted', 'node_lost'",
        ),
        ("retries: [{on: [{exit_code: 1}]}]", "`retries.0.on.0.exit_code` is 1; it must be a list."),
        ("timeouts: {run: .inf}", "`timeouts.run` is inf; it must be a finite number."),
        ("stopped_run_timeout: .nan", "`stopped_run_timeout` is nan; it must be"),
        ("max_jobs: 1\nentity: e\nmax_jobs: 2", "is not YAML: line 3, column 1: this key stands there twice"),
        ("slots: {cpus: 1, cpus: 2}", "is not YAML: line 1, column 18: this key stands there twice"),
        ("timeouts: {run: %s}" % ("9" * 5000), "cannot be read: it holds a number that is too long"),
        ("[" * 3000, "or is nested too deep"),
        ("- a\n- b", "must hold a mapping"),
        ("queues: [box\nmax_jobs: 1", "is not YAML: line 2, column 9: expected ',' or ']', but got ':'"),
        ("a: [", "is not YAML: line 1, column 5: expected the node content"),
        ("a: \0", "is not YAML: it holds characters"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    said = error_of(tmp_path, text, queues=("q",))
    assert message in said
    assert str(tmp_path / "launch-config.yaml") in said
    assert "\n\n" not in said


def test_a_date_is_a_word(tmp_path: Path) -> None:
    assert load(tmp_path, "queues: [2026-01-31, 2026-13-32]").queues == ("2026-01-31", "2026-13-32")


def test_a_queue_that_is_named_twice_is_served_once(tmp_path: Path) -> None:
    assert load(tmp_path, "queues: [a, b, a]\nqueue: b").queues == ("a", "b")
    assert load(tmp_path, "", queues=("a", "a")).queues == ("a",)


def test_what_is_merged_may_be_replaced(tmp_path: Path) -> None:
    text = "queues: [q]\nbuilder: &all {type: noop, a: 1}\nenvironment: {<<: *all, type: aws}"
    assert load(tmp_path, text).environment == {"type": "aws", "a": 1}


def test_what_is_wrong_is_told_once(tmp_path: Path) -> None:
    said = error_of(tmp_path, "queues: [q]\nretries: [{on: [{exit_code: [x]}]}]\nslots: {gpus: {}}")
    assert said.count("\n") == 2, said


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(path, {}, {})


def test_an_agent_without_a_queue_is_refused(tmp_path: Path) -> None:
    assert "`queues.0` is ''; it must be text with something in it." in error_of(tmp_path, "queues: ['']")
    assert "No queue to serve. Name one with -q QUEUE" in error_of(tmp_path, "max_jobs: 1")
    assert read_config(write(tmp_path, "max_jobs: 2"), {}, {}).config.max_jobs == 2


def test_a_bad_variable_or_flag_is_named(tmp_path: Path) -> None:
    said = error_of(tmp_path, "queues: [q]", {"WANDB_LAUNCH_MAX_JOBS": "many"}, verbosity=9)
    assert "`max_jobs` is 'many'; it must be a whole number. (WANDB_LAUNCH_MAX_JOBS)" in said
    assert "`verbosity` is 9; it must be less than or equal to 2. (flag)" in said


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    said = error_of(tmp_path, "queues: [q]\nmax_jobs: -2\nverbosity: 7\nnonsense: 1")
    assert all(key in said for key in ("3 problems:", "max_jobs", "verbosity", "nonsense"))


# --- the stock agent's file -------------------------------------------------------------------------------------------


def stock_models() -> dict[str, Any]:
    """Return the models of the installed stock agent's file and of its blocks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library that it defines them with
        from wandb.sdk.launch.agent import config
    return {
        "": config.AgentConfig,
        "environment": config.EnvironmentConfig,
        "registry": config.RegistryConfig,
        "builder": config.BuilderConfig,
    }


def test_every_key_of_the_stock_agents_file_is_known() -> None:
    models = stock_models()
    assert models[""].model_fields.keys() <= AgentConfig.model_fields.keys()
    for block, known in STOCK_BLOCKS.items():
        assert {field.alias or name for name, field in models[block].model_fields.items()} <= known.keys()
        enum = models[block].model_fields["type"].annotation.__args__[0]
        assert {each.value for each in enum} <= set(known["type"]["enum"])


def test_a_file_of_the_stock_agent_means_the_same(tmp_path: Path) -> None:
    text = """
    entity: e
    queues: [q]
    max_jobs: -1
    max_schedulers: 8
    secure_mode: true
    verbosity: 1
    stopped_run_timeout: 30
    environment: {type: aws, region: us-east-1}
    builder: {type: kaniko, build-context-store: s3://b/p, destination: x, kaniko-config: {spec: {}}}
    """
    stock_models()[""].model_validate(yaml.safe_load(text))
    loaded = load(tmp_path, text)
    assert {key: value for key, value in loaded if key in loaded.model_fields_set} == {
        **yaml.safe_load(text),
        "queues": ("q",),
    }


def warnings_of(tmp_path: Path, text: str) -> str:
    """Return what is said of a file that can be used."""
    return "\n".join(read_config(write(tmp_path, text), {}, {}).warnings)


def test_what_means_nothing_is_warned_about(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, "queues: [q]\nproject: p") == (
        "`project` is accepted and ignored: each item names its own project."
    )
    for block in ("environment: {type: aws}", "builder: {type: noop}"):
        assert warnings_of(tmp_path, block) == (
            f"Without effect: `{block.split(':')[0]}`. No resource that this agent serves (local-process) uses them."
        )
        assert warnings_of(tmp_path, f"{block}\nresources: [kubernetes]") == ""
    assert warnings_of(tmp_path, "backends: {local-process: {}, moon: {}}") == (
        "`backends.moon` without effect: `resources` does not name it."
    )
    assert "`registry` is deprecated" in warnings_of(tmp_path, "registry: {type: ecr}")


def test_likely_mistakes_in_the_stock_blocks_are_warned_about(tmp_path: Path) -> None:
    text = "resources: [kubernetes]\nbuilder: {type: dokcer, build_context_store: x}\nenvironment: {region: r}"
    assert set(warnings_of(tmp_path, text).splitlines()) == {
        "`builder.type` must be one of docker, buildkit, kaniko, noop, and is 'dokcer'.",
        "`builder.build_context_store` is not a known key, and is ignored. Did you mean `builder.build-context-store`?",
        "`environment.type` must be one of aws, gcp, azure, and is missing.",
    }


@pytest.mark.parametrize(
    ("resource", "environment", "told"),
    [
        pytest.param("gcp-vertex", {"type": "gcp", "region": "r", "project": "p"}, {"region": "own", "project": "p"}),
        pytest.param("vertex", {"type": "gcp", "region": "r"}, {"region": "own"}),
        pytest.param("sagemaker", {"type": "aws", "region": "r", "typo": 1}, {"region": "own"}),
        pytest.param("sagemaker", {"type": "gcp", "project": "p"}, {"region": "own"}, id="another cloud"),
        pytest.param("kubernetes", {"type": "aws", "region": "r"}, {"region": "own"}, id="no cloud's"),
    ],
)
def test_a_clouds_backend_is_told_the_environment_before_its_own_block(
    resource: str, environment: dict[str, Any], told: dict[str, Any]
) -> None:
    config = AgentConfig(environment=environment, backends={resource: {"region": "own"}})
    assert backend_block(config, resource) == told
    assert backend_block(AgentConfig(environment={"type": "gcp", "region": "r"}), "gcp-vertex") == {"region": "r"}


# --- secrets ----------------------------------------------------------------------------------------------------------

SECRETS = """
queues: [q]
resources: [kubernetes]
registry: {type: ecr, uri: "https://me:hunter2@registry.example/x", password: hunter2, 1: {authToken: hunter2}}
backends: {kubernetes: {context: c, token: hunter2}}
environment: {type: azure, account_key: hunter2, list: [{client_secret: hunter2}]}
builder:
  type: kaniko
  secret-name: aws-secret
  secret-key: credentials
  credentials: {username: hunter2}
  kaniko-config:
    env: [{name: AWS_SECRET_ACCESS_KEY, value: hunter2}, {name: REGION, value: us-east-1}]
"""


def test_secrets_are_masked_and_nothing_else() -> None:
    values = yaml.safe_load(SECRETS)
    shown = mask(values)
    assert "hunter2" not in json.dumps(shown)
    assert json.dumps(shown).count("<redacted>") == 8
    assert shown["registry"]["uri"] == "https://<redacted>@registry.example/x"
    assert (shown["builder"]["secret-name"], shown["builder"]["secret-key"]) == ("aws-secret", "credentials")
    assert shown["builder"]["kaniko-config"]["env"][1] == {"name": "REGION", "value": "us-east-1"}
    assert (shown["queues"], shown["resources"]) == (["q"], ["kubernetes"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"env": ["TOKEN=hunter2", "A=b"]}, {"env": ["TOKEN=<redacted>", "A=b"]}),
        ({"args": ["--api-key=hunter2", "-x"]}, {"args": ["--api-key=<redacted>", "-x"]}),
        ({"header": "X-Auth: hunter2"}, {"header": "X-Auth: <redacted>"}),
        (
            {"tags": [{"key": "DB_PASSWORD", "value": "hunter2"}]},
            {"tags": [{"key": "<redacted>", "value": "<redacted>"}]},
        ),
        ({"deep": {"er": ["see postgres://me:hunter2@db/x"]}}, {"deep": {"er": ["see postgres://<redacted>@db/x"]}}),
        ({"Password": {"a": ["hunter2"]}}, {"Password": "<redacted>"}),
        ({1: {"SECRET": 7}}, {1: {"SECRET": "<redacted>"}}),
        ({"token": None, "use_token": True}, {"token": None, "use_token": "<redacted>"}),
    ],
)
def test_a_secret_is_found_in_unusual_places(value: Any, shown: Any) -> None:
    assert mask({"backends": {"b": value}}) == {"backends": {"b": shown}}


@pytest.mark.parametrize(
    ("resource", "block", "shown"),
    [
        ("sagemaker", {"secrets": {"prefix": "a/"}}, {"secrets": {"prefix": "a/"}}),
        ("gcp-vertex", {"secrets": {"prefix": "a-"}}, {"secrets": {"prefix": "a-"}}),
        ("vertex", {"secrets": {"prefix": "a-", "value": "hunter2"}}, {"secrets": {"prefix": "a-", "value": REDACTED}}),
        ("sagemaker", {"secrets": {"prefix": {"a": "hunter2"}}}, {"secrets": {"prefix": REDACTED}}),
        ("sagemaker", {"secrets": "hunter2"}, {"secrets": REDACTED}),
        ("moon", {"secrets": {"prefix": "hunter2"}}, {"secrets": REDACTED}),
        ("kubernetes", {"image_pull_secrets": ["a", "b"]}, {"image_pull_secrets": ["a", "b"]}),
        (
            "local-container",
            {
                "registries": {
                    "r.test": {"user": "u", "password_file": "/f", "password_env": "E", "password": "hunter2"}
                }
            },
            {"registries": {"r.test": {"user": "u", "password_file": "/f", "password_env": "E", "password": REDACTED}}},
        ),
    ],
)
def test_where_a_secret_is_is_no_secret(resource: str, block: dict[str, Any], shown: dict[str, Any]) -> None:
    assert mask({"backends": {resource: block}}) == {"backends": {resource: shown}}


def test_a_password_in_a_url_is_masked_wherever_it_stands() -> None:
    shown = mask(
        {"policy": {"git_hosts": ["https://me:hunter2@git.test"], "images": ["key=*"]}, "name": "a://hunter2@b"}
    )
    assert shown == {
        "policy": {"git_hosts": ["https://<redacted>@git.test"], "images": ["key=*"]},
        "name": "a://<redacted>@b",
    }


@pytest.mark.parametrize(
    "text",
    [
        "registry: hunter2",
        "registry: {1: hunter2}",
        "builder: [hunter2]",
        "backends: {moon: hunter2}",
        "api_key: hunter2",
        "entity: {password: hunter2}",
        "password: *hunter2",
        "password: !hunter2 x",
        "password: hunter2: x",
        "registry:\n  password: hunter2\n a: b",
        "password: 'hunter2",
    ],
)
def test_no_message_shows_a_secret(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in error_of(tmp_path, text, queues=("q",))


def test_no_warning_shows_a_secret(tmp_path: Path) -> None:
    usable = SECRETS.replace("1: {authToken: hunter2}", "").replace("https://me:hunter2@", "")
    assert warnings_of(tmp_path, usable)
    assert "hunter2" not in warnings_of(tmp_path, usable)


# --- schema and reference ---------------------------------------------------------------------------------------------


def test_the_published_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), (
        "write it anew: launchbay agent schema > docs/agent-config.schema.json"
    )


def test_the_schema_is_one_and_agrees_with_what_is_accepted(tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    good = "queue: q\nproject: p\nretries: [{'on': [preempted, {exit_code: [75]}]}]\nbuilder: {type: kaniko, x: y}\n"
    for right in (
        good,
        "queue: q\nslots: {gpus: [0, '1'], memory: 1024}",
        "queue: q\nslots: {gpus: auto, memory: auto}",
        "queue: q\nlimits: {file: 1 GiB, total: null}\ncaches: {code: 0, environments: 1.5TB}\nretention: {size: null}",
        "queue: q\ngit: {hosts: {git.test: {token_env: T}, other.test: {key_file: /k}}}",
        "queue: q\nslots: {gpus: [GPU-a], memory: 64 GiB}\nlisten: '[::1]:9100'",
    ):
        load(tmp_path, right)
        assert validator.is_valid(yaml.safe_load(right)), right
    for bad in (
        *("max_job: 1", "timeouts: {strat: 1}", "verbosity: 3", "queues: q", "drain: {running: kill}"),
        *("slots: {gpus: 0}", "slots: {gpus: [1.5]}", "slots: {gpus: [-1]}", "slots: {gpus: [true]}"),
        *("slots: {memory: much}", "slots: {memory: -1}", "slots: {memory: '64GBB'}", "slots: {memory: 1.5}"),
        *("limits: {file: much}", "caches: {code: -1}", "caches: {code: 1.5}", "retention: {failed_seconds: -1}"),
        *("listen: 9100", "listen: '9100'", "listen: 'host:http'", "listen: '[::1]'"),
        *("git: {hosts: {h: {token: t}}}", "git: {timeout: 0}"),
    ):
        error_of(tmp_path, bad)
        assert not validator.is_valid(yaml.safe_load(bad)), bad


def documented() -> dict[str, str]:
    """Return the default that the reference tells, by key; nothing where it tells none."""
    _, tables = REFERENCE.split("## What to serve")
    rows = re.findall(r"^\| `([\w.-]+)` \| [^|]* \|(?: ([^|]*?) ?\|)?$", tables, re.MULTILINE)
    return dict(rows)


def test_the_reference_has_every_key_and_no_other() -> None:
    blocks = {f"{block}.{key}" for block, keys in STOCK_BLOCKS.items() for key in keys}
    headings = {"timeouts", "retries", "drain", "slots", "limits", "caches", "retention", "git", "policy"}
    headings |= {"policy.kubernetes", "leader_election"}
    assert documented().keys() == ({*every_key()} | blocks) - headings
    assert all(f"### `{heading}`" in REFERENCE for heading in headings - {"policy"})
    assert "`queue`" in REFERENCE
    assert "`project`" in REFERENCE


def test_the_reference_tells_the_right_defaults() -> None:
    plain = AgentConfig().model_dump(mode="json")
    rule = AgentConfig().retries[0]
    assert (list(rule.on), rule.attempts) == ([Cause.PREEMPTED], 5)
    assert "one rule, for `preempted` with 5 attempts" in REFERENCE
    plain["retries"] = {
        name: field.default for name, field in type(rule).model_fields.items() if not field.is_required()
    }
    plain["leader_election"] = LeaderElection(lease="x").model_dump() | {"lease": None}
    checked = 0
    for key, default in documented().items():
        value: Any = plain
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if key.split(".")[0] not in STOCK_BLOCKS and (default or value is not None):
            assert yaml.safe_load(default.strip("`")) == value, key
            checked += 1
    assert checked > 20


def test_the_reference_tells_what_needs_a_restart() -> None:
    sentence = re.search(r"These keys count at the start alone\.(.*?)\n\n", REFERENCE, re.DOTALL)
    assert sentence
    assert set(re.findall(r"`(\w+)`", sentence[1])) == AT_THE_START | {"max_schedulers"}


def test_the_references_examples_are_right(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)
    assert load(tmp_path, examples[0]).queue_limits == {"gpu-box": 6}
    assert any("git" in (yaml.safe_load(example) or {}) for example in examples)
    for example in examples:
        assert not warnings_of(tmp_path, f"queue: q\n{example}" if "queues" not in example else example)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (
            "destination: host:5000/team/x:v1",
            "`builder.destination`: Destination for built images may not include a tag, but the URI provided includes "
            "the suffix 'v1'.",
        ),
        ("destination: host:5000/Team x", "it must be an image repository without a tag"),
        ("destination: europe-docker.pkg.dev/p/r", "An image name must be specified in the URI for a GCP Artifact"),
        ("platform: linux/riscv64", "it must be 'linux/amd64' or 'linux/arm64'"),
        ("cache: much", "it must be 'none' or 'registry'"),
        ("buildx_instance: --load", "it must be a name of letters, digits"),
        ("context_limit: much", "it must be a number of bytes, or a size"),
        ("user: me", "`user` and `password_file` belong together"),
    ],
)
def test_a_builder_that_cannot_work_is_an_error_at_the_start(tmp_path: Path, block: str, problem: str) -> None:
    kinds = ["docker"] if "buildx_instance" in block else ["docker", "kaniko", "buildkit"]
    for kind in kinds:
        assert problem in error_of(tmp_path, f"builder:\n  type: {kind}\n  {block}\n")


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("namespace: Team_A", "`builder.namespace` is a single value"),
        ("insecure_registry: perhaps", "it must be true or false"),
        ("secret-name: ''", "it must be text with something in it"),
        ("kaniko-config: []", "it must be a mapping of keys to values"),
    ],
)
def test_a_builder_in_a_cluster_that_cannot_work_is_an_error_at_the_start(
    tmp_path: Path, block: str, problem: str
) -> None:
    assert problem in error_of(tmp_path, f"builder:\n  type: buildkit\n  {block}\n")


def test_what_kaniko_had_and_builds_in_a_cluster_have_not_is_told(tmp_path: Path) -> None:
    text = """
    resources: [kubernetes]
    builder:
      type: kaniko
      build-context-store: s3://b/p
      kaniko-image: gcr.io/kaniko-project/executor
      secret-name: aws-secret
      secret-key: credentials
      kaniko-config: {spec: {template: {spec: {containers: [{args: [--skip-tls-verify]}]}}}}
    """
    said = warnings_of(tmp_path, text)
    for words in (
        "`builder.destination` is missing",
        "`builder.build-context-store` has no effect",
        "`builder.kaniko-image` has no effect",
        "must be a Secret with a docker configuration",
        "`args` in `builder.job-config` (or kaniko-config) has no effect",
    ):
        assert words in said
    good = "resources: [kubernetes]\nbuilder: {type: kaniko, destination: 'https://registry.test/x', secret-name: s}"
    assert warnings_of(tmp_path, good) == ""


def test_a_builder_in_a_cluster_is_called_by_either_name(tmp_path: Path) -> None:
    for kind, job in (("kaniko", "kaniko-config"), ("buildkit", "job-config")):
        text = f"queues: [q]\nbuilder: {{type: {kind}, destination: 'https://r.test/x/', {job}: {{spec: {{}}}}}}"
        builder = cluster_builder(load(tmp_path, text))
        assert builder
        assert (builder.destination, builder.job_config, builder.cache) == ("r.test/x", {"spec": {}}, "registry")


def test_a_destination_may_have_a_port(tmp_path: Path) -> None:
    config = load(
        tmp_path, "queues: [q]\nbuilder: {type: docker, destination: 'host:5000/team/x', context_limit: 2GiB}"
    )
    builder = docker_builder(config)
    assert builder
    assert (builder.destination, builder.context_limit) == ("host:5000/team/x", 2 * 2**30)
    assert docker_builder(load(tmp_path, "queues: [q]")) is None


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({}, None),
        ({"type": "ecr", "uri": "https://1.dkr.ecr.eu.amazonaws.com/r/"}, "1.dkr.ecr.eu.amazonaws.com/r"),
        (
            {"type": "ecr", "account_id": "123456789012", "region": "eu-west-1", "repo_name": "jobs"},
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com/jobs",
        ),
        (
            {"type": "gcr", "region": "europe", "project": "p", "repository": "r", "image-name": "i"},
            "europe-docker.pkg.dev/p/r/i",
        ),
        ({"type": "gcr", "uri": "https://europe-docker.pkg.dev/p/r/i"}, "europe-docker.pkg.dev/p/r/i"),
        ({"type": "acr", "uri": "team.azurecr.io/jobs"}, "team.azurecr.io/jobs"),
    ],
)
def test_the_old_block_registry_says_where_images_go(block: dict[str, Any], expected: str | None) -> None:
    builder = docker_builder(AgentConfig(registry=block, builder={"type": "docker"}))
    assert builder
    assert builder.destination == expected
    builder = docker_builder(AgentConfig(registry=block, builder={"type": "docker", "destination": "it/goes/here"}))
    assert builder
    assert builder.destination == "it/goes/here"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "ecr", "region": "eu-west-1"}, "`registry.account_id`, `registry.repo_name` missing"),
        ({"type": "acr"}, "`registry.uri` missing"),
        ({"uri": "host:5000/x:tag"}, "without a tag"),
        ({"uri": "host:5000/X y"}, "without a tag"),
    ],
)
def test_an_old_block_that_says_too_little_is_an_error_at_the_start(
    tmp_path: Path, block: dict[str, Any], words: str
) -> None:
    assert words in error_of(tmp_path, yaml.safe_dump({"registry": block, "builder": {"type": "docker"}}))
