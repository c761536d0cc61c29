"""What an agent loads: no more than its launches need, as its memory is there for months."""

import subprocess
import sys

CODE = """
import sys
import agent.opening, agent.run
from backends import registry

registry.load("local-process")
foreign = {"jinja2", "jsonschema", "kubernetes", "boto3", "google.cloud.aiplatform", "backends.kubernetes.builds"}
print(sorted(foreign & set(sys.modules)))
"""


def test_an_agent_of_local_processes_loads_nothing_for_clusters_clouds_and_templates() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
