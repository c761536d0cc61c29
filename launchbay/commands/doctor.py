"""`launchbay doctor`: looks at everything that an agent needs, and says what to do where something is missing."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any

import click

from agent.config.builder import IN_CLUSTER
from agent.config.model import AgentConfig
from agent.config.stock_blocks import uses_blocks
from agent.control_plane import ControlPlane
from agent.errors import ConfigError
from launchbay import exits
from launchbay.agent_config import Given, check_usable, configuration_options
from launchbay.doctor import aws_checks, building_checks, google_checks, machine_checks, platform_checks, server_checks
from launchbay.doctor.checks import Check, Finding, Surroundings, Verdict, broken, ok, run_checks, skipped, warning
from launchbay.output import json_option, print_json, print_table
from launchbay.settings import BASE_URL, DEFAULT_BASE_URL, account


async def _configuration(around: Surroundings) -> Finding:
    return around.config_finding


def _always(_: AgentConfig) -> bool:
    return True


def _local(config: AgentConfig) -> bool:
    return "local-process" in config.resources or config.max_schedulers != 0


def _docker(config: AgentConfig) -> bool:
    return "local-container" in config.resources or _building(config)


def _building(config: AgentConfig) -> bool:
    return _names(config, config.builder, "docker")


def _building_there(config: AgentConfig) -> bool:
    return any(_names(config, config.builder, kind) for kind in IN_CLUSTER)


def _kubernetes(config: AgentConfig) -> bool:
    return "kubernetes" in config.resources or _building_there(config)


def _pods(config: AgentConfig) -> bool:
    return server_checks.runs_elsewhere(config)


def _aws(config: AgentConfig) -> bool:
    return "sagemaker" in config.resources or _names(config, config.environment, "aws")


def _sagemaker(config: AgentConfig) -> bool:
    return "sagemaker" in config.resources


def _google(config: AgentConfig) -> bool:
    return _vertex(config) or _names(config, config.environment, "gcp")


def _vertex(config: AgentConfig) -> bool:
    return not {"vertex", "gcp-vertex"}.isdisjoint(config.resources)


def _azure(config: AgentConfig) -> bool:
    return _names(config, config.environment, "azure")


def _names(config: AgentConfig, block: Mapping[str, Any], kind: str) -> bool:
    return uses_blocks(config) and block.get("type") == kind


def _git(config: AgentConfig) -> bool:
    return bool(config.git.hosts)


def _gpus(config: AgentConfig) -> bool:
    return config.slots.gpus != "none"


CHECKS = (
    Check("server", server_checks.server, _always),
    Check("API key", server_checks.api_key, _always),
    Check("configuration", _configuration, _always),
    Check("queues", server_checks.queues, _always),
    Check("state folder", machine_checks.state_folder, _always),
    Check("local-process", machine_checks.local_process, _local),
    Check("limits", machine_checks.limits, _local),
    Check("uv", machine_checks.uv, _local),
    Check("git", machine_checks.git, _git),
    Check("GPUs", machine_checks.gpus, _gpus),
    Check("Docker", platform_checks.docker, _docker),
    Check("buildx", building_checks.buildx, _building),
    Check("registry", building_checks.registry, _building),
    Check("Kubernetes", platform_checks.kubernetes, _kubernetes),
    Check("builds there", building_checks.in_cluster, _building_there),
    Check("server for pods", server_checks.from_jobs, _pods),
    Check("AWS", platform_checks.aws, _aws),
    Check("SageMaker", aws_checks.sagemaker, _sagemaker),
    Check("Google Cloud", platform_checks.google, _google),
    Check("Vertex AI", google_checks.vertex, _vertex),
    Check("Azure", platform_checks.azure, _azure),
)


@click.command()
@configuration_options
@json_option
def command(as_json: bool, **given: Any) -> int:
    """Look at all that an agent needs: server, key, configuration, this machine, platforms.

    Takes the options of `launchbay agent`. Ends with 1 if there is a problem with something that this agent would use;
    the rest is told as a warning.
    """
    findings = asyncio.run(_diagnose(Given(**given)))
    if as_json:
        print_json(
            [
                {"check": name, "verdict": finding.verdict, "found": finding.found, "todo": finding.todo}
                for name, finding in findings.items()
            ]
        )
    else:
        rows = [(name, each.verdict, f"{_sentence(each.found)} {each.todo}".strip()) for name, each in findings.items()]
        print_table(("CHECK", "RESULT", "FOUND"), rows, empty="")
    return exits.FAILED if any(each.verdict is Verdict.PROBLEM for each in findings.values()) else 0


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


async def _diagnose(given: Given) -> dict[str, Finding]:
    config, finding = await asyncio.to_thread(_read, given)
    key, key_problem = _key()
    base_url = os.environ.get(BASE_URL) or DEFAULT_BASE_URL
    async with ControlPlane(base_url, key, random=SystemRandom()) as server:
        return await run_checks(
            CHECKS, Surroundings(config, finding, server, key_problem, dict(os.environ), Path.home())
        )


def _read(given: Given) -> tuple[AgentConfig, Finding]:
    """Return the agent's configuration, and what there is to say about it."""
    try:
        loaded = given.read()
        check_usable(loaded.config)
    except ConfigError as error:
        return AgentConfig(), broken(str(error), "See: launchbay agent --check. The other checks go by the defaults.")
    if not loaded.origins:
        return loaded.config, skipped(f"nothing in {given.path}, and no flags")
    where = ", ".join(dict.fromkeys(loaded.origins.values()))
    if loaded.warnings:
        return loaded.config, warning(" ".join(loaded.warnings))
    if not loaded.config.queues:
        return loaded.config, warning("it names no queue", "Name one with -q, or under `queues`.")
    return loaded.config, ok(f"valid ({where})")


def _key() -> tuple[str, str]:
    try:
        return account().api_key, ""
    except click.UsageError as error:
        return "", error.message
