"""The claim table: nothing is handed out twice, nothing is lost, leases are respected, and the order is kept."""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete, select

from server.database import Database
from server.ids import decode
from server.storage import agents, claims, runs
from server.storage.agents import ALIVE_SECONDS
from server.storage.claims import LEASE_SECONDS
from server.storage.tables import run_queue_items
from server.storage.tables import runs as runs_table
from tests.server.conftest import Client
from tests.server.launching import make_queue

QUEUE, USER, PROJECT = 1, 1, 1


def _push(connection: Connection, now: float = 0, priority: int = 2, queue: int = QUEUE) -> int:
    values = {"priority": priority, "launch_spec": "{}", "spec_digest": "", "created_by": USER}
    return claims.push(connection, queue, now=now, **values)


def _agent(connection: Connection, now: float = 0, version: str = "wandb@0.31.0") -> int:
    values = {"hostname": "h", "queues": "[]", "config": "{}", "created_by": USER, "project_id": PROJECT}
    return agents.create(connection, now=now, name=f"{version}-{now}", version=version, **values)


def _taken(connection: Connection, agent: int | None, now: float, queue: int = QUEUE) -> int | None:
    claims.return_expired(connection, queue, now)
    row = claims.take(connection, queue, agent, now)
    return row.id if row else None


def _row(connection: Connection, item: int) -> Any:
    return connection.execute(select(run_queue_items).where(run_queue_items.c.id == item)).one()


@dataclass
class Entry:
    """What the model knows of an item."""

    priority: int
    state: str = "PENDING"
    holder: int | None = None
    until: float = 0
    run: str = ""


class ClaimTable(RuleBasedStateMachine):
    """The table beside a model of it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.now = 0.0
        self.model: dict[int, Entry] = {}

    def teardown(self) -> None:
        self.connection.execute(delete(run_queue_items))

    @rule(priority=st.integers(0, 3))
    def push(self, priority: int) -> None:
        self.model[_push(self.connection, self.now, priority)] = Entry(priority)

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS / 2, LEASE_SECONDS - 1, LEASE_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(agent=st.integers(1, 3))
    def take(self, agent: int) -> None:
        self._return_expired()
        waiting = [(entry.priority, item) for item, entry in self.model.items() if entry.state == "PENDING"]
        expected = min(waiting)[1] if waiting else None
        assert _taken(self.connection, agent, self.now) == expected
        if expected is not None:
            entry = self.model[expected]
            entry.state, entry.holder, entry.until = "LEASED", agent, self.now + LEASE_SECONDS

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data(), agent=st.integers(1, 3), run=st.sampled_from(["r1", "r2"]))
    def acknowledge(self, data: st.DataObject, agent: int, run: str) -> None:
        item = data.draw(st.sampled_from(sorted(self.model)))
        entry = self.model[item]
        fresh = entry.state in {"PENDING", "LEASED"} and entry.holder == agent
        again = entry.state == "CLAIMED" and entry.holder == agent and entry.run == run
        granted = claims.acknowledge(self.connection, item, agent, run, self.now) is not None
        assert granted == (fresh or again)
        if granted:
            entry.state, entry.run = "CLAIMED", run

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data(), agent=st.integers(1, 3))
    def release(self, data: st.DataObject, agent: int) -> None:
        item = data.draw(st.sampled_from(sorted(self.model)))
        entry = self.model[item]
        his = entry.state in {"PENDING", "LEASED", "CLAIMED"} and entry.holder == agent
        assert claims.release(self.connection, item, agent, self.now) == his
        if his:
            entry.state, entry.holder = "PENDING", None

    @precondition(lambda self: any(entry.state == "CLAIMED" for entry in self.model.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([item for item, entry in self.model.items() if entry.state == "CLAIMED"]))
        claims.end(self.connection, item, "FINISHED", self.now)
        self.model[item].state = "FINISHED"

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = self.connection.execute(select(run_queue_items.c.id, run_queue_items.c.state)).all()
        stored = {row.id: row.state for row in rows}
        assert stored.keys() == self.model.keys()
        # Only a take puts expired leases back, so until then the table may still say LEASED.
        assert all(stored[item] == entry.state for item, entry in self.model.items())

    def _return_expired(self) -> None:
        for entry in self.model.values():
            if entry.state == "LEASED" and entry.until <= self.now:
                entry.state = "PENDING"


def test_the_claim_table_does_what_its_model_does(connection: Connection) -> None:
    class Machine(ClaimTable):
        def __init__(self) -> None:
            super().__init__(connection)

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40))


def test_the_most_urgent_goes_first_and_of_those_the_oldest(connection: Connection) -> None:
    ordinary, low, urgent, later = (_push(connection, priority=priority) for priority in (2, 3, 0, 2))
    assert [_taken(connection, None, 1) for _ in range(5)] == [urgent, ordinary, later, low, None]


def test_queues_do_not_mix(connection: Connection) -> None:
    _push(connection, queue=2)
    assert _taken(connection, None, 1) is None


def test_a_lease_ends_after_a_minute_and_not_before(connection: Connection) -> None:
    item = _push(connection)
    assert _taken(connection, 1, 100) == item
    assert claims.next_expiry(connection, QUEUE) == 100 + LEASE_SECONDS
    assert _taken(connection, 2, 100 + LEASE_SECONDS - 0.001) is None
    assert _taken(connection, 2, 100 + LEASE_SECONDS) == item


def test_an_agent_that_does_not_say_who_it_is_acknowledges_once(connection: Connection) -> None:
    item = _push(connection)
    assert claims.acknowledge(connection, item, None, "r", 0) is None, "nobody has leased it"
    _taken(connection, 1, 0)
    assert claims.acknowledge(connection, item, None, "r", 1) is not None
    assert claims.acknowledge(connection, item, None, "r", 2) is None


def test_a_lease_that_went_back_is_still_good_until_somebody_takes_the_item(connection: Connection) -> None:
    item = _push(connection)
    _taken(connection, 1, 0)
    claims.return_expired(connection, QUEUE, LEASE_SECONDS)
    assert _row(connection, item).state == "PENDING"
    assert claims.acknowledge(connection, item, 2, "r", LEASE_SECONDS) is None
    assert claims.acknowledge(connection, item, None, "r", LEASE_SECONDS) is not None
    assert _row(connection, item).agent_id == 1


@pytest.mark.parametrize("what", ["take", "return"])
def test_the_cost_of_a_claim_does_not_grow_with_the_queue(connection: Connection, what: str) -> None:
    if connection.dialect.name == "postgresql":
        for _ in range(300):
            claims.end(connection, _push(connection), "FINISHED", 0)
        connection.exec_driver_sql("ANALYZE run_queue_items")  # on a table that is empty, any index is as good
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # which a small table would get
        statement = claims._TAKE_SKIPPING_LOCKED if what == "take" else claims._RETURN_EXPIRED
    else:
        statement = claims._TAKE if what == "take" else claims._RETURN_EXPIRED
    values = {"of_queue": QUEUE, "holder": 1, "until": 1.0, "at": 1.0}
    compiled = statement.compile(connection)
    given = compiled.construct_params(values)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    rows = connection.exec_driver_sql(
        f"{explain} {compiled}", tuple(given[name] for name in compiled.positiontup or ())
    )
    plan = "\n".join(" ".join(map(str, row)) for row in rows)
    assert ("ix_run_queue_items_pending" if what == "take" else "ix_run_queue_items_leased") in plan
    assert "SCAN run_queue_items" not in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


class TestAtTheSameTime:
    """Many who claim at once, each in transactions of his own."""

    ITEMS, WORKERS = 120, 12

    async def _prepared(self, client: Client) -> tuple[Database, int, list[int]]:
        queue_id = decode("RunQueue", await make_queue(client))
        database = client.context.services.database

        def push_all(connection: Connection) -> list[int]:
            return [_push(connection, queue=queue_id, priority=number % 4) for number in range(self.ITEMS)]

        return database, queue_id, await database.write(push_all)

    async def test_nothing_is_handed_out_twice_and_nothing_is_lost(self, client: Client) -> None:
        database, queue_id, pushed = await self._prepared(client)
        taken: list[int] = []

        async def work() -> None:
            while (row := await database.claim(claims.take, queue_id, None, 1.0)) is not None:
                taken.append(row.id)

        await asyncio.gather(*(work() for _ in range(self.WORKERS)))
        assert sorted(taken) == pushed

    async def test_one_of_those_who_acknowledge_gets_it(self, client: Client) -> None:
        database, queue_id, pushed = await self._prepared(client)
        while await database.claim(claims.take, queue_id, None, 1.0) is not None:
            pass

        async def acknowledge(item: int, run: str) -> bool:
            return await database.write(claims.acknowledge, item, None, run, 2.0) is not None

        for item in pushed[:20]:
            granted = await asyncio.gather(*(acknowledge(item, f"run{number}") for number in range(4)))
            assert granted.count(True) == 1

    async def test_leases_that_end_meanwhile_go_to_one_each(self, client: Client) -> None:
        database, queue_id, pushed = await self._prepared(client)
        taken: dict[int, list[float]] = {item: [] for item in pushed}

        async def work(now: float) -> None:
            await database.claim(claims.return_expired, queue_id, now)
            row = await database.claim(claims.take, queue_id, None, now)
            if row is not None:
                taken[row.id].append(now)

        for moment in range(30):
            now = moment * LEASE_SECONDS / 8
            await asyncio.gather(*(work(now) for _ in range(self.WORKERS)))
        for times in taken.values():
            assert all(later - earlier >= LEASE_SECONDS for earlier, later in itertools.pairwise(times))
        assert sum(map(len, taken.values())) > self.ITEMS, "no lease has ended"

    async def test_what_its_agent_starts_at_that_moment_does_not_go_back(self, client: Client) -> None:
        database, queue_id, _ = await self._prepared(client)

        def prepare(connection: Connection) -> tuple[int, int]:
            agent = _agent(connection, 0, "launchbay@0.1")
            item = _taken(connection, agent, 0, queue_id)
            assert item is not None
            assert claims.acknowledge(connection, item, agent, "r", 0) is not None
            assert claims.note_progress(connection, item, agent, "preparing", None, 0)
            return item, agent

        item, agent = await database.write(prepare)

        def start(connection: Connection) -> bool:
            his = claims.note_progress(connection, item, agent, "starting", None, 2)
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_sleep(0.2)")  # where others may work meanwhile
            return his

        starting = asyncio.create_task(database.write(start))
        await asyncio.sleep(0.1)
        returned = await database.write(claims.return_abandoned, queue_id, ALIVE_SECONDS + 1)
        assert await starting
        assert list(returned) == []
        assert (await database.read(_row, item)).state == "CLAIMED"


class TestAbandoned:
    """Claims of agents that are gone."""

    GONE = ALIVE_SECONDS + 1

    def _claimed(self, connection: Connection, version: str = "wandb@0.31.0") -> tuple[int, int]:
        agent, item = _agent(connection, version=version), _push(connection)
        assert _taken(connection, agent, 0) == item
        assert claims.acknowledge(connection, item, agent, "r", 0) is not None
        return item, agent

    def test_goes_back(self, connection: Connection) -> None:
        item, _ = self._claimed(connection)
        assert list(claims.return_abandoned(connection, QUEUE, ALIVE_SECONDS)) == []
        assert list(claims.return_abandoned(connection, QUEUE, self.GONE)) == [item]
        assert _taken(connection, None, self.GONE) == item

    def test_stays_when_its_run_has_started(self, connection: Connection) -> None:
        item, _ = self._claimed(connection)
        run = runs.ensure_pending(connection, PROJECT, "r", user_id=USER, now=0)
        claims.link_run(connection, item, run)
        connection.execute(runs_table.update().values(started_at=5, heartbeat_at=5))
        assert list(claims.return_abandoned(connection, QUEUE, self.GONE)) == []

    def test_goes_back_when_only_an_earlier_life_of_its_run_is_known(self, connection: Connection) -> None:
        run = runs.ensure_pending(connection, PROJECT, "r", user_id=USER, now=0)
        connection.execute(runs_table.update().values(started_at=-9, heartbeat_at=-8))
        item, _ = self._claimed(connection)
        claims.link_run(connection, item, run)
        assert list(claims.return_abandoned(connection, QUEUE, self.GONE)) == [item]

    @pytest.mark.parametrize(
        ("status", "back"), [(None, False), ("starting", False), ("retrying", False), ("preparing", True)]
    )
    def test_of_our_agent_goes_back_only_while_it_is_prepared(
        self, connection: Connection, status: str | None, back: bool
    ) -> None:
        item, agent = self._claimed(connection, "launchbay@0.1")
        if status:
            assert claims.note_progress(connection, item, agent, status, None, 1)
        assert list(claims.return_abandoned(connection, QUEUE, self.GONE)) == ([item] if back else [])

    def test_is_its_agents_again_if_it_speaks_up_in_time(self, connection: Connection) -> None:
        item, agent = self._claimed(connection)
        claims.return_abandoned(connection, QUEUE, self.GONE)
        assert claims.note_progress(connection, item, agent, "preparing", None, self.GONE)
        assert _taken(connection, None, self.GONE) is None

    def test_is_not_its_agents_any_more_once_somebody_took_it(self, connection: Connection) -> None:
        item, agent = self._claimed(connection)
        claims.return_abandoned(connection, QUEUE, self.GONE)
        other = _agent(connection, self.GONE)
        assert _taken(connection, other, self.GONE) == item
        assert not claims.note_progress(connection, item, agent, "preparing", None, self.GONE)
        assert claims.acknowledge(connection, item, agent, "r", self.GONE) is None

    def test_is_stopped_if_somebody_had_wished_so(self, connection: Connection) -> None:
        item, _ = self._claimed(connection)
        connection.execute(run_queue_items.update().values(stop_requested_at=3))
        assert list(claims.return_abandoned(connection, QUEUE, self.GONE)) == []
        assert (_row(connection, item).state, _row(connection, item).ended_at) == ("STOPPED", self.GONE)
