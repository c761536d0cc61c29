"""What a launch may set of a job."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocol.job_inputs import JobInput, job_inputs
from protocol.json_types import Json


def typed(**members: Any) -> dict[str, Any]:
    """Return the type of a dictionary, as the client writes it."""
    return {"wb_type": "typedDict", "params": {"type_map": members}}


NUMBER, TEXT, NONE = {"wb_type": "number"}, {"wb_type": "string"}, {"wb_type": "none"}


def test_without_declarations_the_inputs_are_the_config_that_a_run_had() -> None:
    texts = {"wb_type": "list", "params": {"element_type": TEXT, "length": 2}}
    maybe = {"wb_type": "union", "params": {"allowed_types": [NONE, NUMBER]}}
    job = {"input_types": typed(names=texts, lr=maybe, model=typed(**{"layer.1": NUMBER}))}
    assert job_inputs(job, {"_partial": True}) == [
        JobInput("@wandb.config", "lr", "none or number"),
        JobInput("@wandb.config", "model.layer\\.1", "number"),
        JobInput("@wandb.config", "names", "list of string"),
    ]


def test_declared_inputs_have_types_and_rules_and_may_be_in_files() -> None:
    lr = {"type": "number", "minimum": 0}
    layers = {"type": "integer", "enum": [1, 2]}
    metadata = {
        "input_types": {"@wandb.config": typed(lr=NUMBER), "files": {"b.yaml": typed(model=typed(layers=NUMBER))}},
        "input_schemas": {
            "@wandb.config": {"type": "object", "properties": {"lr": lr, "seed": {"type": "integer"}}},
            "files": {
                "a.json": {"properties": {"free": {}}},
                "b.yaml": {"properties": {"model": {"type": "object", "properties": {"layers": layers}}}},
            },
        },
    }
    assert job_inputs({"input_types": typed(hidden=TEXT)}, metadata) == [
        JobInput("@wandb.config", "lr", "number", lr),
        JobInput("@wandb.config", "seed", "integer", {"type": "integer"}),
        JobInput("a.json", "free", "any"),
        JobInput("b.yaml", "model.layers", "number", layers),
    ]


def test_a_schema_alone_is_enough() -> None:
    """`wandb job create --schema` knows no types."""
    metadata = {"input_schemas": {"@wandb.config": {"properties": {"lr": {"type": "number"}}}}}
    assert job_inputs({"input_types": typed()}, metadata) == [
        JobInput("@wandb.config", "lr", "number", {"type": "number"})
    ]


def test_a_tree_may_be_deep_and_a_list_is_not_endless() -> None:
    deep: dict[str, Any] = NUMBER
    for _ in range(5000):
        deep = typed(a=deep)
    found = job_inputs({"input_types": deep}, {})
    assert [each.type for each in found] == ["number"]
    many = typed(**{f"key{number:04}": NUMBER for number in range(2000)})
    assert len(job_inputs({"input_types": many}, {})) == 1000


words = st.sampled_from(
    [
        "@wandb.config",
        "files",
        "wb_type",
        "params",
        "type_map",
        "properties",
        "typedDict",
        "union",
        "allowed_types",
        "x",
    ]
)
anything: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=20,
)


@given(anything, anything, anything)
def test_nonsense_is_left_out(config: Json, types: Json, schemas: Json) -> None:
    job_inputs({"input_types": config}, {"input_types": types, "input_schemas": schemas})
