"""The kinds of jobs that SageMaker has, and how its API spells what they have in common. Pure."""

from dataclasses import dataclass

from backends.base import Handle


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job."""

    noun: str
    """As in the names of the API's operations and fields."""
    marks: frozenset[str]
    """Resource args that only this kind has: a queue asks for the kind by them."""
    max_value_chars: int
    """How long the value of a variable may be."""

    @property
    def word(self) -> str:
        """As in ARNs and handles: `training-job`."""
        return f"{self.noun.removesuffix('Job').lower()}-job"

    @property
    def snake(self) -> str:
        """As in the names of boto3's methods: `training_job`."""
        return self.word.replace("-", "_")

    @property
    def name(self) -> str:
        """The field with a job's name."""
        return f"{self.noun}Name"

    @property
    def arn(self) -> str:
        """The field with a job's ARN."""
        return f"{self.noun}Arn"

    @property
    def status(self) -> str:
        """The field with a job's status."""
        return f"{self.noun}Status"

    @property
    def started(self) -> str:
        """The field with when a job began to run."""
        return f"{self.noun.removesuffix('Job')}StartTime"

    @property
    def ended(self) -> str:
        """The field with when a job ended."""
        return f"{self.noun.removesuffix('Job')}EndTime"

    @property
    def log_group(self) -> str:
        """The group in CloudWatch Logs that has the output."""
        return f"/aws/sagemaker/{self.noun}s"

    def handle(self, job: str) -> Handle:
        """Return the handle of the job of this name."""
        return Handle(f"{self.word}/{job}")


TRAINING = Kind("TrainingJob", frozenset({"AlgorithmSpecification", "ResourceConfig", "OutputDataConfig"}), 512)
PROCESSING = Kind("ProcessingJob", frozenset({"AppSpecification", "ProcessingResources"}), 256)
TRANSFORM = Kind("TransformJob", frozenset({"ModelName", "TransformInput", "TransformResources"}), 10240)
KINDS = (TRAINING, PROCESSING, TRANSFORM)


def read_handle(handle: Handle) -> tuple[Kind, str] | None:
    """Return what a handle is of; None for what is none of ours."""
    word, _, job = handle.partition("/")
    kind = next((kind for kind in KINDS if kind.word == word), None)
    return (kind, job) if kind and job else None
