"""Names: of what an agent starts, of runs, and of artifacts."""

import base64
import hashlib
import re
import string
from dataclasses import dataclass
from random import Random

from protocol.errors import SpecError

QUEUE_PROJECT = "model-registry"
"""The project in which an entity's queues live unless somebody says otherwise."""
RUN_ID_CHARS = string.ascii_lowercase + string.digits
RUN_ID_LENGTH = 8
JOB_TYPE = "job"
"""The type of artifacts that are jobs."""
UNNAMED_CODE_JOB = "job-code-"
"""How the name of a job begins that `wandb job create code` made without being given one."""


@dataclass(frozen=True, slots=True)
class ArtifactName:
    """Where an artifact version is: `entity/project/collection:version`, the version being an alias or `vN`."""

    entity: str
    project: str
    collection: str
    version: str

    def __str__(self) -> str:
        """Return the reference."""
        return f"{self.entity}/{self.project}/{self.collection}:{self.version}"


def launch_name(item_id: str, attempt: int) -> str:
    """Return what a launch is called on its platform: a DNS label that depends on item and attempt alone."""
    return f"launch-{hashlib.sha256(item_id.encode()).hexdigest()[:16]}-{attempt}"


def without_attempt(name: str) -> str:
    """Return what the names of all attempts of a launch have in common."""
    return name.rpartition("-")[0]


def attempt_of(name: str) -> int:
    """Return which attempt a launch's name is that of."""
    return int(name.rpartition("-")[2])


def is_launch_name(name: str) -> bool:
    """Whether launches are called like this, so that something with this name may be another launch's."""
    return re.fullmatch(r"launch-[0-9a-f]{16}-[0-9]+", name) is not None


def run_id(random: Random) -> str:
    """Return a fresh run id."""
    return "".join(random.choices(RUN_ID_CHARS, k=RUN_ID_LENGTH))


def run_storage_id(entity: str, project: str, run: str) -> str:
    """Return a run's storage id, which clients build themselves."""
    return base64.b64encode(f"Run:v1:{run}:{project}:{entity}".encode()).decode()


def first_name_of_job(name: str) -> str | None:
    """Return the name under which the client asks for such a job before it logs it: of unnamed code, another one.

    It takes the code artifact's name for the job's, with every `code` replaced, also those of folders and files.
    """
    return name.removeprefix("job-").replace("code", "job") if name.startswith(UNNAMED_CODE_JOB) else None


def same_project(a: str, b: str) -> bool:
    """Whether two names mean one project: stock agents lower-case them, so spelling does not count."""
    return a.lower() == b.lower()


def parse_job_reference(text: str) -> ArtifactName:
    """Read `entity/project/job-name:alias-or-version`; `SpecError` if it has another form."""
    match = re.fullmatch(r"([^/:]+)/([^/:]+)/([^/:]+):([^/:]+)", text)
    if match is None:
        raise SpecError(
            f"Invalid job specification {text!r}. A job must be of the form: "
            "<entity>/<project>/<job-name>:<alias-or-version>"
        )
    return ArtifactName(*match.groups())
