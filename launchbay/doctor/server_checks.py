"""Checks of the agent's server: can it be reached, who are we there, and does it have our queues."""

from typing import Any

from agent import operations
from agent.addresses import is_loopback
from agent.config.model import AgentConfig
from agent.config.stock_blocks import CLOUDS
from agent.errors import ControlPlaneUnavailable, Unauthenticated
from launchbay.doctor.checks import Finding, Surroundings, absent, broken, ok, skipped
from protocol.json_types import dig
from protocol.masking import without_passwords


async def server(around: Surroundings) -> Finding:
    """Whether there is a server that speaks the protocol, and what it says of itself."""
    url = without_passwords(around.server.base_url)
    try:
        data = await around.server.ask(
            """query DoctorServer {
                 serverInfo { features { name isEnabled } latestLocalVersionInfo { versionOnThisInstanceString } }
               }"""
        )
    except Unauthenticated:
        return ok(f"{url} answers")  # the key has a line of its own
    except ControlPlaneUnavailable as error:
        return broken(str(error), "Start it with `launchbay server`, or set WANDB_BASE_URL to where it is.")
    features: list[dict[str, Any]] = dig(data, "serverInfo", "features") or []
    enabled = {feature["name"] for feature in features if feature["isEnabled"]}
    version = dig(data, "serverInfo", "latestLocalVersionInfo", "versionOnThisInstanceString")
    kind = "a Launchbay server" if "LAUNCHBAY" in enabled else "not a Launchbay server: stops take seconds longer"
    return ok(f"{url} answers: {kind}{f', version {version}' if version else ''}, {len(enabled)} features")


def runs_elsewhere(config: AgentConfig) -> bool:
    """Whether jobs of an agent run where the server's loopback address is another's."""
    return not {"kubernetes", *CLOUDS}.isdisjoint(config.resources)


async def from_jobs(around: Surroundings) -> Finding:
    """Whether the server's address can be one for jobs on other machines. Whether it is, only a job there can tell."""
    if not runs_elsewhere(around.config):
        return skipped("this agent runs nothing in pods or in a cloud")
    named = around.config.job_base_url
    url = without_passwords(named or around.server.base_url)
    if is_loopback(url):
        return broken(
            f"jobs would look for the server at {url}, which is the address of the pod or machine that they run on",
            "Set `job_base_url` to the server's address as jobs see it.",
        )
    return ok(f"jobs find the server at {url}{'' if named else ', as the agent does'}")


async def api_key(around: Surroundings) -> Finding:
    """Whether the server accepts the API key, and whose it is."""
    if around.key_problem:
        return absent(around.key_problem, "")
    try:
        facts = await operations.server_facts(around.server)
    except Unauthenticated as error:
        return broken(str(error), "Make another: launchbay user key NAME, on the server's machine.")
    except ControlPlaneUnavailable:
        return skipped("the server cannot be reached")
    return ok(f"of {facts.username}, whose entity is {facts.entity}")


async def queues(around: Surroundings) -> Finding:
    """Whether the server has the queues that the agent is to serve."""
    wanted = around.config.queues
    if not wanted:
        return skipped("the configuration names no queue")
    if around.key_problem:
        return skipped("there is no API key")
    try:
        entity = around.config.entity or (await operations.server_facts(around.server)).entity
        known = await operations.queue_ids(around.server, entity)
    except (ControlPlaneUnavailable, Unauthenticated):
        return skipped("the server cannot be asked")
    if missing := [name for name in wanted if name not in known]:
        there = ", ".join(sorted(known)) or "none"
        return broken(
            f"entity {entity} has no queue {', '.join(missing)}; it has: {there}",
            f"Make it with: launchbay queue create {missing[0]} -e {entity}",
        )
    return ok(f"{', '.join(wanted)} of entity {entity}")
