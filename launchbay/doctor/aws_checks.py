"""Checks of AWS, asked with the credentials that the agent would use: who it is there, and what it may."""

import re

from agent.config.builder import any_builder
from agent.config.stock_blocks import backend_block
from backends.base import BackendError, BackendUnavailable
from launchbay.doctor.checks import Finding, Surroundings, absent, broken, ok, skipped

SAGEMAKER = "sagemaker"
RIGHTS = "Give the agent the rights that docs/sagemaker.md lists."
_ECR = re.compile(r"(?P<account>[0-9]{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<name>[^:@]+)")


async def sagemaker(around: Surroundings) -> Finding:
    """Whether AWS takes the agent's credentials and lets it see its jobs, and where images go is there."""
    if SAGEMAKER not in around.config.resources:
        return skipped("`resources` does not name sagemaker")
    try:
        from backends.sagemaker.access import Aws
        from backends.sagemaker.settings import read_settings
    except ModuleNotFoundError as error:
        return absent(f"the Python package {error.name!r} is not there", "pip install 'launchbay[sagemaker]'")
    try:
        aws = Aws(read_settings(backend_block(around.config, SAGEMAKER)).identity)
    except BackendError as error:
        return broken(str(error), "Correct it.")
    try:
        region = await aws.region()
        me = await aws.call("sts", "get_caller_identity")
        await aws.call("sagemaker", "list_training_jobs", {"MaxResults": 1})
        builder = any_builder(around.config)
        repository = _ECR.fullmatch(builder.destination or "") if builder else None
        if repository:
            asked = {"registryId": repository["account"], "repositoryNames": [repository["name"]]}
            await aws.call("ecr", "describe_repositories", asked, region=repository["region"])
    except BackendError as error:
        return broken(str(error), RIGHTS)
    except BackendUnavailable as error:
        return broken(str(error), "Look at the agent's credentials, and at the network.")
    finally:
        aws.close()
    images = f"; images go to the repository {repository['name']!r}" if repository else ""
    return ok(f"{me['Arn']} in {region} sees its jobs{images}")
