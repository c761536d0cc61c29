"""Forms in which people write sizes of memory and addresses. Pure."""

import re
from decimal import Decimal

UNITS = {"B": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("KMGT", 1)
    for kind, base in (("iB", 1024), ("B", 1000))
}
"""Bytes by unit."""
SIZE = re.compile(rf"([0-9]{{1,15}}(?:\.[0-9]{{1,6}})?)\s*({'|'.join(UNITS)})?")
SIZE_FORM = "a number of bytes, or a size as 8GiB or 500MB"
ADDRESS = re.compile(r"(\[[^\]]+\]|.+):([0-9]{1,5})")
ADDRESS_FORM = "HOST:PORT, as 127.0.0.1:9100 or [::1]:9100"


def parse_size(value: object) -> int:
    """Return bytes. Raises `ValueError` unless it is of `SIZE_FORM`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not {SIZE_FORM}")
    return int(Decimal(match[1]) * UNITS[match[2] or "B"])


def parse_limit(value: object) -> int | None:
    """Return bytes as `parse_size`; None, for no limit, as it is."""
    return None if value is None else parse_size(value)


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.4g} {unit}"
    return f"{size} bytes"


def parse_address(value: object) -> tuple[str, int]:
    """Return host and port; an IPv6 address stands in brackets. Raises `ValueError` unless it is of `ADDRESS_FORM`."""
    match = ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{value!r} is not {ADDRESS_FORM}")
    return match[1].removeprefix("[").removesuffix("]"), int(match[2])
