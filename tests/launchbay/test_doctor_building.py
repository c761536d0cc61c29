"""What `launchbay doctor` says of buildx and of the registry: the real plugin, and a real registry."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.building.buildx import find_buildx
from agent.config.model import AgentConfig
from agent.errors import LaunchFailed
from launchbay.commands.doctor import CHECKS
from launchbay.doctor.building_checks import buildx, in_cluster, registry
from launchbay.doctor.checks import Verdict, run_checks
from tests.agent.building import parts
from tests.cluster.control_plane import ControlPlane
from tests.launchbay.test_doctor import around

BUILDER: dict[str, Any] = {"type": "docker"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of somebody who has the plugin and no engine."""
    if why := parts.missing():
        pytest.skip(why)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "DOCKER_HOST": f"unix://{tmp_path}/nowhere.sock",
    }


@pytest.fixture
def private_registry(tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """The host of a registry that wants a login."""
    (tmp_path / "registry").mkdir()
    with parts.registry(tmp_path / "registry", is_private=True) as host:
        yield host


async def test_whoever_builds_needs_the_plugin_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.building.buildx.PLUGIN_FOLDERS", ())
    checks = [each for each in CHECKS if each.name in {"buildx", "registry"}]
    nowhere: dict[str, Any] = {"environment": {"PATH": str(tmp_path)}}
    found = await run_checks(checks, around(tmp_path, **nowhere, resources=["local-container"], builder=BUILDER))
    assert found["buildx"].verdict is Verdict.PROBLEM
    assert found["registry"].verdict is Verdict.SKIPPED
    found = await run_checks(checks, around(tmp_path, **nowhere))
    assert [each.verdict for each in found.values()] == [Verdict.SKIPPED, Verdict.SKIPPED]


async def test_an_engine_that_is_away_and_a_builder_that_nobody_made_are_told(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    away = await buildx(around(tmp_path, environment=environment, builder=BUILDER))
    assert away.verdict is Verdict.PROBLEM
    assert "nowhere.sock" in away.found
    found = await buildx(around(tmp_path, environment=environment, builder={**BUILDER, "buildx_instance": "none"}))
    assert found.verdict is Verdict.PROBLEM
    assert 'no builder "none" found' in found.found
    named = around(
        tmp_path,
        environment=environment,
        builder=BUILDER,
        backends={"local-container": {"engine": f"unix://{tmp_path}/elsewhere.sock"}},
    )
    assert "elsewhere.sock" in (await buildx(named)).found


async def test_a_builder_that_does_not_answer_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    words = ["create", "--name", "farm", "--driver", "remote", f"unix://{tmp_path}/nobody.sock"]
    subprocess.run([find_buildx(environment), *words], env=environment, check=True, capture_output=True)
    found = await buildx(around(tmp_path, environment=environment, builder={**BUILDER, "buildx_instance": "farm"}))
    assert (found.verdict, found.found) == (Verdict.PROBLEM, "builder 'farm' does not answer")


async def test_the_registry_is_asked_with_the_login(
    tmp_path: Path, environment: dict[str, str], private_registry: str
) -> None:
    password_file = tmp_path / "password"
    builder = {
        **BUILDER,
        "destination": f"{private_registry}/team/jobs",
        "user": parts.USER,
        "password_file": str(password_file),
    }
    here = around(tmp_path, environment=environment, builder=builder)
    with pytest.raises(LaunchFailed, match=r"`builder\.password_file` .* cannot be read: No such file"):
        await registry(here)
    password_file.write_text("wrong")
    with pytest.raises(LaunchFailed, match=r"does not let this agent look .*401.*`password_file`"):
        await registry(here)
    password_file.write_text(parts.PASSWORD)
    found = await registry(here)
    assert found.verdict is Verdict.OK
    assert f"{private_registry}/team/jobs answers and takes '{parts.USER}'" in found.found
    nobody = around(
        tmp_path, environment=environment, builder={**BUILDER, "destination": f"127.0.0.1:{parts.free_port()}/x"}
    )
    with pytest.raises(LaunchFailed, match="connection refused"):
        await registry(nobody)


def test_an_agent_needs_them_where_its_builder_means_something() -> None:
    config = AgentConfig.model_validate({"resources": ["local-container"], "builder": BUILDER})
    for check in CHECKS:
        if check.name in {"buildx", "registry"}:
            assert check.is_needed(config)
            assert not check.is_needed(AgentConfig.model_validate({"builder": BUILDER}))


async def test_builds_in_a_cluster_are_looked_at_where_they_are_asked_for(tmp_path: Path) -> None:
    assert (await in_cluster(around(tmp_path))).verdict is Verdict.SKIPPED
    found = await in_cluster(around(tmp_path, builder={"type": "kaniko"}))
    assert (found.verdict, found.todo) == (Verdict.PROBLEM, "Set `builder.destination`.")
    (check,) = (each for each in CHECKS if each.name == "builds there")
    file = {"kubernetes": {"config_file": str(tmp_path / "nothing")}}
    given: dict[str, Any] = {"resources": ["kubernetes"], "builder": {"type": "buildkit", "destination": "r.test/x"}}
    nowhere = await run_checks([check], around(tmp_path, **given, backends=file))
    assert nowhere["builds there"].verdict is Verdict.PROBLEM
    assert "there is no such file" in nowhere["builds there"].found


async def test_rights_that_builds_in_a_cluster_lack_are_named(
    tmp_path: Path, control_plane: ControlPlane, private_registry: str
) -> None:
    builder = {"type": "buildkit", "destination": f"{private_registry}/x", "insecure_registry": True}
    builder |= {"namespace": "default", "user": parts.USER, "password_file": str(tmp_path / "password")}
    (tmp_path / "password").write_text(parts.PASSWORD)
    stranger = tmp_path / "stranger.kubeconfig"
    control_plane.authority.make("stranger", "stranger", [])
    control_plane.authority.kubeconfig(stranger, control_plane.url, "stranger")

    async def look(file: Path) -> str:
        backends = {"kubernetes": {"config_file": str(file)}}
        return (await in_cluster(around(tmp_path, builder=builder, backends=backends))).found

    lacks = await look(stranger)
    for right in ("create jobs", "create secrets", "get pods/log", "list events"):
        assert right in lacks
    assert "lets the agent build, and the registry" in await look(control_plane.kubeconfig)
