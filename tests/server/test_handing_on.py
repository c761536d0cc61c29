"""Items on their way between agents and attempts: handed back, adopted, tried again."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneUnavailable
from agent.operations import adopt as ask_to_adopt
from agent.operations import release as hand_back
from server.app import build_app
from server.authentication import Authenticator
from server.context import Services
from server.filestream import receive, understand
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS
from server.storage.agents import ALIVE_SECONDS
from server.storage.claims import LEASE_SECONDS, return_abandoned
from tests.server.conftest import Client, Clock
from tests.server.launching import (
    SPEC,
    STOP,
    acknowledge,
    adopt,
    finish,
    make_our_agent,
    make_queue,
    pop,
    push,
    read_item,
    release,
    say_goodbye,
    start_run,
    store_key,
    tell,
    until_somebody_waits,
)

LOST = {"success": False, "runSpec": None, "heldBy": None}
"""The answer to who wants to adopt a launch that is nobody's."""


async def _queue_and_agents(client: Client) -> tuple[str, str]:
    """Make a queue and two agents."""
    queue = await make_queue(client, prioritizationMode="V0")
    return await make_our_agent(client, queue), await make_our_agent(client, queue)


async def _claimed(client: Client, agent: str) -> str:
    item = await push(client)
    assert await pop(client, agent) == item
    assert await acknowledge(client, item, "run1", agent)
    return item


async def _run(client: Client) -> dict[str, Any]:
    query = '{ project(entityName: "admin", name: "p") { run(name: "run1") { state stopped } } }'
    return (await client.ask(query))["project"]["run"]


async def _say(client: Client, **body: Any) -> None:
    """Say something on the run's file stream."""
    await receive(client.context, "admin", "p", "run1", understand(body))


async def _stop(client: Client, item: str) -> None:
    await client.ask(STOP, input={"runQueueItemId": item})


async def _stop_run(client: Client) -> None:
    query = '{ project(entityName: "admin", name: "p") { run(name: "run1") { id } } }'
    run_id = (await client.ask(query))["project"]["run"]["id"]
    data = await client.ask("mutation ($id: ID!) { stopRun(input: {id: $id}) { success } }", id=run_id)
    assert data["stopRun"]["success"]


class TestRelease:
    """releaseRunQueueItem."""

    @pytest.mark.parametrize("claimed", [False, True])
    async def test_the_item_waits_at_its_old_place(self, client: Client, claimed: bool) -> None:
        mine, other = await _queue_and_agents(client)
        item = await push(client, priority=1)
        for priority in (1, 2):
            await push(client, priority=priority)
        assert await pop(client, mine) == item
        if claimed:
            assert await acknowledge(client, item, "run1", mine)
            assert await tell(client, item, mine, "preparing")
        assert await release(client, item, mine)
        read = await read_item(client, item)
        assert (read["state"], read["agent"], read["status"]) == ("PENDING", None, None)
        assert await pop(client, other) == item
        assert await acknowledge(client, item, "run2", other)

    async def test_one_who_waits_for_an_item_gets_it_at_once(self, client: Client) -> None:
        mine, other = await _queue_and_agents(client)
        item = await push(client)
        assert await pop(client, mine) == item
        poll = asyncio.create_task(pop(client, other, wait=600))
        await until_somebody_waits(client)
        assert await release(client, item, mine)
        assert await asyncio.wait_for(poll, 60) == item

    async def test_its_run_stays_pending_until_somebody_chooses_another(self, client: Client) -> None:
        mine, other = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        assert await release(client, item, mine)
        assert (await _run(client))["state"] == "pending"
        assert await pop(client, other) == item
        assert await acknowledge(client, item, "run2", other)
        assert (await _run(client))["state"] == "failed"

    async def test_again_is_a_success_until_somebody_else_has_taken_it(self, client: Client) -> None:
        mine, other = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        assert [await release(client, item, mine) for _ in range(2)] == [True, True]
        assert await pop(client, other) == item
        assert not await release(client, item, mine)
        assert (await read_item(client, item))["state"] == "LEASED"

    async def test_what_the_agent_had_said_before_counts_no_more(self, client: Client) -> None:
        """A call that was given up may still be on its way."""
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        assert await release(client, item, mine)
        assert not await tell(client, item, mine, "preparing")
        assert not await acknowledge(client, item, "run1", mine)
        assert not await acknowledge(client, item, "run1")
        assert (await adopt(client, item, mine)) == {**LOST, "itemState": "PENDING"}
        assert (await read_item(client, item))["state"] == "PENDING"

    async def test_a_lease_that_has_ended_is_let_go_of(self, client: Client, clock: Clock) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await push(client)
        assert await pop(client, mine) == item
        clock.now += LEASE_SECONDS
        assert await release(client, item, mine)
        assert not await acknowledge(client, item, "run1", mine)

    async def test_is_the_holders_alone(self, client: Client) -> None:
        mine, other = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        assert not await release(client, item, other)
        assert (await read_item(client, item))["state"] == "CLAIMED"

    async def test_is_refused_once_its_run_has_started(self, client: Client) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await start_run(client)
        assert not await release(client, item, mine)
        assert (await read_item(client, item))["state"] == "RUNNING"

    async def test_is_refused_once_it_has_ended(self, client: Client) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await finish(client, item, "failed", launchAgentId=mine)
        assert not await release(client, item, mine)
        assert (await read_item(client, item))["state"] == "FAILED"

    @pytest.mark.parametrize("by_run", [False, True])
    async def test_is_the_end_if_somebody_wants_it_stopped(self, client: Client, by_run: bool) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await (_stop_run(client) if by_run else _stop(client, item))
        assert [await release(client, item, mine) for _ in range(2)] == [True, True]
        read = await read_item(client, item)
        assert (read["state"], bool(read["endedAt"]), (await _run(client))["state"]) == ("STOPPED", True, "killed")
        assert await pop(client) is None

    @pytest.mark.parametrize("by_run", [False, True])
    async def test_one_that_waits_again_can_be_stopped_with_its_run(self, client: Client, by_run: bool) -> None:
        mine, other = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        assert await release(client, item, mine)
        await (_stop_run(client) if by_run else _stop(client, item))
        assert await pop(client, other) is None
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("STOPPED", "killed")


class TestAdopt:
    """adoptRunQueueItem."""

    async def test_ones_own_item_comes_with_its_spec_but_for_the_key(self, client: Client) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await store_key(client, "s3cret")
        await start_run(client)
        for _ in range(2):
            answer = await adopt(client, item, mine)
            assert (answer["success"], answer["itemState"], answer["heldBy"]) == (True, "RUNNING", None)
            assert answer["runSpec"]["docker"] == SPEC["docker"]
            assert "s3cret" not in json.dumps(answer)

    @pytest.mark.parametrize("goodbye", [False, True])
    async def test_takes_over_what_an_agent_held_that_is_gone(
        self, client: Client, clock: Clock, goodbye: bool
    ) -> None:
        gone, mine = await _queue_and_agents(client)
        item = await _claimed(client, gone)
        assert await tell(client, item, gone, "preparing")
        if goodbye:
            await say_goodbye(client, gone)
        else:
            clock.now += ALIVE_SECONDS + 1
        assert (await adopt(client, item, mine))["success"]
        assert await finish(client, item, "stopped", launchAgentId=gone) == "CLAIMED"
        clock.now += ALIVE_SECONDS + 1
        assert await pop(client) is None
        clock.now += ALIVE_SECONDS + 1
        assert await pop(client) is None, "what is on a platform never goes back by itself"
        assert await finish(client, item, "failed", launchAgentId=mine) == "FAILED"

    async def test_waits_while_the_holder_may_be_at_work(self, client: Client, clock: Clock) -> None:
        holder, mine = await _queue_and_agents(client)
        item = await _claimed(client, holder)
        name = (await read_item(client, item))["agent"]["name"]
        clock.now += ALIVE_SECONDS
        assert await adopt(client, item, mine) == {**LOST, "itemState": "CLAIMED", "heldBy": name}
        assert await finish(client, item, "failed", launchAgentId=holder) == "FAILED"

    async def test_nobody_is_gone_whom_the_server_could_not_hear(self, client: Client, clock: Clock) -> None:
        holder, mine = await _queue_and_agents(client)
        item = await _claimed(client, holder)
        clock.now += ALIVE_SECONDS * 10
        restarted = replace(client.context.services, listening_since=clock.now - ALIVE_SECONDS)
        answer = await adopt(replace(client, context=replace(client.context, services=restarted)), item, mine)
        assert (answer["success"], bool(answer["heldBy"])) == (False, True)

    async def test_what_went_back_is_taken_if_nobody_else_was_faster(self, client: Client, clock: Clock) -> None:
        gone, mine = await _queue_and_agents(client)
        item = await _gone_back(client, clock, gone)
        answer = await adopt(client, item, mine)
        assert (answer["success"], answer["itemState"]) == (True, "CLAIMED")
        assert await pop(client) is None

    async def test_what_somebody_else_has_taken_is_lost(self, client: Client, clock: Clock) -> None:
        gone, mine = await _queue_and_agents(client)
        item = await _gone_back(client, clock, gone)
        other = await make_our_agent(client)
        assert await pop(client, other) == item
        assert await adopt(client, item, mine) == {**LOST, "itemState": "LEASED"}
        assert await acknowledge(client, item, "run2", other)
        assert await adopt(client, item, mine) == {**LOST, "itemState": "CLAIMED"}

    async def test_what_is_over_is_lost(self, client: Client) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        assert await finish(client, item, "failed", launchAgentId=mine) == "FAILED"
        assert await adopt(client, item, mine) == {**LOST, "itemState": "FAILED"}

    async def test_what_never_was_is_lost(self, client: Client) -> None:
        mine, _ = await _queue_and_agents(client)
        waiting = await push(client)
        assert await adopt(client, waiting, mine) == {**LOST, "itemState": "PENDING"}
        assert await adopt(client, "UnVuUXVldWVJdGVtOjk5", mine) == {**LOST, "itemState": None}

    async def test_of_two_at_once_one_gets_it(self, client: Client, clock: Clock) -> None:
        gone, first = await _queue_and_agents(client)
        adopters = [first, *[await make_our_agent(client) for _ in range(3)]]
        claimed = [await _claimed(client, gone) for _ in range(4)]
        back = await _gone_back(client, clock, gone)
        clock.now += ALIVE_SECONDS + 1  # the adopters, too, were not heard of for long
        for item in [back, *claimed]:
            answers = await asyncio.gather(*(adopt(client, item, agent) for agent in adopters))
            assert [answer["success"] for answer in answers].count(True) == 1
            assert [bool(answer["heldBy"]) for answer in answers].count(True) == 3
            clock.now += ALIVE_SECONDS + 1

    async def test_against_one_who_polls_there_is_one_winner(self, client: Client, clock: Clock) -> None:
        gone, mine = await _queue_and_agents(client)
        other = await make_our_agent(client)
        for adopts_first in (True, False) * 3:
            item = await _gone_back(client, clock, gone)
            if adopts_first:
                adopted, popped = await asyncio.gather(adopt(client, item, mine), pop(client, other))
            else:
                popped, adopted = await asyncio.gather(pop(client, other), adopt(client, item, mine))
            assert adopted["success"] != (popped == item)
            assert (await read_item(client, item))["state"] == ("CLAIMED" if adopted["success"] else "LEASED")


async def _gone_back(client: Client, clock: Clock, agent: str) -> str:
    """Make an item that an agent had claimed, and that went back because the agent was silent."""
    item = await _claimed(client, agent)
    assert await tell(client, item, agent, "preparing")
    services = client.context.services
    await services.heartbeats.flush()
    clock.now += ALIVE_SECONDS + 1
    assert len(await services.database.write(return_abandoned, 1, clock.now)) == 1
    return item


class TestAbandoned:
    """Claims of agents that are gone, which go back by themselves."""

    @pytest.mark.parametrize("by_run", [False, True])
    async def test_ends_if_somebody_wants_it_stopped(self, client: Client, clock: Clock, by_run: bool) -> None:
        gone, mine = await _queue_and_agents(client)
        item = await _claimed(client, gone)
        assert await tell(client, item, gone, "preparing")
        await (_stop_run(client) if by_run else _stop(client, item))
        await client.context.services.heartbeats.flush()
        for _ in range(2):  # the first look only notes that somebody looks
            assert await pop(client, mine) is None
            clock.now += ALIVE_SECONDS + 1
        read = await read_item(client, item)
        assert (read["state"], read["error"]["message"]) == ("STOPPED", "Stopped while its agent was gone.")
        assert (bool(read["endedAt"]), (await _run(client))["state"]) == (True, "killed")
        assert await pop(client, mine) is None


class TestRetrying:
    """updateRunQueueItemStatus: another attempt of the same launch, under the same item and run."""

    async def _failed(self, client: Client) -> tuple[str, str]:
        """Bring an item to where the first attempt of its run has failed by its own word."""
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await start_run(client)
        await _say(client, complete=True, exitcode=1)
        return item, mine

    async def test_the_runs_past_says_nothing_about_the_item(self, client: Client, clock: Clock) -> None:
        item, mine = await self._failed(client)
        assert await tell(client, item, mine, "retrying", "exit code 1; again in 10 s")
        read = await read_item(client, item)
        assert (read["state"], read["associatedRunId"], read["associatedRun"]["state"]) == ("CLAIMED", None, "pending")
        assert read["waitingReason"].endswith(": exit code 1; again in 10 s.")
        clock.now += 3600
        assert (await _run(client))["state"] == "pending"

    async def test_who_waits_for_the_run_sees_no_end_before_the_agent_has_decided(
        self, client: Client, clock: Clock
    ) -> None:
        item, mine = await self._failed(client)
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("RUNNING", "running")
        assert await finish(client, item, "failed", launchAgentId=mine, exitCode=1) == "FAILED"
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("FAILED", "failed")

    async def test_a_failure_that_no_agent_confirms_counts_after_a_while(self, client: Client, clock: Clock) -> None:
        item, _ = await self._failed(client)
        clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("FAILED", "failed")

    async def test_a_failed_run_that_still_speaks_goes_on(self, client: Client, clock: Clock) -> None:
        item, mine = await self._failed(client)
        clock.now += 1
        await _say(client)
        assert await finish(client, item, "stopped", launchAgentId=mine) == "KILLED"
        assert (await _run(client))["state"] == "killed"

    @pytest.mark.parametrize("at_work", [False, True])
    async def test_an_end_is_final_where_nobody_can_try_again(
        self, client: Client, clock: Clock, at_work: bool
    ) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await start_run(client)
        if not at_work:
            clock.now += ALIVE_SECONDS + 1
        await _say(client, complete=True, exitcode=0 if at_work else 1)
        assert (await _run(client))["state"] == ("finished" if at_work else "failed")
        assert (await read_item(client, item))["state"] == ("RUNNING" if at_work else "FAILED")

    async def test_the_resumed_run_runs_and_has_no_end(self, client: Client, clock: Clock) -> None:
        item, mine = await self._failed(client)
        assert await tell(client, item, mine, "retrying")
        clock.now += 10
        assert await tell(client, item, mine, "preparing")
        await start_run(client)
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("RUNNING", "running")
        await _say(client, complete=True, exitcode=0)
        assert await finish(client, item, "finished", launchAgentId=mine, exitCode=0) == "FINISHED"
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("FINISHED", "finished")

    async def test_a_heartbeat_that_was_not_written_down_yet_changes_nothing(
        self, client: Client, services: Services, clock: Clock
    ) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await start_run(client)
        clock.now += 30
        await _say(client)
        assert await tell(client, item, mine, "retrying")
        await services.heartbeats.flush()
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("CLAIMED", "pending")

    async def test_what_a_killed_attempt_still_says_is_no_sign_of_life(self, client: Client) -> None:
        """The client's own process may outlive the job for a moment, and says then that the run has failed."""
        item, mine = await self._failed(client)
        assert await tell(client, item, mine, "retrying")
        await _say(client)
        await _say(client, files={"wandb-summary.json": {"offset": 0, "content": ['{"loss": 1}']}})
        await _say(client, preempting=True, complete=True, exitcode=255)
        assert ((await read_item(client, item))["state"], (await _run(client))["state"]) == ("CLAIMED", "pending")
        await start_run(client)
        assert (await _run(client))["state"] == "running"

    async def test_an_attempt_that_fails_before_it_runs_is_the_end(self, client: Client) -> None:
        item, mine = await self._failed(client)
        assert await tell(client, item, mine, "retrying")
        assert await finish(client, item, "failed", launchAgentId=mine, exitCode=3) == "FAILED"
        assert ((await read_item(client, item))["exitCode"], (await _run(client))["state"]) == (3, "failed")

    async def test_a_wish_to_stop_holds_for_the_next_attempt(self, client: Client) -> None:
        mine, _ = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        await start_run(client)
        await _stop(client, item)
        await _say(client, complete=True, exitcode=1)
        assert await tell(client, item, mine, "retrying")
        assert await _run(client) == {"state": "pending", "stopped": True}
        assert await finish(client, item, "failed", launchAgentId=mine) == "STOPPED"

    async def test_can_be_stopped_while_it_waits(self, client: Client) -> None:
        item, mine = await self._failed(client)
        assert await tell(client, item, mine, "retrying")
        await _stop(client, item)
        assert "told to stop" in (await read_item(client, item))["waitingReason"]
        assert await finish(client, item, "stopped", launchAgentId=mine) == "STOPPED"
        assert (await _run(client))["state"] == "killed"

    async def test_is_the_holders_word_alone(self, client: Client) -> None:
        item, mine = await self._failed(client)
        other = await make_our_agent(client)
        assert not await tell(client, item, other, "retrying")
        assert await finish(client, item, "failed", launchAgentId=mine) == "FAILED"
        assert not await tell(client, item, mine, "retrying")
        assert (await _run(client))["state"] == "failed"

    async def test_never_goes_back_by_itself(self, client: Client, clock: Clock) -> None:
        item, mine = await self._failed(client)
        assert await tell(client, item, mine, "retrying")
        for _ in range(2):
            clock.now += ALIVE_SECONDS + 1
            assert await pop(client) is None
        assert "not heard of" in (await read_item(client, item))["waitingReason"]

    async def test_leaves_its_place_to_others(self, client: Client) -> None:
        queue = await make_queue(client)
        mine = await make_our_agent(client, queue)
        item = await _claimed(client, mine)
        waiting = await push(client)
        assert "at max_jobs" in (await read_item(client, waiting))["waitingReason"]
        assert await tell(client, item, mine, "retrying")
        assert "at max_jobs" not in (await read_item(client, waiting))["waitingReason"]

    async def test_its_message_may_quote_whatever_a_program_has_printed(self, client: Client) -> None:
        item, mine = await self._failed(client)
        assert await tell(client, item, mine, "retrying", "a\0b\n\x1b[31mc")
        assert "a\ufffdb\n" in (await read_item(client, item))["waitingReason"]


class TestOurAgentSaysIt:
    """The agent's side of it, over HTTP."""

    @pytest.fixture
    async def control(
        self, client: Client, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[ControlPlane]:
        """The wire to the server, whoever asks."""

        async def viewer(*_: object) -> Any:
            return client.context.viewer

        monkeypatch.setattr(Authenticator, "viewer", viewer)
        server = TestServer(build_app(services))
        await server.start_server()
        async with ControlPlane(str(server.make_url("")).rstrip("/"), "key", random=Random(1)) as control:
            yield control
        await server.close()

    async def test_hands_back(self, client: Client, control: ControlPlane) -> None:
        mine, other = await _queue_and_agents(client)
        item = await _claimed(client, mine)
        assert not await hand_back(control, item, other)
        assert await hand_back(control, item, mine)

    async def test_adopts_or_learns_that_it_is_an_orphan_or_has_to_ask_again(
        self, client: Client, control: ControlPlane, clock: Clock
    ) -> None:
        gone, mine = await _queue_and_agents(client)
        item = await _claimed(client, gone)
        with pytest.raises(ControlPlaneUnavailable, match="may be at work"):
            await ask_to_adopt(control, item, "run1", mine)
        clock.now += ALIVE_SECONDS + 1
        assert await ask_to_adopt(control, item, "run2", mine) is None
        spec = await ask_to_adopt(control, item, "run1", mine)
        assert spec is not None
        assert spec["docker"] == SPEC["docker"]
        assert await ask_to_adopt(control, "UnVuUXVldWVJdGVtOjk5", "run1", mine) is None
