"""Sizes and addresses are read as people write them, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.forms import UNITS, parse_address, parse_size, size_text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        ("7B", 7),
        ("2KiB", 2048),
        ("2 kB".upper(), 2000),
        (" 1.5GiB ", 3 * 2**29),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_read(value: object, expected: int) -> None:
    assert parse_size(value) == expected


@pytest.mark.parametrize("value", [None, True, -1, 1.5, [], {}, "٣GiB"])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a number of bytes, or a size as 8GiB or 500MB"):
        parse_size(value)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (64 * 2**30, "64 GiB"), (2**50, "1024 TiB")],
)
def test_sizes_are_told(size: int, text: str) -> None:
    assert size_text(size) == text


@given(st.integers(0, 2**50))
def test_what_is_told_can_be_read_and_is_about_right(size: int) -> None:
    told = parse_size(size_text(size).replace(" bytes", "B"))
    assert abs(told - size) <= max(size / 1000, 1)
    assert set(size_text(size).split()[1:]) <= {*UNITS, "bytes"}


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9100", ("::1", 9100)),
    ],
)
def test_an_address_is_host_and_port(listen: str, address: tuple[str, int]) -> None:
    assert parse_address(listen) == address


@pytest.mark.parametrize(
    "listen", ["9100", ":9100", "host:", "host:http", "host:70000", "host:-1", "host:1²", 9100, None]
)
def test_another_address_is_refused(listen: object) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT, as 127\.0\.0\.1:9100"):
        parse_address(listen)
