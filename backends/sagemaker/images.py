"""Whether an image is where a launch would have it from: asked of Amazon ECR before anything is made.

SageMaker itself notices that after minutes, and says less. What is no image of ECR's is left to SageMaker.
"""

import asyncio
import re
from collections.abc import Callable

import structlog

from backends.base import BackendError
from backends.sagemaker.access import Aws, AwsRefused

log = structlog.get_logger(__name__)

KNOWN_SECONDS = 300.0
"""How long an image that is there needs not be asked about again."""
MANY = 1000
ECR = re.compile(
    r"(?P<account>[0-9]{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)/"
    r"(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class ImageMissing(BackendError):
    """There is no such image."""

    code = "image:not_found"


class Images:
    """Asks about images, each once for all launches that want it."""

    def __init__(self, aws: Aws, clock: Callable[[], float]) -> None:
        self._aws = aws
        self._clock = clock
        self._there: dict[str, float] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def check(self, image: str) -> None:
        """Raise `ImageMissing` if ECR does not have an image that would be there."""
        found = ECR.fullmatch(image)
        if found is None:
            return
        async with self._asking.setdefault(image, asyncio.Lock()):
            if self._clock() - self._there.get(image, -KNOWN_SECONDS) < KNOWN_SECONDS:
                return
            await self._ask(found, image)
            if len(self._there) >= MANY:
                self._there.clear()
                self._asking.clear()
            self._there[image] = self._clock()

    async def _ask(self, found: re.Match[str], image: str) -> None:
        digest, tag = found["digest"], found["tag"] or "latest"
        try:
            await self._aws.call(
                "ecr",
                "describe_images",
                {
                    "registryId": found["account"],
                    "repositoryName": found["repository"],
                    "imageIds": [{"imageDigest": digest} if digest else {"imageTag": tag}],
                },
                region=found["region"],
            )
        except AwsRefused as error:
            if error.aws_code in {"ImageNotFoundException", "RepositoryNotFoundException"}:
                raise ImageMissing(
                    f"There is no image {image} in ECR: {error.explanation}. Push it, or correct its name."
                ) from error
            # Registries of others answer no questions, and SageMaker may have their images all the same.
            log.warning("cannot ask ECR about an image", image=image, error=str(error))
