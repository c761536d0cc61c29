"""What tests of runs do again and again: start a run, log to it, read it."""

import json
from typing import Any

from protocol.json_types import JsonObject
from server.filestream import receive, understand
from tests.server.conftest import Client

BUCKET = "id name displayName state tags notes group jobType config summaryMetrics historyLineCount sweepName"
UPSERT = f"""mutation($input: UpsertBucketInput!) {{
  upsertBucket(input: $input) {{
    inserted bucket {{ {BUCKET} projectId project {{ name entity {{ name }} }} user {{ name username }} }}
  }}
}}"""


async def upsert(client: Client, name: str | None = "r", **values: Any) -> dict[str, Any]:
    """Make or change a run; returns it."""
    where = {} if "id" in values else {"modelName": "p", "entityName": "admin", "name": name}
    return (await client.ask(UPSERT, input={**where, **values}))["upsertBucket"]["bucket"]


async def start(client: Client, name: str = "r", **values: Any) -> dict[str, Any]:
    """Start a run as a client stream does."""
    return await upsert(client, name, host="box", jobProgram="train.py", **values)


async def read(client: Client, name: str = "r") -> dict[str, Any]:
    """Return a run."""
    query = (
        f'query($n: String!) {{ project(name: "p", entityName: "admin") {{ run(name: $n) {{ {BUCKET} stopped }} }} }}'
    )
    return (await client.ask(query, n=name))["project"]["run"]


async def send(client: Client, name: str = "r", **body: Any) -> JsonObject:
    """Send one request of the file stream."""
    return await receive(client.context, "admin", "p", name, understand(body))


async def log_rows(client: Client, *rows: Any, name: str = "r") -> None:
    """Log history rows."""
    await send(client, name, files={"wandb-history.jsonl": {"offset": 0, "content": [json.dumps(row) for row in rows]}})
