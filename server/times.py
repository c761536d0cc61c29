"""Times as the wire wants them."""

from datetime import UTC, datetime


def iso(seconds: float | None) -> str | None:
    """Return seconds since the epoch as an ISO 8601 string in UTC, or None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
