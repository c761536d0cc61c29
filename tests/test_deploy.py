"""The files of `deploy/` say what the programs understand."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from launchbay.cli import launchbay as cli

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "launchbay"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_services_command_is_one(name: str) -> None:
    command: click.Command = cli
    words: list[str] = OURS[name]["command"]
    context = command.make_context("launchbay", list(words))
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, found.make_context(found.name, list(words), parent=context)


def test_no_secret_is_in_the_file_or_on_a_command_line() -> None:
    assert set(OURS) == {"server", "queue", "agent"}
    for service in COMPOSE["services"].values():
        assert not re.search("(?i)password|key", " ".join(service.get("command", [])))
        for name, value in service["environment"].items():
            if "PASSWORD" in name:
                assert value.startswith("${POSTGRES_PASSWORD:?")
    assert ":" not in OURS["server"]["environment"]["LAUNCHBAY_DATABASE_URL"].partition("//")[2].partition("@")[0]


def test_the_image_holds_every_package() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages == set(re.findall(r"^COPY (\w+) /src/\1$", dockerfile, re.MULTILINE))
    ignored = (ROOT / ".dockerignore").read_text()
    assert all(f"!{package}\n" in ignored for package in packages)
