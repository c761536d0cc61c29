"""What all tests share."""

import asyncio

# The asyncio plugin looks for a current event loop beside those of the tests, makes one if there is none, and leaves it
# open. So there is one, and it is closed.
_LOOP = asyncio.new_event_loop()


def pytest_sessionstart() -> None:
    """Have a current event loop."""
    asyncio.set_event_loop(_LOOP)


def pytest_sessionfinish() -> None:
    """Close it."""
    asyncio.set_event_loop(None)
    _LOOP.close()
