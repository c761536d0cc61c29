"""Which command a launch runs."""

from protocol.errors import SpecError
from protocol.job_file import ImageJobSource, JobFile
from protocol.launch_spec import ImageSource, LaunchSpec, is_scheduler, without_stray_quotes

NOTEBOOK = ".ipynb"


def keeps_entry_point(spec: LaunchSpec, job: JobFile | None) -> bool:
    """Whether neither the launch nor its job names a program, so that the image's own runs, with the launch's words."""
    return not (spec.overrides.entry_point or (job and job.entry_point))


def launch_command(spec: LaunchSpec, job: JobFile | None) -> tuple[str, ...]:
    """Return entry point and arguments: the spec's override, else the job's own; empty means the image's default."""
    entry_point = spec.overrides.entry_point or (_own_entry_point(job) if job else ())
    is_image = isinstance(spec.source, ImageSource) or (job is not None and isinstance(job.source, ImageJobSource))
    if not entry_point and not is_image:
        raise SpecError("There is no command to run: the job has no entry point. Give one with --entry-point.")
    return (*entry_point, *launch_args(spec, job))


def launch_args(spec: LaunchSpec, job: JobFile | None) -> tuple[str, ...]:
    """Return the arguments, which are the last words of the command: the spec's own, else those of an image's job."""
    image = job.source if job and isinstance(job.source, ImageJobSource) else None
    args = spec.overrides.args or (image.args if image else ())
    return without_stray_quotes(args) if is_scheduler(spec) else tuple(args)


def notebook_of(job: JobFile) -> str | None:
    """Return the path, from where the job begins, of the notebook that becomes a script before it runs.

    The client says which jobs are notebooks, but not where it makes one on the command line; Python itself reads none.
    """
    last = job.entry_point[-1] if job.entry_point else ""
    is_notebook = job.notebook or (len(job.entry_point) == 2 and job.entry_point[0].startswith("python"))
    return last if is_notebook and last.endswith(NOTEBOOK) else None


def _own_entry_point(job: JobFile) -> tuple[str, ...]:
    """Return the job's command; that of a notebook runs the script that it becomes."""
    notebook = notebook_of(job)
    return (*job.entry_point[:-1], f"{notebook.removesuffix(NOTEBOOK)}.py") if notebook else job.entry_point
