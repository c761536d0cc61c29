"""Many launches of an agent that has started one: copies, wherever a launch is known.

They are what there would be had it started them all: claimed items on the server, with their runs, launches in the
agent's journal, and Jobs with its labels, whose pods the cluster's controllers make. An agent that begins now takes all
of them for its own, as after a restart. Only Secrets are left out, which no agent reads. So agent and server, which
have the same cores as the cluster, need not start them one by one.
"""

import asyncio
import base64
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import orjson

from backends.kubernetes import names
from benchmarks.kubernetes.cluster import JOBS, Cluster
from benchmarks.site import Site
from protocol.names import launch_name

AT_ONCE = 16
MADE_BY_CLUSTER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")
COUNTED_BY_CLUSTER = (
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
)


async def make(here: Cluster, site: Site, copies: int) -> None:
    """Copy the one launch of an agent, which was killed."""
    (job,) = await here.objects(JOBS)
    launches = await asyncio.to_thread(_copy_items, site, copies)
    left = iter(launches)

    async def worker() -> None:
        for launch in left:
            await here.connection.call("POST", JOBS, body=_copy_of(job, launch))

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def _copy_items(site: Site, copies: int) -> Sequence[Any]:
    """Copy what the server and the agent have written down; return the new launches as the journal has them."""
    with (
        closing(sqlite3.connect(site.folder / "server" / "launchbay.db", timeout=60)) as server,
        closing(sqlite3.connect(site.folder / "agent" / "journal.db", timeout=60)) as journal,
        server,
        journal,
    ):
        ((kept,),) = journal.execute("SELECT launch FROM held")
        launch = orjson.loads(kept)
        made = [
            launch
            | {"item_id": base64.b64encode(f"RunQueueItem:{number}".encode()).decode(), "run_id": f"copy{number}"}
            for number in range(2, copies + 2)
        ]
        for each in made:
            each["handle"] = launch["handle"].rpartition("/")[0] + "/" + _name(each)
        _copy_row(server, "runs", "name", [each["run_id"] for each in made])
        _copy_row(server, "run_queue_items", "run_name", [each["run_id"] for each in made])
        server.execute("UPDATE run_queue_items SET run_id = (SELECT id FROM runs WHERE name = run_name)")
        server.execute("UPDATE run_queue_items SET status = 'starting' WHERE id != 1")
        journal.executemany("INSERT INTO held VALUES (?, ?)", [(each["item_id"], orjson.dumps(each)) for each in made])
    return made


def _copy_row(database: sqlite3.Connection, table: str, name: str, new: Sequence[str]) -> None:
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[1] not in {"id", name}]
    listed = ", ".join(columns)
    statement = f"INSERT INTO {table} ({name}, {listed}) SELECT ?, {listed} FROM {table} WHERE id = 1"  # noqa: S608
    database.executemany(statement, [(each,) for each in new])


def _copy_of(job: Any, launch: Any) -> Any:
    metadata, spec = job["metadata"], job["spec"]
    kept = {key: value for key, value in metadata.items() if key not in MADE_BY_CLUSTER}
    template = spec["template"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**kept, "name": _name(launch), **_marks(metadata, launch)},
        "spec": {
            **{key: value for key, value in spec.items() if key != "selector"},
            "template": {**template, "metadata": {**template["metadata"], **_marks(template["metadata"], launch)}},
        },
    }


def _marks(metadata: Any, launch: Any) -> Any:
    labels = {key: value for key, value in metadata["labels"].items() if key not in COUNTED_BY_CLUSTER}
    said = names.read_labels(metadata.get("annotations", {}))
    if said:
        said |= {"item": launch["item_id"], "run": launch["run_id"]}
    annotations = {**metadata.get("annotations", {}), **(names.annotations_of(said) if said else {})}
    return {"labels": {**labels, names.LAUNCH: _name(launch), names.RUN: launch["run_id"]}, "annotations": annotations}


def _name(launch: Any) -> str:
    return launch_name(launch["item_id"], launch["attempt"])
