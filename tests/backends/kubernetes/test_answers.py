"""Errors of an API server, and of whoever answers in its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kubernetes.answers import MESSAGE_LENGTH, PAGE_LENGTH, error_of, shortened, status_in
from backends.kubernetes.api import KubeRefused, KubeUnavailable, WatchExpired

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["kind", "message", "reason", "details", "name", "retryAfterSeconds", "code"]), inner
        )
    ),
)


def told(code: int, status: object, retry_after: str | None = None) -> KubeRefused | KubeUnavailable:
    """Return the error of an answer."""
    body = status if isinstance(status, bytes) else json.dumps(status).encode()
    return error_of(code, status_in(body), server="The server", who="us", retry_after=retry_after)


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (400, "bad", KubeRefused),
        (403, "forbidden: exceeded quota", KubeRefused),
        (404, "not found", KubeRefused),
        (409, "already exists", KubeRefused),
        (422, "invalid", KubeRefused),
        (500, 'admission webhook "gate.corp.test" denied the request: no', KubeRefused),
        (401, "Unauthorized", KubeUnavailable),
        (408, "timeout", KubeUnavailable),
        (410, "too old", WatchExpired),
        (429, "slow down", KubeUnavailable),
        (500, 'failed calling webhook "gate.corp.test": context deadline exceeded', KubeUnavailable),
        (500, "etcdserver: request timed out", KubeUnavailable),
        (503, "apiserver not ready", KubeUnavailable),
        (504, "gateway", KubeUnavailable),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(code: int, message: str, kind: type[Exception]) -> None:
    error = told(code, {"kind": "Status", "message": message, "code": code})
    assert type(error) is kind
    assert message in str(error)


def test_a_refusal_says_what_it_is_about() -> None:
    status = {"kind": "Status", "message": "m", "reason": "NotFound", "details": {"name": "a"}}
    error = told(404, status)
    assert isinstance(error, KubeRefused)
    assert (error.status, error.reason, error.about) == (404, "NotFound", "a")


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), (None, None), ("Fri, 31 Dec 1999", None), ("-1", None)])
def test_a_date_is_not_a_number_of_seconds(header: str | None, seconds: float | None) -> None:
    error = told(503, b"", header)
    assert isinstance(error, KubeUnavailable)
    assert error.retry_after == seconds


@given(st.integers(400, 599), JSON | st.binary())
def test_nothing_that_is_answered_is_beyond_us(code: int, status: object) -> None:
    error = told(code, status)
    assert isinstance(error, KubeRefused | KubeUnavailable)
    assert len(str(error)) < MESSAGE_LENGTH + 200


@given(st.binary(max_size=2000))
def test_a_page_is_shown_as_one_short_line(body: bytes) -> None:
    text = shortened(body)
    assert len(text) <= PAGE_LENGTH + 3
    assert "\n" not in text
