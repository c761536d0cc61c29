"""Secrets that are live stand in nothing that leaves the process."""

import base64
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.redaction import Secrets
from backends.base import LogChunk
from protocol.launch_spec import REDACTED

KEY = "0123456789abcdef0123456789abcdef01234567"
OTHER = "local-key/with+signs=and 'quotes' of 30"


@pytest.fixture
def secrets() -> Secrets:
    """A registry with two keys."""
    registry = Secrets()
    registry.keep(KEY, OTHER)
    return registry


@dataclass
class Thing:
    """An object that shows what it holds."""

    key: str


class TestALogLine:
    @pytest.mark.parametrize("secret", [KEY, OTHER])
    def test_has_no_secret_anywhere(self, secrets: Secrets, secret: str) -> None:
        event = {
            "event": f"calling with {secret} and {secret}",
            "exact": secret,
            secret: "as a key",
            "bytes": b"x" + secret.encode(),
            "nested": {"list": [1, (secret, {secret})], secret: {secret: None}},
            "object": Thing(secret),
            "error": ValueError(f"bad key {secret}"),
            "url": f"https://host/?key={quote(secret, safe='')}",
            "header": "Basic " + base64.b64encode(f"api:{secret}".encode()).decode(),
        }
        clean = secrets(None, "info", event)
        shown = json.dumps(clean, default=repr)
        for spelling in (secret, quote(secret, safe=""), event["header"], repr(secret)[1:-1]):
            assert str(spelling) not in shown
        assert clean["event"] == f"calling with {REDACTED} and {REDACTED}"
        assert clean[REDACTED] == "as a key"

    def test_keeps_everything_else(self, secrets: Secrets) -> None:
        thing = Thing("nothing")
        event = {"event": "x", "n": 1, "f": 0.5, "yes": True, "none": None, "list": [1, "a"], "thing": thing, "b": b"x"}
        assert secrets(None, "info", event) == event


class TestASecret:
    def test_is_redacted_for_as_long_as_somebody_uses_it(self) -> None:
        registry = Secrets()
        registry.keep(KEY)
        registry.keep(KEY)
        registry.drop(KEY)
        assert registry.text(KEY) == REDACTED
        registry.drop(KEY)
        assert registry.text(KEY) == KEY
        registry.drop(KEY)
        registry.keep(KEY)
        assert registry.text(KEY) == REDACTED

    @pytest.mark.parametrize("text", ["", "a", "launch ended", REDACTED])
    def test_is_no_common_word(self, text: str) -> None:
        """An item may bring any text as its key; the log must stay readable."""
        registry = Secrets()
        registry.keep(text)
        line = f"agent: launch ended {REDACTED}"
        assert registry.text(line) == line
        registry.drop(text)

    def test_that_is_part_of_another_hides_neither(self) -> None:
        registry = Secrets()
        registry.keep(KEY[:20], KEY)
        assert registry.text(f"{KEY} {KEY[:20]}") == f"{REDACTED} {REDACTED}"

    def test_that_no_process_could_be_given_does_no_harm(self) -> None:
        registry = Secrets()
        registry.keep("\ud800" * 20)
        assert registry.text("fine") == "fine"
        assert registry.data(b"fine") == b"fine"


async def pieces(data: bytes, *cuts: int) -> AsyncGenerator[LogChunk]:
    """Yield a log cut at these places."""
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        if start < end:
            yield LogChunk(start, data[start:end])


class TestALog:
    def test_keeps_its_length(self, secrets: Secrets) -> None:
        data = f"before {KEY} after {OTHER}".encode()
        masked = secrets.data(data)
        assert masked == b"before " + b"*" * len(KEY) + b" after " + b"*" * len(OTHER)

    @given(st.lists(st.integers(0, 200), max_size=8), st.integers(0, 9))
    async def test_is_masked_wherever_it_is_cut(self, cuts: list[int], at: int) -> None:
        registry = Secrets()
        registry.keep(KEY)
        data = b"x" * at + KEY.encode() + b"\n0123 is how it begins\n" + KEY.encode() + KEY.encode() + b"0123"
        cuts = [cut for cut in cuts if cut <= len(data)]
        got = [chunk async for chunk in registry.chunks(pieces(data, *cuts))]
        assert b"".join(chunk.data for chunk in got) == registry.data(data)
        assert [chunk.offset for chunk in got] == [0, *(chunk.end for chunk in got[:-1])]
        assert KEY.encode() not in registry.data(data)

    async def test_is_passed_on_at_once_where_no_secret_can_begin(self, secrets: Secrets) -> None:
        got = secrets.chunks(pieces(b"first\nsecond 01", 6))
        assert (await anext(got)).data == b"first\n"
        assert (await anext(got)).data == b"second "
        assert (await anext(got)) == LogChunk(13, b"01")


SAY = """
import logging, sys
from agent.redaction import SECRETS
from launchbay.logs import configure_logging
import structlog
key = sys.argv[1]
if {terminal}:
    sys.stderr.isatty = lambda: True
configure_logging(2)
SECRETS.keep(key)
log = structlog.get_logger("x").bind(bound=key)
def fail():
    held_in_a_variable = key
    raise ValueError("key " + key)
log.info("the key is " + key, nested=dict(deep=[key]))
try:
    fail()
except ValueError:
    log.exception("it failed")
    logging.getLogger("asyncio").exception("a library says %s", key)
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_what_the_process_writes_has_no_secret(terminal: bool) -> None:
    """In JSON and on a terminal, with stack traces, also of libraries that log on their own."""
    done = subprocess.run(
        [sys.executable, "-c", SAY.format(terminal=terminal), KEY],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stdout == ""
    for said in ("the key is", "it failed", "a library says", "Traceback", "ValueError: key", REDACTED):
        assert said in done.stderr
    assert KEY not in done.stderr
