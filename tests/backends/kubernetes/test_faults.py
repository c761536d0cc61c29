"""The API server goes, comes back, and knows kinds that nobody told us of: nothing is lost, and nothing made up."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.base import Backend, BackendUnavailable, Phase, StartRequest
from backends.registry import load
from backends.testing.contract import LIMIT_SECONDS, end_of, observed
from protocol.json_types import JsonObject
from tests.cluster.control_plane import ControlPlane

POD = {"containers": [{"name": "job", "image": "busybox"}]}
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "trainings.example.com"},
    "spec": {
        "group": "example.com",
        "names": {"kind": "Training", "plural": "trainings"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@asynccontextmanager
async def opened(plane: ControlPlane, state_dir: Path) -> AsyncGenerator[Backend]:
    backend = load("kubernetes")(state_dir, "test", {"config_file": str(plane.kubeconfig)})
    try:
        yield backend
    finally:
        await backend.close()


def request(name: str = "launch-1", args: JsonObject | None = None) -> StartRequest:
    return StartRequest(name, ["true"], {}, image="busybox", secrets={"TOKEN": "s3cret"}, resource_args=args or {})


def leaving(plane: ControlPlane) -> dict[str, bool]:
    """Return which Jobs there are, and whether they are to go."""
    jobs = json.loads(plane.kubectl("get", "jobs", "--output", "json"))
    return {job["metadata"]["name"]: "deletionTimestamp" in job["metadata"] for job in jobs["items"]}


async def test_an_api_server_that_is_away_is_neither_the_end_nor_fine(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    async with opened(control_plane, tmp_path) as backend:
        first = await backend.start(request())
        assert set(await backend.observe()) == {first}
        await asyncio.to_thread(control_plane.kill)
        with pytest.raises(BackendUnavailable):
            await backend.start(request("launch-2"))
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                try:
                    await backend.observe()
                except BackendUnavailable:
                    break
                await asyncio.sleep(0.05)
        await backend.stop(first, 5)  # it is told when there is somebody to tell
        async with opened(control_plane, tmp_path) as other:
            with pytest.raises(BackendUnavailable):
                await other.observe()
        await asyncio.to_thread(control_plane.start)
        second = await backend.start(request("launch-2"))
        async with asyncio.timeout(LIMIT_SECONDS):
            expected = {"launch-1": True, "launch-2": False}
            while await asyncio.to_thread(leaving, control_plane) != expected:  # noqa: ASYNC110 -- kubectl only asks
                await asyncio.sleep(0.1)
        assert set(await backend.observe()) == {first, second}


async def test_what_was_deleted_while_nobody_looked_is_noticed(control_plane: ControlPlane, tmp_path: Path) -> None:
    async with opened(control_plane, tmp_path) as backend:
        handle = await backend.start(request())
        await observed(backend, handle, lambda seen: seen.phase is Phase.STARTING)
        await asyncio.to_thread(control_plane.restart)
        await asyncio.to_thread(control_plane.kubectl, "delete", "job", "launch-1", "--cascade=background")
        seen = await end_of(backend, handle)
    assert (seen.phase, seen.reason) == (Phase.LOST, "deleted")
    async with opened(control_plane, tmp_path) as again:
        assert await again.observe() == {handle: seen}


async def test_kinds_that_nobody_listed_are_found_again(control_plane: ControlPlane, tmp_path: Path) -> None:
    await asyncio.to_thread(control_plane.kubectl, "create", "--filename", "-", given=json.dumps(CRD))
    await asyncio.to_thread(control_plane.kubectl, "wait", "crd/trainings.example.com", "--for=condition=Established")
    training = {"apiVersion": "example.com/v1", "kind": "Training", "spec": {"workers": {"template": {"spec": POD}}}}
    async with opened(control_plane, tmp_path) as backend:
        handle = await backend.start(request(args=training))
        assert handle == "/default/Training.v1.example.com/launch-1"
    async with opened(control_plane, tmp_path) as again:
        assert (await again.observe())[handle].phase is Phase.STARTING
        status = {"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "X", "message": "no luck"}]}}
        await asyncio.to_thread(
            control_plane.kubectl,
            *("patch", "training", "launch-1", "--subresource", "status", "--type", "merge", "--patch"),
            json.dumps(status),
        )
        seen = await end_of(again, handle)
        assert seen.phase is Phase.FAILED
        assert "no luck" in seen.message
        await again.cleanup(handle)
        assert await again.observe() == {}


async def test_a_start_that_was_cut_short_is_made_whole_by_the_next(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    async with opened(control_plane, tmp_path) as backend:
        handle = await backend.start(request())
    await asyncio.to_thread(control_plane.kubectl, "delete", "secret", "launch-1")  # as if it had never been made
    async with opened(control_plane, tmp_path) as again:
        assert await again.start(request()) == handle
        assert list(await again.observe()) == [handle]
    secret = json.loads(await asyncio.to_thread(control_plane.kubectl, "get", "secret", "launch-1", "--output", "json"))
    job = json.loads(await asyncio.to_thread(control_plane.kubectl, "get", "job", "launch-1", "--output", "json"))
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]


async def test_a_secret_that_is_left_of_another_gives_way(control_plane: ControlPlane, tmp_path: Path) -> None:
    async with opened(control_plane, tmp_path) as backend:
        await backend.start(request())
        left = json.loads(await asyncio.to_thread(control_plane.kubectl, "get", "secret", "launch-1", "-o", "json"))
        left["metadata"]["ownerReferences"][0]["uid"] = "00000000-0000-0000-0000-000000000000"
        await asyncio.to_thread(control_plane.kubectl, "replace", "--filename", "-", given=json.dumps(left))
        with pytest.raises(BackendUnavailable, match="left from before"):
            await backend.start(request())
        await backend.start(request())
