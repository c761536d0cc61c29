"""The JSON schema of the agent's configuration file, for editors and for checks before a roll-out."""

from typing import Any

from agent.config.model import AgentConfig
from agent.config.stock_blocks import STOCK_BLOCKS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Return the schema of what the file may hold: the model, the stock agent's blocks, and keys from earlier times."""
    model = AgentConfig.model_json_schema()
    properties: dict[str, Any] = model["properties"]
    for name, keys in STOCK_BLOCKS.items():
        properties[name]["properties"] = keys
    properties["queue"] = {"type": "string", "description": "One more queue, in the singular."}
    properties["project"] = {"deprecated": True, "description": "Accepted and ignored."}
    return {"$schema": DIALECT, **model, "title": "Configuration of launchbay agent"}
