"""Where in its code a job begins. Reads the names of files."""

from pathlib import Path

from protocol.job_file import JobFile
from protocol.launch_spec import LaunchSpec


def begins_in(spec: LaunchSpec, job: JobFile | None, code: Path | None) -> str:
    """Return the folder of the code in which a job begins, as `src/train`; empty for its top. Blocks.

    The client promises that the entry point counts from the job's build context. Agents before this one began at the
    top all the same, so a job whose file is found from there alone goes on doing that.
    """
    context = job.build_context if job else None
    if job is None or not context or code is None or not (code / context).is_dir():
        return ""
    command = spec.overrides.entry_point or job.entry_point
    program = command[-1] if command else ""
    if program and (code / program).is_file() and not (code / context / program).is_file():
        return ""
    return context
