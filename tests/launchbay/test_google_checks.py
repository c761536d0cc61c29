"""`launchbay doctor` asks Google Cloud itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launchbay.doctor import google_checks
from launchbay.doctor.checks import Verdict
from tests.backends.vertex.google import CODES, PARENT, Fault, Google, google_cloud
from tests.launchbay.test_doctor import around


@pytest.fixture(scope="module")
def google() -> Iterator[Google]:
    with google_cloud() as one:
        yield one


def given(google: Google, **block: Any) -> dict[str, Any]:
    return {"resources": ["gcp-vertex"], "backends": {"gcp-vertex": {**google.config, **block}}}


async def test_vertex_ai_that_answers_is_fine(google: Google, tmp_path: Path) -> None:
    finding = await google_checks.vertex(around(tmp_path, **given(google)))
    assert (finding.verdict, finding.todo) == (Verdict.OK, "")
    assert ("x-goog-request-params", f"parent={PARENT}") in google.headers


@pytest.mark.parametrize("code", [CODES.PERMISSION_DENIED, CODES.UNAUTHENTICATED, CODES.UNAVAILABLE])
async def test_what_vertex_ai_refuses_is_told(google: Google, tmp_path: Path, code: Any) -> None:
    google.faults.append(Fault("list_custom_jobs", code, "not for you"))
    finding = await google_checks.vertex(around(tmp_path, **given(google)))
    assert finding.verdict is Verdict.PROBLEM
    assert "not for you" in finding.found


async def test_a_block_that_cannot_work_is_told(google: Google, tmp_path: Path) -> None:
    finding = await google_checks.vertex(around(tmp_path, **given(google, poll_seconds="often")))
    assert "`backends.gcp-vertex.poll_seconds` cannot be read" in finding.found


async def test_without_the_resource_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    assert (await google_checks.vertex(around(tmp_path))).verdict is Verdict.SKIPPED
