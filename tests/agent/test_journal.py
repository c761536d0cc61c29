"""The journal brings back what it was told, and holds no secret."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import StateFolderInUse
from agent.journal import Identity, Journal
from agent.launch import Assigned, Cause, End, Launch, Outcome, Stage, StopReason
from backends.base import Handle

SECRET = "0123456789abcdef0123456789abcdef01234567"


def launch(item_id: str = "item-1") -> Launch:
    """Return a launch just claimed."""
    return Launch(item_id, 1, "q", {"project": "p", "_wandb_api_key": SECRET}, "run-1")


async def test_launches_come_back_as_they_stood(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path)
    first, second = launch(), launch("item-2")
    await journal.record(first)
    second.stage, second.resource, second.handle = Stage.ENDED, "local-process", Handle("h")
    second.end = End(Outcome.FAILED, "because", 3, "signal:SIGKILL", "run", Cause.NODE_LOST)
    second.stop, second.log_offset = StopReason.RUN_TIMEOUT, 17
    second.verdict = End(Outcome.FAILED, "It ran too long.", None, "timeout:run", "run", Cause.WORKLOAD)
    second.enqueued_at, second.claimed_at = 5.25, 7
    second.use("one", "other")
    second.assigned, second.tries = Assigned(("GPU-1",), 2.5, 1024), {"preempted": 2}
    await journal.record(second)
    await journal.close()

    journal = await Journal.open(tmp_path)
    again = await journal.launches()
    await journal.close()
    for found in again:
        found.spec = {}
    first.spec = second.spec = {}
    assert again == [first, second]


async def test_what_an_earlier_version_did_not_write_is_unknown(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path)
    await journal.record(replace(launch(), enqueued_at=5, claimed_at=7, uses=("one",)))
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as database:
        ((text,),) = database.execute("SELECT launch FROM held")
        row = json.loads(text)
        assert row.pop("enqueued_at") == 5
        assert row.pop("uses") == ["one"]
        database.execute("UPDATE held SET launch = ?", (json.dumps(row),))
    (found,) = await journal.launches()
    await journal.close()
    assert (found.enqueued_at, found.known_since, found.uses) == (0, 7, None)


async def test_a_later_record_replaces_the_earlier_and_a_forgotten_launch_is_gone(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path)
    held = launch()
    await journal.record(held)
    held.move(Stage.PREPARING)
    await journal.record(held)
    assert [found.stage for found in await journal.launches()] == [Stage.PREPARING]
    await journal.forget(held)
    assert await journal.launches() == []
    await journal.close()


async def test_the_identity_is_kept(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path)
    assert await journal.identity() is None
    await journal.remember_identity(Identity("http://a", "e", "id-1", "name-1"))
    await journal.remember_identity(Identity("http://a", "e", "id-2", "name-2"))
    await journal.close()
    journal = await Journal.open(tmp_path)
    assert await journal.identity() == Identity("http://a", "e", "id-2", "name-2")
    await journal.close()


async def test_whatever_is_no_key_is_kept_as_it_is(tmp_path: Path) -> None:
    """A config value may be called like a secret, and the launch needs it."""
    journal = await Journal.open(tmp_path)
    held = launch()
    held.spec = {"overrides": {"run_config": {"max_tokens": 512, "tokenizer": "bpe"}}}
    await journal.record(held)
    assert (await journal.launches())[0].spec == held.spec
    await journal.close()


async def test_no_secret_is_written(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path)
    await journal.record(launch())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(SECRET.encode() in path.read_bytes() for path in files)
    await journal.close()


async def test_a_state_folder_has_one_owner(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path)
    with pytest.raises(StateFolderInUse, match="--state-dir"):
        await Journal.open(tmp_path)
    await journal.close()
    await (await Journal.open(tmp_path)).close()
