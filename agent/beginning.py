"""Where in its code a job begins. Reads the names of files."""

from collections.abc import Callable
from pathlib import Path

from agent.errors import LaunchFailed
from protocol.job_file import JobFile
from protocol.launch_spec import LaunchSpec


def begins_in(spec: LaunchSpec, job: JobFile | None, code: Path | None) -> str:
    """Return the folder of the code in which a job begins, as `src/train`; empty for its top. Blocks."""
    if job is None or code is None:
        return ""
    return beginning(
        job.build_context,
        program_of(spec, job),
        lambda path: (code / path).is_file(),
        lambda path: (code / path).is_dir(),
    )


def program_of(spec: LaunchSpec, job: JobFile) -> str:
    """Return the last word of a job's command, which may name a file of its code; empty if there is no command."""
    command = spec.overrides.entry_point or job.entry_point
    return command[-1] if command else ""


def beginning(
    build_context: str | None, program: str, is_file: Callable[[str], bool], is_folder: Callable[[str], bool]
) -> str:
    """Return what `begins_in` does, given what is at paths of the code.

    The client promises that the entry point counts from the job's build context. Agents before this one began at the
    top all the same, so a job whose file is found from there alone goes on doing that.
    """
    if not build_context or not is_folder(build_context):
        return ""
    if program and is_file(program) and not is_file(f"{build_context}/{program}"):
        return ""
    return build_context


def check_subfolder(code: Path, subfolder: str) -> None:
    """Raise `LaunchFailed` if a launch is to begin where there is no folder of its code. Blocks."""
    there = (code / subfolder).resolve()
    if not there.is_dir() or not there.is_relative_to(code.resolve()):
        raise LaunchFailed(
            f"`overrides.working_dir` is {subfolder!r}, and the job's code has no such folder. Push the launch again "
            "with a folder of the code, or without the key."
        )
