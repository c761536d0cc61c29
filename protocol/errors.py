"""The base of every error that Launchbay raises on purpose.

An error's text is for people: what happened, to which item, why, and what to do. Its `code` is for machines: stable,
snake_case, used in metrics and in `--json` output.
"""

import os
from typing import ClassVar

from protocol.masking import without_passwords


class LaunchbayError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "") -> None:
        # It may quote what somebody wrote.
        super().__init__(without_passwords(message) or (type(self).__doc__ or "").strip())


class SpecError(LaunchbayError):
    """The launch spec cannot be run as it stands."""

    code = "bad_launch_spec"


class JobFileError(LaunchbayError):
    """The job artifact's `wandb-job.json` cannot be understood."""

    code = "bad_job_file"


class TemplateError(LaunchbayError):
    """A template variable is missing, unknown, or has a value that its schema does not allow."""

    code = "bad_template_value"


def system_words(error: OSError) -> str:
    """Return what the system says, without a library's words around it. Names that are not found have no errno."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
