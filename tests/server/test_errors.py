"""How refusals reach a client: with a status that it does not retry, and in words that it shows."""

from pathlib import Path

import aiohttp
from aiohttp.test_utils import TestClient, TestServer

from server.app import MAX_REASON_CHARS, _reason, build_app
from server.context import Services
from server.errors import RequestError

SHOWN_AT_ONCE = {400, 401, 403, 404}
"""Any other status is retried by one version of the client or another, by some for days."""


def test_no_client_tries_again_what_was_refused() -> None:
    kinds = RequestError.__subclasses__()
    assert len(kinds) >= 5
    assert {kind.status for kind in (RequestError, *kinds)} <= SHOWN_AT_ONCE


async def test_the_reason_phrase_says_what_is_wrong(services: Services, tmp_path: Path) -> None:
    """Clients before 0.26 often show it and nothing else."""
    key = (tmp_path / "data" / "admin-api-key").read_text().strip()
    headers = {"Authorization": aiohttp.encode_basic_auth("api", key)}
    async with (
        TestClient(TestServer(build_app(services))) as http,
        http.post("/graphql", json={"query": "{ nothing }"}, headers=headers) as answer,
    ):
        assert (answer.status, answer.reason) == (400, "Cannot query field 'nothing' on type 'Query'.")


def test_a_reason_phrase_is_one_short_line() -> None:
    """Whatever a request makes a message say, it begins no new header."""
    assert _reason({"errors": [{"message": "no 'é\r\nX-Sent: 1'"}]}) == "no ' X-Sent: 1'"
    assert len(_reason({"errors": [{"message": "long" * 1000}]})) == MAX_REASON_CHARS
