"""Output of launches: by offset, never doubled, never with a gap, bounded."""

import pytest

from server.context import Services
from server.errors import RequestError
from server.storage import item_logs
from tests.server.conftest import Client
from tests.server.launching import make_queue, push

ITEM = 1


@pytest.fixture
async def item(client: Client) -> int:
    """An item in a queue."""
    await make_queue(client)
    await push(client)
    return ITEM


async def test_pieces_are_put_together_by_offset(services: Services, item: int) -> None:
    write, read = services.database.write, services.database.read
    assert await write(item_logs.append, item, 0, b"abc") == 3
    assert await write(item_logs.append, item, 3, b"def") == 6
    assert await read(item_logs.read, item, 0, 100) == b"abcdef"
    assert await read(item_logs.read, item, 2, 100) == b"cdef"
    assert await read(item_logs.read, item, 6, 100) == b""


async def test_what_is_sent_again_is_not_doubled(services: Services, item: int) -> None:
    write = services.database.write
    await write(item_logs.append, item, 0, b"abc")
    assert await write(item_logs.append, item, 0, b"abc") == 3
    assert await write(item_logs.append, item, 1, b"bcde") == 5
    assert await services.database.read(item_logs.read, item, 0, 100) == b"abcde"


async def test_a_gap_is_refused(services: Services, item: int) -> None:
    with pytest.raises(RequestError, match="The log ends at byte 0; a piece at byte 5 would leave a gap"):
        await services.database.write(item_logs.append, item, 5, b"x")


async def test_beyond_the_limit_output_is_taken_and_dropped(
    services: Services, item: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would keep the agent from telling the end of a talkative launch."""
    monkeypatch.setattr(item_logs, "MAX_LOG_BYTES", 4)
    write = services.database.write
    assert await write(item_logs.append, item, 0, b"abcdef") == 4
    assert await write(item_logs.append, item, 6, b"gh") == 4
    assert await services.database.read(item_logs.read, item, 0, 100) == b"abcd"


async def test_reading_goes_page_by_page(services: Services, item: int) -> None:
    for number in range(10):
        await services.database.write(item_logs.append, item, number, b"x")
    assert len(await services.database.read(item_logs.read, item, 0, 3)) == 3
