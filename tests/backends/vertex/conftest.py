"""One Google Cloud for all tests of a module."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from backends.vertex.access import _SERVICES
from tests.backends.vertex.google import Google, google_cloud


@pytest.fixture(scope="module")
def one_google() -> Iterator[Google]:
    with google_cloud() as google:
        yield google


@pytest.fixture
def google(one_google: Google, monkeypatch: pytest.MonkeyPatch) -> Google:
    """As new. Output is looked for as often as makes tests quick, and Google does not limit what is asked."""
    one_google.reset()
    monkeypatch.setattr("backends.vertex.logs.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("backends.vertex.logs.LINGER_SECONDS", 0.2)
    monkeypatch.setattr("backends.vertex.backend.AGAIN_SECONDS", 0.05)
    quick = {name: replace(service, rate=1000, burst=1000) for name, service in _SERVICES.items()}
    monkeypatch.setattr("backends.vertex.access._SERVICES", quick)
    return one_google
