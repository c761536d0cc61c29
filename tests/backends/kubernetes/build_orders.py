"""Orders of builds, for tests."""

from dataclasses import replace
from typing import Any

from backends.base import Code
from backends.kubernetes.builds import Order, Registry

SECRETS = ("a-key-of-the-agent", "a-token-of-git", "a-login-at-the-registry")


def order(**changes: Any) -> Order:
    """Return an order, with secrets of every kind."""
    made = Order(
        image="registry.test/team/jobs:0123456789abcdef",
        dockerfile="FROM python:3.12-slim\n",
        file_name="Dockerfile.wandb",
        code=Code({"form": 1}, {"LAUNCHBAY_KNOWN_HOSTS": "h"}, {"LAUNCHBAY_GIT_TOKEN_0": SECRETS[1]}),
        environment={"WANDB_BASE_URL": "http://server.test"},
        secrets={"WANDB_API_KEY": SECRETS[0]},
        registry=Registry("registry.test", login=f'{{"auths": {{"registry.test": {{"auth": "{SECRETS[2]}"}}}}}}'),
        namespace="builds",
        fetch_image="launchbay-agent:1",
        build_image="moby/buildkit:rootless",
        prefix="launchbay",
    )
    return replace(made, **changes)
