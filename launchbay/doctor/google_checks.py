"""Checks of Google Cloud, asked with the credentials that the agent would use: whether it may see its jobs."""

import tempfile
from pathlib import Path

from agent.config.stock_blocks import CLOUDS, backend_block
from backends import registry
from backends.base import BackendError, BackendUnavailable
from launchbay.doctor.checks import Finding, Surroundings, broken, ok, skipped

NOBODY = "launchbay-doctor"
"""Somebody who has no launches, so that the answer is short."""


async def vertex(around: Surroundings) -> Finding:
    """Whether Google takes the agent's credentials, and lets it see custom jobs in its region."""
    served = [resource for resource in around.config.resources if CLOUDS.get(resource) == "gcp"]
    if not served:
        return skipped("`resources` does not name gcp-vertex")
    block = backend_block(around.config, served[0])
    with tempfile.TemporaryDirectory() as nowhere:
        try:
            backend = registry.load(served[0])(Path(nowhere), NOBODY, block)
        except BackendError as error:
            return broken(str(error), "Correct it.")
        try:
            await backend.observe()
        except BackendUnavailable as error:
            return broken(str(error), "Give the agent the rights that docs/vertex.md lists, and look at the network.")
        finally:
            await backend.close()
    return ok("Vertex AI takes the credentials, and lets the agent see its jobs")
