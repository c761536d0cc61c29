"""Passwords in URLs are cut out of every text, and nothing else is."""

import time

import pytest

from protocol.errors import JobFileError, SpecError
from protocol.job_file import parse_job_file
from protocol.launch_spec import parse_launch_spec
from protocol.masking import without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("https://me:s3cret@host/x", "https://<redacted>@host/x", id="user and password"),
        pytest.param("https://s3cret@host/x", "https://<redacted>@host/x", id="a token alone"),
        pytest.param("https://me:s3cret@host", "https://<redacted>@host", id="no path"),
        pytest.param("git+ssh://git:s3cret@host:22/x", "git+ssh://<redacted>@host:22/x", id="another scheme"),
        pytest.param("https://me:s3@cret@host/x", "https://<redacted>@host/x", id="an @ in the password"),
        pytest.param("https://me:s3cret%40@host/x", "https://<redacted>@host/x", id="an escaped one"),
        pytest.param("https://me:s3/cret@host/x", "https://<redacted>@host/x", id="a slash in the password"),
        pytest.param("https://me:s3?cret@host/x", "https://<redacted>@host/x", id="a question mark in it"),
        pytest.param("https://me:#s3cret@host/x", "https://<redacted>@host/x", id="a hash in it"),
        pytest.param("'https://me:s3cret@host', why", "'https://<redacted>@host', why", id="in a sentence"),
        pytest.param("a://s3cret@b c://s3cret@d", "a://<redacted>@b c://<redacted>@d", id="two of them"),
        pytest.param("a://me:<s3cret>@b", "a://<redacted>@b", id="in brackets"),
    ],
)
def test_a_password_is_cut_out(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert without_passwords(shown) == shown, "once is enough"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://host/x",
        "https://host:8080/x@v1",
        "https://host/team/code@v1.2",
        "https://host?who=me@example.test",
        "https://[::1]:8080/x@v1",
        "git@host:team/code.git",
        "ask me@example.test, see https://host: it is @ the top",
        "e/p/job:latest",
        "://@",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert without_passwords(text) == text


def test_no_text_takes_long() -> None:
    began = time.monotonic()
    for piece in ("://a:b", "://", "://a@", "://a:", "@", ":"):
        without_passwords(piece * 50_000)
    assert time.monotonic() - began < 30


def test_no_error_shows_one_whatever_is_wrong() -> None:
    remote = "https://me:s3cret@git.test/x"
    specs = [
        {"job": remote},
        {"job": {"remote": remote}},
        {"resource": [remote], "job": "e/p/j:v1"},
        {"docker": remote},
        {"uri": remote},
        {"overrides": remote, "job": "e/p/j:v1"},
        {"resource_args": remote, "job": "e/p/j:v1"},
    ]
    for spec in specs:
        with pytest.raises(SpecError) as wrong:
            parse_launch_spec({"entity": "e", "project": "p", **spec})
        assert "s3cret" not in str(wrong.value) + repr(wrong.value)
    files = [
        {"source_type": remote},
        {"source_type": "repo", "source": remote},
        {"source_type": "repo", "source": {"git": {"remote": [remote]}}},
        {"source_type": "repo", "source": {"git": remote}},
        {"source_type": "artifact", "source": {"artifact": remote}},
    ]
    for file in files:
        with pytest.raises(JobFileError) as broken:
            parse_job_file(file)
        assert "s3cret" not in str(broken.value) + repr(broken.value)
