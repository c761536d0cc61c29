"""Template variables: declared, valued, rendered; what a template may not do."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import TemplateError
from protocol.json_types import Json
from protocol.templates import (
    MAX_DEPTH,
    MAX_LEAF_CHARS,
    MAX_RENDERED_CHARS,
    Variable,
    parse_variables,
    render,
    resolve_values,
    variable_names,
)

ALLOWED = (
    "not allowed beside a placeholder or in it. "
    "Allowed are variables and the filters default, int, lower, replace, string, trim, upper."
)
SCHEMA_KEYS = "default, description, enum, maximum, minimum, title, type"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
hostile_texts = st.lists(st.sampled_from(["{{", "}}", "{%", "%}", "{#", "b", " ", "'", "|", "${b}", "\n", "<"])).map(
    "".join
)
scalars: st.SearchStrategy[Json] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts, hostile_texts
)


def declared(**schemas: dict[str, Any]) -> dict[str, Variable]:
    """Return variables by their schemas."""
    return parse_variables({name: {"schema": schema} for name, schema in schemas.items()})


def nested(depth: int, leaf: Json) -> Json:
    """Return a leaf inside so many lists and objects, in turn."""
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"key": leaf}
    return leaf


# --- declarations -----------------------------------------------------------------------------------------------------


def test_a_declaration_keeps_schema_and_description() -> None:
    schema: dict[str, Json] = {
        "type": "integer",
        "minimum": 1,
        "maximum": 8,
        "enum": [1, 2],
        "default": 2,
        "title": "G",
    }
    found = parse_variables(
        {"gpus": {"schema": schema, "description": "How many"}, "_x1": {"schema": {"type": "string"}}}
    )
    assert found == {
        "gpus": Variable("gpus", schema, "How many"),
        "_x1": Variable("_x1", {"type": "string"}, None),
    }


@pytest.mark.parametrize("key", ["enum", "minimum", "maximum", "default"])
def test_a_null_rule_is_no_rule(key: str) -> None:
    variables = declared(a={"type": "integer", key: None})
    assert resolve_values(variables, {"a": 5}) == {"a": 5}


@pytest.mark.parametrize("declaration", [1, None, "string", [], {}, {"schema": None}, {"schema": "string"}], ids=repr)
def test_a_declaration_must_be_an_object_with_a_schema(declaration: Json) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_variables({"gpus": declaration})
    assert str(caught.value) == 'Template variable \'gpus\' must be declared as {"schema": {"type": ...}}.'


@pytest.mark.parametrize(
    "name", ["", "a b", " a", "a\n", "1a", "a-b", "a.b", "a|upper", "é", "true", "False", "none", "not", "self", "}}{{"]
)
def test_a_name_must_be_plain(name: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_variables({name: {"schema": {"type": "string"}}})
    assert str(caught.value) == (f"{name!r} cannot be a template variable's name: use letters, digits and underscores.")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        pytest.param({}, "has type None; use string, number, integer.", id="no type"),
        pytest.param({"type": "boolean"}, "has type 'boolean'; use string, number, integer.", id="type boolean"),
        pytest.param({"type": ["string"]}, "has type ['string']; use string, number, integer.", id="list of types"),
        pytest.param(
            {"type": "string", "pattern": "x", "format": "y"},
            f"has the unknown key 'format' in its schema; use {SCHEMA_KEYS}.",
            id="unknown key",
        ),
        pytest.param(
            {"type": "string", "$ref": "http://x"},
            f"has the unknown key '$ref' in its schema; use {SCHEMA_KEYS}.",
            id="reference",
        ),
        pytest.param(
            {"type": "number", "minimum": "1"}, "has the minimum '1'; it must be a number.", id="minimum as text"
        ),
        pytest.param(
            {"type": "number", "minimum": True}, "has the minimum True; it must be a number.", id="minimum true"
        ),
        pytest.param(
            {"type": "number", "maximum": float("inf")},
            "has the maximum inf; it must be a number.",
            id="maximum infinite",
        ),
        pytest.param(
            {"type": "number", "maximum": float("nan")}, "has the maximum nan; it must be a number.", id="maximum nan"
        ),
        pytest.param(
            {"type": "number", "minimum": 3, "maximum": 2.5},
            "has a minimum, 3, above its maximum, 2.5.",
            id="bounds crossed",
        ),
        pytest.param({"type": "string", "enum": []}, "has the enum []; it must be a list of values.", id="enum empty"),
        pytest.param(
            {"type": "string", "enum": "abc"}, "has the enum 'abc'; it must be a list of values.", id="enum text"
        ),
        pytest.param(
            {"type": "string", "enum": {"a": 1}},
            "has the enum {'a': 1}; it must be a list of values.",
            id="enum object",
        ),
        pytest.param(
            {"type": "integer", "default": "x"},
            "has the default 'x', but an integer is wanted.",
            id="default of other type",
        ),
        pytest.param(
            {"type": "integer", "default": True}, "has the default True, but an integer is wanted.", id="default true"
        ),
        pytest.param(
            {"type": "number", "default": 3, "maximum": 2},
            "has the default 3, but at most 2 is allowed.",
            id="default too high",
        ),
        pytest.param(
            {"type": "string", "default": "c", "enum": ["a", "b"]},
            "has the default 'c', but only 'a', 'b' are allowed.",
            id="default not in enum",
        ),
    ],
)
def test_a_schema_that_no_value_can_be_checked_by_is_refused(schema: dict[str, Json], message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_variables({"x": {"schema": schema}})
    assert str(caught.value) == f"Template variable 'x' {message}"


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "given_values", "value"),
    [
        pytest.param({"type": "string"}, {"x": ""}, "", id="empty text is a value"),
        pytest.param({"type": "string"}, {"x": "1e3"}, "1e3", id="text like a number"),
        pytest.param({"type": "number"}, {"x": 1}, 1, id="whole number"),
        pytest.param({"type": "number"}, {"x": 2.0}, 2.0, id="number stays a float"),
        pytest.param({"type": "integer"}, {"x": 2.0}, 2, id="integer written as float"),
        pytest.param({"type": "integer", "default": 4.0}, {}, 4, id="default written as float"),
        pytest.param({"type": "integer", "default": 4}, {"x": 0}, 0, id="zero beats default"),
        pytest.param({"type": "integer", "default": 4}, {"x": None}, 4, id="null means default"),
        pytest.param({"type": "number", "minimum": 0, "maximum": 1}, {"x": 0}, 0, id="at minimum"),
        pytest.param({"type": "number", "minimum": 0, "maximum": 1}, {"x": 1}, 1, id="at maximum"),
        pytest.param({"type": "string", "enum": ["a", "b"]}, {"x": "b"}, "b", id="in enum"),
    ],
)
def test_a_value_is_the_given_one_or_the_default(schema: Any, given_values: dict[str, Json], value: Json) -> None:
    found = resolve_values(declared(x=schema), given_values)
    assert found == {"x": value}
    assert type(found["x"]) is type(value)


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        pytest.param({"type": "integer"}, "1", "is '1', but an integer is wanted.", id="text for integer"),
        pytest.param({"type": "integer"}, 1.5, "is 1.5, but an integer is wanted.", id="fraction for integer"),
        pytest.param({"type": "integer"}, True, "is True, but an integer is wanted.", id="bool for integer"),
        pytest.param({"type": "number"}, "1", "is '1', but a number is wanted.", id="text for number"),
        pytest.param({"type": "number"}, False, "is False, but a number is wanted.", id="bool for number"),
        pytest.param({"type": "string"}, 1, "is 1, but a string is wanted.", id="number for string"),
        pytest.param({"type": "string"}, {"a": 1}, "is {'a': 1}, but a string is wanted.", id="object for string"),
        pytest.param({"type": "number"}, float("nan"), "is nan, but a finite number is wanted.", id="nan"),
        pytest.param({"type": "number"}, float("-inf"), "is -inf, but a finite number is wanted.", id="infinite"),
        pytest.param({"type": "number", "minimum": 1}, 0.5, "is 0.5, but at least 1 is wanted.", id="too low"),
        pytest.param({"type": "number", "maximum": 8}, 9, "is 9, but at most 8 is allowed.", id="too high"),
        pytest.param({"type": "integer", "enum": [1, 2]}, 3, "is 3, but only 1, 2 are allowed.", id="not in enum"),
        pytest.param(
            {"type": "integer"}, "x" * 300, f"is '{'x' * 199}..., but an integer is wanted.", id="long values are cut"
        ),
    ],
)
def test_a_value_that_breaks_its_schema_is_named(schema: Any, value: Json, problem: str) -> None:
    with pytest.raises(TemplateError) as caught:
        resolve_values(declared(x=schema), {"x": value})
    assert str(caught.value) == f"Template variable 'x' {problem}"


@pytest.mark.parametrize("given_values", [{}, {"x": None}], ids=repr)
def test_a_variable_without_value_and_default_says_how_to_set_it(given_values: dict[str, Json]) -> None:
    with pytest.raises(TemplateError) as caught:
        resolve_values(declared(x={"type": "string"}), given_values)
    assert str(caught.value) == "Template variable 'x' has no value and no default. Set it: --set-var x=VALUE."


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gpu", "Did you mean 'gpus'?"), ("zebra", "It has: gpus, memory.")],
)
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    variables = declared(memory={"type": "string", "default": "1Gi"}, gpus={"type": "integer", "default": 1})
    with pytest.raises(TemplateError) as caught:
        resolve_values(variables, {name: 1})
    assert str(caught.value) == f"The queue has no template variable {name!r}. {hint}"


def test_an_unknown_name_where_there_is_no_variable_at_all() -> None:
    with pytest.raises(TemplateError) as caught:
        resolve_values({}, {"gpus": 1})
    assert str(caught.value) == "The queue has no template variable 'gpus'. It has: none."


def test_all_that_is_wrong_is_told_at_once() -> None:
    variables = declared(a={"type": "string"}, b={"type": "integer"})
    with pytest.raises(TemplateError) as caught:
        resolve_values(variables, {"b": "x", "zebra": 1})
    assert str(caught.value) == (
        "The queue has no template variable 'zebra'. It has: a, b. "
        "Template variable 'a' has no value and no default. Set it: --set-var a=VALUE. "
        "Template variable 'b' is 'x', but an integer is wanted."
    )


# --- rendering --------------------------------------------------------------------------------------------------------


@given(scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=3))
def test_an_exact_leaf_becomes_the_value_itself(value: Json) -> None:
    found = render("{{a}}", {"a": value})
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("leaf", ["{{a}}", "{{ a }}", "  {{a}}\n", "{{\ta\n}}"], ids=repr)
def test_an_exact_leaf_may_have_spaces(leaf: str) -> None:
    assert render(leaf, {"a": 4}) == 4


@pytest.mark.parametrize("value", ["1e3", "0x10", "None", "True", "[1]", "012", "1_000", "null", "", "{{b}}"])
def test_text_that_looks_like_something_else_stays_text(value: str) -> None:
    assert render(["{{a}}", "<{{a}}>", "{{ a|string }}"], {"a": value, "b": "no"}) == [value, f"<{value}>", value]


@given(texts | hostile_texts, texts | hostile_texts)
def test_a_value_is_never_rendered_again(first: str, second: str) -> None:
    values: dict[str, Json] = {"a": first, "b": second}
    assert render({"k": ["{{a}}", "{{a}}-{{ b }}!"]}, values) == {"k": [first, f"{first}-{second}!"]}


@given(st.dictionaries(texts | hostile_texts, st.integers(), max_size=4))
def test_keys_are_never_templated(config: dict[str, Json]) -> None:
    assert render({"{{a}}": config}, {"a": "x", "b": "y"}) == {"{{a}}": config}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts.filter(lambda t: "{{" not in t),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(texts, part, max_size=3),
        max_leaves=12,
    )
)
def test_a_config_without_placeholders_stays_as_it_is(config: Json) -> None:
    assert render(config, {"a": 1}) == config
    assert variable_names(config) == frozenset()


@pytest.mark.parametrize(
    ("leaf", "rendered"),
    [
        ("{{a}}Gi", "8Gi"),
        ("{{a}}{{a}}", "88"),
        ("{{ s|upper }}!", "TEXT!"),
        ("{{ s|upper }}", "TEXT"),
        ("{{ s|upper|lower }}", "text"),
        ("{{ s|replace('t', '') }}", "ex"),
        ("{{ s|replace('', '-') }}", "-t-e-x-t-"),
        ("{{ s|replace('t', '{{a}}') }}", "{{a}}ex{{a}}"),
        ("{{ spaced|trim }}", "x"),
        ("{{ half|int }}x", "2x"),
        ("{{ missing|default('d') }}", "d"),
        ("{{ a|default('d') }}", "8"),
        ("{{ html }}.", "<&>."),
        ("a\n{{a}}\n", "a\n8\n"),
        ("a {{- a -}} b", "a8b"),
        ("{{a}} ${run_id} {a} }}", "8 ${run_id} {a} }}"),
        ("{% if a %}", "{% if a %}"),
        ("{# a #}", "{# a #}"),
        ("}} {", "}} {"),
    ],
)
def test_a_longer_leaf_becomes_text(leaf: str, rendered: str) -> None:
    values: dict[str, Json] = {"a": 8, "s": "text", "spaced": " x ", "half": 2.5, "html": "<&>"}
    assert render({"k": [leaf]}, values) == {"k": [rendered]}


def test_names_come_from_every_leaf() -> None:
    config: Json = {"{{key}}": ["{{a}}", {"x": "{{ b|upper }}-{{c}}"}, "{{ d|default('{{e}}') }}"], "n": 1, "m": None}
    assert variable_names(config) == {"a", "b", "c", "d"}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        ("x {{ a.b }}", "getattr"),
        ("x {{ a.__class__.__mro__ }}", "getattr"),
        ("{{ a.b }}", "getattr"),
        ("{{ a['__class__'] }}", "getitem"),
        ("{{ a[0:1] }}", "getitem"),
        ("{{ a() }}", "call"),
        ("{{ range(10) }}", "call"),
        ("{{ cycler.__init__.__globals__ }}", "getattr"),
        ("{{ self }} x", "the name 'self'"),
        ("{{ self|upper }}", "the name 'self'"),
        ("{{ self.__init__ }}", "getattr"),
        ("{{ a + 1 }}", "add"),
        ("{{ 'x' * 1000000000 }}", "mul"),
        ("{{ 9 ** 99999999 }}", "pow"),
        ("{{ a ~ b }}", "concat"),
        ("{{ -a }}", "neg"),
        ("{{ not a }}", "not"),
        ("{{ a == b }}", "compare"),
        ("{{ a and b }}", "and"),
        ("{{ a if b else c }}", "condexpr"),
        ("{{ a is defined }}", "test"),
        ("{{ [a] }}", "list"),
        ("{{ {'k': a} }}", "dict"),
        ("{{ a, b }}", "tuple"),
        ("{{ 1 }}", "const"),
        ("{{ 'text' }}", "const"),
        ("{{ None }} x", "const"),
        ("{{a}}{% for i in a %}{{i}}{% endfor %}", "a statement or a comment"),
        ("{{a}}{% raw %}", "a statement or a comment"),
        ("{{a}}{%- set b = 1 %}", "a statement or a comment"),
        ("{{a}}{# note #}", "a statement or a comment"),
        ("{{ a|attr('__class__') }}", "the filter 'attr'"),
        ("{{ a|map('upper') }}", "the filter 'map'"),
        ("{{ a|format(1) }}", "the filter 'format'"),
        ("{{ a|nosuch }}", "the filter 'nosuch'"),
        ("{{ a|default(b) }}", "something else than constants as arguments of the filter 'default'"),
        ("{{ a|default(b.c) }}", "something else than constants as arguments of the filter 'default'"),
        ("{{ a|default([1]) }}", "something else than constants as arguments of the filter 'default'"),
        ("{{ a|default(value='x') }}", "something else than constants as arguments of the filter 'default'"),
        ("{{ a|default(*b) }}", "something else than constants as arguments of the filter 'default'"),
        ("{{ a|default(**b) }}", "something else than constants as arguments of the filter 'default'"),
        ("{{ a|trim|trim|trim|trim|trim|trim|trim|trim|trim }}", "more than 8 filters"),
    ],
)
def test_all_but_variables_and_plain_filters_is_refused(leaf: str, what: str) -> None:
    values: dict[str, Json] = {"a": "x", "b": "y", "c": "z"}
    with pytest.raises(TemplateError) as caught:
        render([leaf], values)
    assert str(caught.value) == f"{leaf!r} uses {what}, which is {ALLOWED}"
    with pytest.raises(TemplateError):
        variable_names([leaf])


def test_eight_filters_are_allowed() -> None:
    assert render("{{ a|trim|trim|trim|trim|trim|trim|trim|upper }}", {"a": "x"}) == "X"


@pytest.mark.parametrize("leaf", ["{{", "{{}}", "{{ a", "{{ a b }}", "{{ a|", "{{ 'a }}", "{{ a ! b }}", "{{a}} {{"])
def test_broken_syntax_is_refused(leaf: str) -> None:
    with pytest.raises(TemplateError, match=f"^{re.escape(repr(leaf))} is not a template: .+\\.$"):
        render(leaf, {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        ("x {{ b }}", "'b' is undefined"),
        ("x {{ b|upper }}", "'b' is undefined"),
        ("x {{ range }}", "'range' is undefined"),
        ("x {{ dict }}", "'dict' is undefined"),
        ("x {{ namespace }}", "'namespace' is undefined"),
        ("x {{ loop }}", "'loop' is undefined"),
        ("x {{ a|replace('y') }}", ".*missing 1 required positional argument: 'new'"),
        ("x {{ a|replace(1, 2) }}", ".*"),
    ],
)
def test_a_leaf_that_cannot_be_rendered_is_quoted(leaf: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=f"^{re.escape(repr(leaf))} cannot be rendered: {reason}\\.$"):
        render(leaf, {"a": "x"})


@pytest.mark.parametrize("leaf", ["{{b}}", "{{ b }}", "{{true}}"])
def test_an_exact_leaf_must_name_a_variable(leaf: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(leaf, {"a": 1})
    name = leaf.strip("{} ")
    assert str(caught.value) == f"{leaf!r} names {name!r}, which is not a template variable of the queue."


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", [lambda config: render(config, {"a": 1}), variable_names], ids=["render", "names"])
def test_depth_is_limited(walk: Any) -> None:
    walk(nested(MAX_DEPTH + 1, "{{a}}"))
    with pytest.raises(TemplateError) as caught:
        walk(nested(MAX_DEPTH + 2, "{{a}}"))
    assert str(caught.value) == f"The config is nested deeper than {MAX_DEPTH} levels."


def test_the_length_of_a_template_is_limited_but_not_that_of_plain_text() -> None:
    fits = "x" * (MAX_LEAF_CHARS - 5) + "{{a}}"
    assert render(fits, {"a": "y"}) == fits.replace("{{a}}", "y")
    plain = "x" * (MAX_RENDERED_CHARS + 1)
    assert render(plain, {}) == plain
    with pytest.raises(TemplateError) as caught:
        render(f"x{fits}", {"a": "y"})
    assert str(caught.value) == f"'{'x' * 199}... has a placeholder and is longer than {MAX_LEAF_CHARS} characters."


@pytest.mark.parametrize("leaf", ["{{a}}", "{{a}}{{b}}"], ids=["exact", "text"])
def test_the_length_of_the_whole_is_limited(leaf: str) -> None:
    half: dict[str, Json] = {"a": "x" * (MAX_RENDERED_CHARS // 2), "b": ""}
    render([leaf, leaf], half)
    with pytest.raises(TemplateError) as caught:
        render([leaf, leaf, "{{ a }}"], half)
    assert str(caught.value) == f"The rendered config is longer than {MAX_RENDERED_CHARS} characters."


def test_chained_replacements_cannot_blow_up() -> None:
    leaf = "{{ a" + "|replace('x', 'xxxxxxxxxxxxxxxxxxxx')" * 8 + " }}"
    with pytest.raises(TemplateError, match=f"it becomes longer than {MAX_RENDERED_CHARS} characters\\.$"):
        render(leaf, {"a": "x" * 100})


def test_deep_parentheses_are_refused() -> None:
    with pytest.raises(TemplateError, match=r"is not a template: it is nested too deeply\.$"):
        render("{{ " + "(" * 5_000 + "a" + ")" * 5_000 + " }}", {"a": 1})


def test_a_number_that_is_too_long_is_refused() -> None:
    with pytest.raises(TemplateError, match="a number that is too long"):
        variable_names("x {{ a|default(" + "9" * 5000 + ") }}")
