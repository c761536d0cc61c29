"""The stock client's own check of an installation."""

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import run
from tests.end_to_end.snippets.checks import shows

pytestmark = pytest.mark.end_to_end


@pytest.mark.newest_client("the older one checks the same, and waits long in between")
def test_wandb_verify_is_content_with_login_runs_files_artifacts_and_sweeps(server: LiveServer) -> None:
    """It also asks for HTTPS and cross-origin access, which are the operator's."""
    said = run(server, "wandb", "verify", "--host", server.base_url, check=False).stdout
    lines = {line.split("..")[0]: line for line in said.splitlines()}
    for check in (
        "Checking if logged in",
        "Checking signed URL upload",
        "Checking ability to send large payloads through proxy",
        "Checking wandb package version is up to date",
        "Checking logged metrics, saving and downloading a file",
        "Checking artifact save and download workflows",
        "Checking sweep creation and agent execution",
    ):
        assert "✅" in lines.get(check, ""), said


@shows("wandb.login")
def test_login_verifies_the_key(server: LiveServer) -> None:
    assert run(server, "wandb", "login", "--verify").returncode == 0
    code = "import wandb; wandb.login(verify=True)"
    assert server.run_script(code).returncode == 0
    refused = server.run_script(code, WANDB_API_KEY="1" * 40)
    assert refused.returncode != 0
    assert "not known here" in refused.stderr or "AuthenticationError" in refused.stderr
