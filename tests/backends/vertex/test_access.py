"""How Google Cloud is reached: by which of its packages, as whom, and over what."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.base import BackendUnavailable
from backends.vertex.access import find_credentials
from tests.backends.vertex.google import REGION, google_cloud
from tests.git_servers import make_certificate

ACCOUNT = "agent@research.iam.gserviceaccount.com"
PROGRAM = """
import asyncio, json, sys, time
from pathlib import Path
import agent.run
from backends import registry
backend = registry.load("gcp-vertex")(Path(sys.argv[1]), "me", json.loads(sys.argv[2]))
assert not {"grpc", "google.api_core", "google.auth"} & set(sys.modules)

async def look():
    begun = time.process_time()
    assert await backend.observe() == {}
    took = time.process_time() - begun
    await backend.close()
    return took

took = asyncio.run(look())
services = [name for name in sys.modules if "_v1.services." in name and name.count(".") == 4]
assert services == ["google.cloud.aiplatform_v1.services.job_service"], services
assert "google.cloud.aiplatform" not in sys.modules
print(took)
"""


def account_file(folder: Path) -> Path:
    """Make the key of a service account."""
    key = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], check=True, capture_output=True
    )
    file = folder / "account.json"
    about = {
        "type": "service_account",
        "project_id": "tests",
        "client_email": ACCOUNT,
        "token_uri": "http://127.0.0.1:1",
    }
    file.write_text(json.dumps({**about, "private_key": key.stdout.decode()}))
    return file


def test_an_agent_imports_one_service_and_is_who_its_credentials_say(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with google_cloud((certificate, key)) as google:
        block: dict[str, Any] = {"region": REGION, "endpoints": {"jobs": f"127.0.0.1:{google.tls_port}"}}
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "state"), json.dumps(block)],
            capture_output=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONWARNINGS": "ignore",
                "GOOGLE_APPLICATION_CREDENTIALS": str(account_file(tmp_path)),
                "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate),
            },
            timeout=100,
        )
        assert ended.returncode == 0, ended.stderr.decode()
        headers = dict(google.headers)
    assert headers["authorization"].startswith("Bearer ey")
    assert headers["x-goog-request-params"] == f"parent=projects/tests/locations/{REGION}"
    assert float(ended.stdout) < 3 * 0.8  # seconds of CPU; the benchmark has the real one


def test_without_credentials_it_is_said_how_to_get_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(BackendUnavailable, match="gcloud auth application-default login"):
        find_credentials()
