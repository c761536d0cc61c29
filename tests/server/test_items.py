"""The life of a run queue item, as agents and readers see it."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from server.context import Services
from server.filestream import receive, understand
from server.intervals import Intervals
from server.storage.agents import ALIVE_SECONDS
from server.storage.claims import LEASE_SECONDS
from server.storage.tables import run_queue_items, runs
from tests.server.conftest import Client, Clock, make_client
from tests.server.launching import (
    DELETE,
    FINISH,
    ITEM,
    POP,
    PUSH_BY_NAME,
    SPEC,
    STOP,
    acknowledge,
    by_name,
    fail,
    finish,
    make_agent,
    make_our_agent,
    make_queue,
    pop,
    push,
    push_by_id,
    read_item,
    say_goodbye,
    start_run,
    store_key,
    tell,
    until_somebody_waits,
)

RUN_STATE = '{ project(entityName: "admin", name: "p") { run(name: "run1") { state user { username } displayName } } }'


async def _run(client: Client) -> dict[str, object]:
    return (await client.ask(RUN_STATE))["project"]["run"]


async def _claimed(client: Client, **spec: object) -> tuple[str, str]:
    """Bring an item to where its run is about to start; returns the item and its agent."""
    agent = await make_agent(client, await make_queue(client))
    item = await push(client, {**SPEC, **spec})
    assert await pop(client, agent) == item
    assert await acknowledge(client, item)
    return item, agent


async def _popped(client: Client) -> dict[str, Any]:
    """Pop, and return all that comes with it."""
    given = {"entityName": "admin", "projectName": "", "queueName": "q"}
    return (await client.ask(POP, input=given))["popFromRunQueue"]


class TestLife:
    """From the queue to the run."""

    async def test_goes_through_all_states(self, client: Client) -> None:
        agent = await make_agent(client, await make_queue(client))
        item = await push(client, {**SPEC, "name": "shown"})
        states = [await read_item(client, item)]
        assert await pop(client, agent) == item
        states.append(await read_item(client, item))
        assert await acknowledge(client, item)
        states.append(await read_item(client, item))
        assert await _run(client) == {"state": "pending", "user": {"username": "admin"}, "displayName": "shown"}
        await start_run(client)
        states.append(await read_item(client, item))
        assert [state["state"] for state in states] == ["PENDING", "LEASED", "CLAIMED", "RUNNING"]
        assert [state["associatedRunId"] for state in states] == [None, None, None, "run1"]
        assert [bool(state["agent"]) for state in states] == [False, True, True, True]
        assert [bool(state["waitingReason"]) for state in states] == [True, True, True, False]
        assert states[2]["associatedRun"] == {"name": "run1", "state": "pending"}

    async def test_a_popped_spec_is_an_object_with_everything_in_it(self, client: Client) -> None:
        await make_queue(client)
        await push(client, {**SPEC, "of_a_later_client": [1]})
        popped = await _popped(client)
        assert popped["runSpec"] == {
            **SPEC,
            "of_a_later_client": [1],
            "resource": "local-container",
            "resource_args": {"local-container": {}},
            "author": "admin",
        }

    async def test_the_time_of_the_push_comes_with_the_pop(self, client: Client, clock: Clock) -> None:
        await make_queue(client)
        pushed = clock.now = clock.now + 0.25
        await push(client)
        clock.now += 7
        assert (await _popped(client))["enqueuedAt"] == pushed

    async def test_an_item_is_acknowledged_once(self, client: Client) -> None:
        item, _ = await _claimed(client)
        assert not await acknowledge(client, item, "run2")
        assert not await acknowledge(client, item, "run1")

    async def test_our_agent_may_repeat_itself_and_nobody_else_may(self, client: Client) -> None:
        queue = await make_queue(client)
        mine, other = await make_agent(client, queue), await make_agent(client, queue)
        item = await push(client)
        await pop(client, mine)
        assert not await acknowledge(client, item, "run1", other)
        assert [await acknowledge(client, item, "run1", mine) for _ in range(2)] == [True, True]
        assert not await acknowledge(client, item, "run2", mine)

    async def test_the_runs_project_is_made_and_an_empty_one_is_the_clients_default(self, client: Client) -> None:
        item, _ = await _claimed(client, project="")
        data = await client.ask(
            '{ project(entityName: "admin", name: "uncategorized") { run(name: "run1") { state } } }'
        )
        assert data["project"]["run"] == {"state": "pending"}
        assert (await read_item(client, item))["state"] == "CLAIMED"

    async def test_a_lease_that_has_ended_reads_as_waiting(self, client: Client, clock: Clock) -> None:
        agent = await make_agent(client, await make_queue(client))
        item = await push(client)
        await pop(client, agent)
        clock.now += LEASE_SECONDS
        read = await read_item(client, item)
        assert (read["state"], read["agent"]) == ("PENDING", None)
        assert await pop(client) == item

    async def test_what_a_dead_agent_had_not_started_goes_to_another(self, client: Client, clock: Clock) -> None:
        item, _ = await _claimed(client)
        other = await make_agent(client)
        clock.now += ALIVE_SECONDS / 2
        assert await pop(client, other) is None
        clock.now += ALIVE_SECONDS
        assert await pop(client, other) == item
        assert await acknowledge(client, item, "run2", other)
        assert (await _run(client))["state"] == "failed", "the first agent's run will never start"
        assert (await read_item(client, item))["associatedRun"] == {"name": "run2", "state": "pending"}

    async def test_nobody_is_dead_when_the_server_itself_was_away(self, client: Client, clock: Clock) -> None:
        await _claimed(client)
        clock.now += ALIVE_SECONDS * 10
        restarted = replace(client.context.services, intervals=Intervals())
        assert await pop(replace(client, context=replace(client.context, services=restarted))) is None

    async def test_a_resumed_run_starts_anew_for_its_new_item(self, client: Client, clock: Clock) -> None:
        first, agent = await _claimed(client, run_id="run1")
        await start_run(client)
        assert await finish(client, first, "preempted", launchAgentId=agent) == "PREEMPTED"
        clock.now += 10
        second = await push(client, {**SPEC, "run_id": "run1", "_resume_count": 1})
        await pop(client, agent)
        assert await acknowledge(client, second)
        assert (await read_item(client, second))["state"] == "CLAIMED", "its run's past is not its own"
        await start_run(client)
        assert [(await read_item(client, item))["state"] for item in (first, second)] == ["PREEMPTED", "RUNNING"]

    async def test_a_stock_agents_preempted_item_stays_that_when_its_run_goes_on(
        self, client: Client, services: Services, clock: Clock
    ) -> None:
        """A stock agent does not tell the end of the first item."""
        first, agent = await _claimed(client, run_id="run1")
        await start_run(client)
        preempted = runs.update().values(ended_at=clock.now, exit_code=1, preempting=True)
        await services.database.write(lambda connection: connection.execute(preempted).rowcount)
        clock.now += 10
        second = await push(client, {**SPEC, "run_id": "run1", "_resume_count": 1})
        await pop(client, agent)
        assert await acknowledge(client, second)
        await start_run(client)
        assert [(await read_item(client, item))["state"] for item in (first, second)] == ["PREEMPTED", "RUNNING"]


class TestFail:
    """failRunQueueItem."""

    async def test_keeps_message_stage_and_files_and_ends_the_pending_run(self, client: Client) -> None:
        item, _ = await _claimed(client)
        await fail(client, item, "no image", "build")
        read = await read_item(client, item)
        assert read["error"] == {"message": "no image", "stage": "build", "filePaths": ["a/b"]}
        assert (read["state"], read["associatedRunId"]) == ("FAILED", "run1")
        assert (await _run(client))["state"] == "failed"

    async def test_does_nothing_to_a_run_that_has_started(self, client: Client) -> None:
        item, _ = await _claimed(client)
        await start_run(client)
        await fail(client, item)
        assert (await read_item(client, item))["state"] == "RUNNING"

    async def test_does_nothing_when_it_only_says_that_the_item_is_somebody_elses(self, client: Client) -> None:
        item, _ = await _claimed(client)
        await fail(
            client, item, "Error acking run queue item. Item may have already been acknowledged by another process"
        )
        assert (await read_item(client, item))["state"] == "CLAIMED"

    async def test_does_nothing_to_an_item_that_has_ended(self, client: Client) -> None:
        item, _ = await _claimed(client)
        await fail(client, item, "first")
        await fail(client, item, "second")
        assert (await read_item(client, item))["error"]["message"] == "first"

    async def test_a_run_that_starts_all_the_same_brings_the_item_back(self, client: Client, clock: Clock) -> None:
        item, _ = await _claimed(client)
        await fail(client, item, "The submitted run was not successfully started", "run")
        clock.now += 5
        await start_run(client)
        assert (await read_item(client, item))["state"] == "RUNNING"


class TestFinish:
    """finishRunQueueItem."""

    @pytest.mark.parametrize(
        ("told", "item_state", "run_state"),
        [
            ("finished", "FINISHED", "finished"),
            ("failed", "FAILED", "failed"),
            ("stopped", "KILLED", "killed"),
            ("preempted", "PREEMPTED", "preempted"),
            ("lost", "CRASHED", "crashed"),
        ],
    )
    async def test_ends_a_run_that_said_no_last_word(
        self, client: Client, told: str, item_state: str, run_state: str
    ) -> None:
        item, agent = await _claimed(client)
        await start_run(client)
        assert await finish(client, item, told, launchAgentId=agent, exitCode=9) == item_state
        read = await read_item(client, item)
        assert (read["state"], read["exitCode"], read["error"] is None) == (item_state, 9, told == "finished")
        assert (await _run(client))["state"] == run_state

    @pytest.mark.parametrize(("told", "state"), [("finished", "FAILED"), ("failed", "FAILED"), ("stopped", "STOPPED")])
    async def test_ends_an_item_whose_run_never_started(self, client: Client, told: str, state: str) -> None:
        item, agent = await _claimed(client)
        assert await finish(client, item, told, launchAgentId=agent, message="no init") == state
        read = await read_item(client, item)
        assert read["error"] == {"message": "no init", "stage": "run", "filePaths": []}
        assert read["associatedRunId"] == "run1"

    async def test_a_failure_before_the_start_that_was_wished_for_is_a_stop(self, client: Client) -> None:
        item, agent = await _claimed(client)
        await client.ask(STOP, input={"runQueueItemId": item})
        assert await finish(client, item, "failed", launchAgentId=agent) == "STOPPED"

    async def test_counts_once(self, client: Client) -> None:
        item, agent = await _claimed(client)
        assert await finish(client, item, "failed", launchAgentId=agent, exitCode=1) == "FAILED"
        assert await finish(client, item, "stopped", launchAgentId=agent, exitCode=2) == "FAILED"
        assert (await read_item(client, item))["exitCode"] == 1

    async def test_is_the_holders_word_alone(self, client: Client) -> None:
        item, _ = await _claimed(client)
        other = await make_agent(client)
        assert await finish(client, item, "failed", launchAgentId=other) == "CLAIMED"

    async def test_keeps_a_message_of_several_lines(self, client: Client) -> None:
        item, agent = await _claimed(client)
        message = 'The job ended with exit code 1.\n  File "a.py", line 1\nValueError: [/x] \u2713 \0\n'
        await finish(client, item, "failed", launchAgentId=agent, message=message)
        assert (await read_item(client, item))["error"]["message"] == message

    async def test_an_unknown_end_is_refused(self, client: Client) -> None:
        item, _ = await _claimed(client)
        status, message = await client.fail(FINISH, input={"runQueueItemId": item, "state": "dead"})
        assert (status, "'dead'" in message) == (400, True)


class TestEndOfTheRun:
    """What the end of a run means for an item whose end nobody has told."""

    async def _ended(self, client: Client, agent: str) -> str:
        item = await push(client)
        await pop(client, agent)
        assert await acknowledge(client, item)
        await start_run(client)
        await receive(client.context, "admin", "p", "run1", understand({"complete": True, "exitcode": 1}))
        return item

    async def test_is_the_items_where_its_agent_does_not_tell_ends(self, client: Client) -> None:
        item = await self._ended(client, await make_agent(client, await make_queue(client)))
        assert (await read_item(client, item))["state"] == "FAILED"

    async def test_is_not_the_items_while_an_agent_may_try_again(self, client: Client) -> None:
        item = await self._ended(client, agent := await make_our_agent(client, await make_queue(client)))
        assert (await read_item(client, item))["state"] == "RUNNING"
        assert await finish(client, item, "failed", launchAgentId=agent) == "FAILED"
        assert (await read_item(client, item))["state"] == "FAILED"

    @pytest.mark.parametrize("goodbye", [False, True])
    async def test_is_the_items_when_its_agent_is_gone(self, client: Client, clock: Clock, goodbye: bool) -> None:
        item = await self._ended(client, agent := await make_our_agent(client, await make_queue(client)))
        if goodbye:
            await say_goodbye(client, agent)
        else:
            clock.now += ALIVE_SECONDS + 1
        assert (await read_item(client, item))["state"] == "FAILED"

    async def test_is_kept_by_an_item_whose_run_another_item_takes_up(self, client: Client, clock: Clock) -> None:
        first = await self._ended(client, agent := await make_our_agent(client, await make_queue(client)))
        clock.now += 10
        second = await push(client, {**SPEC, "run_id": "run1"})
        await pop(client, agent)
        assert await acknowledge(client, second)
        assert (await _run(client))["state"] == "failed"
        await start_run(client)
        assert [(await read_item(client, item))["state"] for item in (first, second)] == ["FAILED", "RUNNING"]


class TestKeys:
    """An API key that comes with a launch spec."""

    @pytest.mark.parametrize("by_id", [False, True])
    async def test_is_not_kept_and_the_item_says_so(self, client: Client, by_id: bool) -> None:
        queue, spec = await make_queue(client), {**SPEC, "_wandb_api_key": "s3cret"}
        item = await push_by_id(client, queue, spec) if by_id else await push(client, spec)
        (warning,) = (await read_item(client, item))["warnings"]
        assert "Leave the key out" in warning["message"]
        assert "_wandb_api_key" not in (await _popped(client))["runSpec"]
        assert "s3cret" not in await _stored(client)

    async def test_is_not_told_to_who_has_pushed_it(self, client: Client) -> None:
        await make_queue(client)
        answer = await client.ask(PUSH_BY_NAME, input=by_name({**SPEC, "_wandb_api_key": "s3cret"}))
        assert "s3cret" not in json.dumps(answer)

    async def test_that_is_no_text_is_not_kept_either(self, client: Client) -> None:
        await make_queue(client)
        item = await push(client, {**SPEC, "_wandb_api_key": ["s3cret"]})
        assert len((await read_item(client, item))["warnings"]) == 1
        assert "s3cret" not in await _stored(client)

    @pytest.mark.parametrize("nothing", [None, "", "<redacted>"])
    async def test_that_is_none_is_no_reason_for_a_warning(self, client: Client, nothing: str | None) -> None:
        """What a reader is shown of an item may be pushed again."""
        await make_queue(client)
        item = await push(client, {**SPEC, "_wandb_api_key": nothing})
        assert (await read_item(client, item))["warnings"] == []
        assert "_wandb_api_key" not in (await _popped(client))["runSpec"]

    async def test_that_an_earlier_version_has_stored_is_for_the_agent_alone(self, client: Client) -> None:
        await make_queue(client)
        item = await push(client)
        await store_key(client, "s3cret")
        assert "s3cret" not in json.dumps(await read_item(client, item))
        assert (await _popped(client))["runSpec"]["_wandb_api_key"] == "s3cret"


async def _stored(client: Client) -> str:
    """Return all that the database knows of items."""
    everything = await client.context.services.database.read(
        lambda connection: connection.execute(select(run_queue_items)).all()
    )
    assert everything
    return str(everything)


class TestStopAndDelete:
    """What people do to items."""

    @pytest.mark.parametrize("leased", [False, True])
    async def test_an_item_that_nobody_has_claimed_stops_at_once(self, client: Client, leased: bool) -> None:
        await make_queue(client)
        item = await push(client)
        if leased:
            await pop(client)
        await client.ask(STOP, input={"runQueueItemId": item})
        assert (await read_item(client, item))["state"] == "STOPPED"
        assert not await acknowledge(client, item)
        assert await pop(client) is None

    async def test_a_claimed_item_is_stopped_by_its_agent(self, client: Client) -> None:
        item, _ = await _claimed(client)
        await client.ask(STOP, input={"runQueueItemId": item})
        read = await read_item(client, item)
        assert read["state"] == "CLAIMED"
        assert "told to stop" in read["waitingReason"]

    @pytest.mark.parametrize("goodbye", [False, True])
    async def test_an_item_is_deleted_unless_a_living_agent_has_it(
        self, client: Client, clock: Clock, goodbye: bool
    ) -> None:
        queue = await make_queue(client)
        waiting = await push(client)
        deletion = {"queueID": queue, "runQueueItemId": waiting}
        other = await make_queue(client, "other")
        assert (await client.fail(DELETE, input={**deletion, "queueID": other}))[0] == 404
        assert (await client.ask(DELETE, input=deletion))["deleteFromRunQueue"]["success"]
        assert (await client.fail(ITEM, id=waiting))[0] == 404
        item, agent = await _claimed(client)
        deletion["runQueueItemId"] = item
        status, message = await client.fail(DELETE, input=deletion)
        assert (status, f"launchbay stop {item}" in message) == (400, True)
        if goodbye:
            await say_goodbye(client, agent)
        else:
            clock.now += ALIVE_SECONDS + 1
        assert (await client.ask(DELETE, input=deletion))["deleteFromRunQueue"]["success"]

    async def test_a_stranger_sees_no_item(self, client: Client, services: Services) -> None:
        item, _ = await _claimed(client)
        stranger = await make_client(services, "eve")
        assert await stranger.fail(ITEM, id=item) == (404, "There is no such item.")
        assert (await stranger.fail(STOP, input={"runQueueItemId": item}))[0] == 404


async def test_warnings_are_kept_once(client: Client) -> None:
    item, _ = await _claimed(client)
    warning = {"runQueueItemId": item, "message": "no node fits", "stage": "Kubernetes", "filePaths": []}
    document = """mutation w($input: UpdateRunQueueItemWarningInput!) {
      updateRunQueueItemWarning(input: $input) { success }
    }"""
    for _ in range(2):
        assert (await client.ask(document, input=warning))["updateRunQueueItemWarning"]["success"]
    assert (await read_item(client, item))["warnings"] == [{"message": "no node fits"}]


class TestWaitingReason:
    """Why an item is not running yet."""

    async def _reason(self, client: Client, item: str) -> str:
        return (await read_item(client, item))["waitingReason"]

    async def test_nobody_is_there(self, client: Client) -> None:
        await make_queue(client)
        item = await push(client)
        expected = "No agent serves this queue. Start one with: launchbay agent -q q -e admin -r local-container"
        assert await self._reason(client, item) == expected

    async def test_only_the_dead_are_there(self, client: Client, clock: Clock) -> None:
        await make_agent(client, await make_queue(client))
        item = await push(client)
        clock.now += ALIVE_SECONDS + 1
        assert "No agent" in await self._reason(client, item)

    async def test_others_are_before_it(self, client: Client) -> None:
        await make_agent(client, await make_queue(client, prioritizationMode="V0"))
        first, second, urgent = await push(client), await push(client), await push(client, priority=0)
        reasons = [await self._reason(client, item) for item in (urgent, first, second)]
        assert reasons == [
            f"Waiting for an agent; {place}." for place in ("it is next", "1 item is ahead", "2 items are ahead")
        ]

    async def test_all_are_busy(self, client: Client) -> None:
        await _claimed(client)
        item = await push(client)
        assert await self._reason(client, item) == "All agents of this queue (1) are at max_jobs; it is next."

    async def test_an_agent_is_not_busy_with_what_waits(self, client: Client, clock: Clock) -> None:
        """It took the item, and let its lease end."""
        agent = await make_agent(client, await make_queue(client))
        item = await push(client)
        assert await pop(client, agent) == item
        clock.now += LEASE_SECONDS
        assert await self._reason(client, item) == "Waiting for an agent; it is next."

    async def test_an_agent_whose_run_is_over_is_not_busy(self, client: Client, services: Services) -> None:
        """Stock agents do not tell the end of an item."""
        await _claimed(client)
        await start_run(client)
        item = await push(client)
        assert "at max_jobs" in await self._reason(client, item)
        ended = runs.update().values(ended_at=1, exit_code=0)
        await services.database.write(lambda connection: connection.execute(ended).rowcount)
        assert "Waiting for an agent" in await self._reason(client, item)

    async def test_the_agent_tells(self, client: Client, clock: Clock) -> None:
        item, agent = await _claimed(client)
        assert await tell(client, item, agent, "preparing", "fetching the code.")
        assert (await self._reason(client, item)).endswith(": fetching the code.")
        assert (await read_item(client, item))["status"] == "preparing"
        other = await make_agent(client)
        assert not await tell(client, item, other, "preparing", "fetching the code")
        clock.now += ALIVE_SECONDS + 10
        assert "not heard of for 100 s" in await self._reason(client, item)

    async def test_the_agent_has_said_goodbye(self, client: Client) -> None:
        item, agent = await _claimed(client)
        await say_goodbye(client, agent)
        assert "which has ended. Start it again: it goes on" in await self._reason(client, item)
        await client.ask(STOP, input={"runQueueItemId": item})
        assert "which has ended. Start it again: it stops this then." in await self._reason(client, item)


class TestLongPoll:
    """popFromRunQueue with `Prefer: wait=N`."""

    async def _waiting(self, client: Client, wait: float = 600) -> "asyncio.Task[str | None]":
        """Start a long poll, and go on when it sleeps."""
        task = asyncio.create_task(pop(client, wait=wait))
        await until_somebody_waits(client)
        return task

    async def test_returns_what_is_pushed_meanwhile(self, client: Client) -> None:
        await make_queue(client)
        poll = await self._waiting(client)
        item = await push(client)
        assert await asyncio.wait_for(poll, 60) == item

    async def test_two_get_one_each(self, client: Client) -> None:
        await make_queue(client)
        polls = [await self._waiting(client), await self._waiting(client)]
        items = {await push(client), await push(client)}
        assert set(await asyncio.wait_for(asyncio.gather(*polls), 60)) == items

    async def test_returns_nothing_when_the_time_is_over(self, client: Client) -> None:
        await make_queue(client)
        assert await pop(client, wait=0.05) is None

    async def test_returns_what_comes_back_when_a_lease_ends(self, client: Client, clock: Clock) -> None:
        await make_queue(client)
        item = await push(client)
        await pop(client)
        clock.now += LEASE_SECONDS - 0.05
        poll = await self._waiting(client)
        clock.now += 0.05
        assert await asyncio.wait_for(poll, 60) == item

    async def test_takes_nothing_for_a_client_that_hung_up(self, client: Client) -> None:
        await make_queue(client)
        gone = replace(client, context=replace(client.context, is_gone=lambda: True))
        poll = asyncio.create_task(pop(gone, wait=600))
        assert await asyncio.wait_for(poll, 60) is None
        item = await push(client)
        assert await pop(client) == item

    async def test_an_agent_that_is_not_known_is_told_so(self, client: Client) -> None:
        await make_queue(client)
        given = {"entityName": "admin", "projectName": "model-registry", "queueName": "q"}
        unknown = "TGF1bmNoQWdlbnQ6OTk="
        assert (await client.fail(POP, input={**given, "launchAgentId": unknown}))[0] == 404
