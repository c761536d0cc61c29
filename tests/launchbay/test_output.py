"""How commands print and read."""

import re
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from launchbay.cli import COMMANDS, launchbay
from launchbay.errors import NotThere
from launchbay.inputs import key_values, read_mapping
from launchbay.items import looks_like_item, run_path, shown_reason
from launchbay.output import ago, print_table


def test_a_failure_is_one_line_without_its_evidence() -> None:
    item = {"error": {"message": "It ended with code 3. Its log says why. Last lines:\n    KeyError: 'x'"}}
    assert shown_reason(item) == "It ended with code 3. Its log says why."
    assert shown_reason({"error": None, "waitingReason": None}) == ""


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2026-11-20T12:00:00Z", "0s"),
        ("2026-11-20T11:59:18Z", "42s"),
        ("2026-11-20T11:48:00Z", "12m"),
        ("2026-11-20T09:00:00Z", "3h"),
        ("2026-11-18T12:00:00Z", "2d"),
        ("2026-11-20T12:00:05Z", "0s"),
        (None, ""),
    ],
)
def test_ago(moment: str | None, shown: str) -> None:
    assert ago(moment, datetime(2026, 11, 20, 12, tzinfo=UTC)) == shown


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    print_table(("A", "B"), [(long, "y")], empty="nothing")
    assert long in capsys.readouterr().out


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[\d*m", "", text)


def test_a_sentence_for_which_a_screen_has_no_room_stands_below_its_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    why = "There is no such image, or this agent may not see it."
    print_table(("ITEM", "JOB", "WHY"), [("i" * 20, "j" * 20, why), ("item", "job", "")], empty="nothing")
    assert without_styles(capsys.readouterr().out).splitlines() == [
        "ITEM                  JOB",
        f"{'i' * 20}  {'j' * 20}",
        f"    {why:<56}",
        "item                  job",
    ]
    print_table(("ITEM", "WHY"), [("item", why)], empty="nothing")
    assert without_styles(capsys.readouterr().out).splitlines()[1].startswith("item  There is")


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A",), [], empty="No queues.")
    assert capsys.readouterr().out == "No queues.\n"


def test_values_are_typed_by_their_schema_and_may_hold_an_equals_sign() -> None:
    schemas = {"gpus": {"type": "integer"}, "rate": {"type": "number"}, "name": {"type": "string"}}
    given = ("gpus=2", "rate=1e-3", "name=a=b", "unknown=x")
    assert key_values(given, schemas) == {"gpus": 2, "rate": 0.001, "name": "a=b", "unknown": "x"}


def test_a_value_that_is_no_number_is_left_for_the_schema_to_name() -> None:
    assert key_values(("gpus=many",), {"gpus": {"type": "integer"}}) == {"gpus": "many"}


def test_a_pair_without_equals_sign_is_refused() -> None:
    with pytest.raises(click.UsageError, match="--set-var takes name=value, not 'gpus'"):
        key_values(("gpus",), {})


def test_mappings_come_from_text_or_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("a: 1")
    assert read_mapping(path) == read_mapping(str(path)) == read_mapping('{"a": 1}') == {"a": 1}
    path.write_text("- 1")
    with pytest.raises(click.UsageError, match="holds a mapping"):
        read_mapping(path)
    assert read_mapping("a: " + "b" * 5000) == {"a": "b" * 5000}, "no name of a file is so long"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 2026-01-01", "holds what JSON has not, as a date without quotes: Object of type date"),
        (b"a: .nan", "holds what JSON has not"),
        (b"\xff\xfe", "holds what JSON has not"),
        (b"a: [", "is neither JSON nor YAML"),
    ],
)
def test_a_mapping_that_cannot_be_sent_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(click.UsageError, match=said):
        read_mapping(str(path))


def test_items_and_runs_are_told_apart() -> None:
    assert looks_like_item("UnVuUXVldWVJdGVtOjE=")
    assert not looks_like_item("project/run1")
    assert run_path("p/r", "me") == ("me", "p", "r")
    assert run_path("e/p/r", "me") == ("e", "p", "r")
    with pytest.raises(NotThere, match="neither an item's id nor a run"):
        run_path("r", "me")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_is_in_the_readme(name: str) -> None:
    context = click.Context(launchbay)
    command = launchbay.get_command(context, name)
    assert command is not None
    assert command.help
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"launchbay {name}" in readme
