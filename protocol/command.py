"""Which command a launch runs."""

from protocol.errors import SpecError
from protocol.job_file import ImageJobSource, JobFile
from protocol.launch_spec import ImageSource, LaunchSpec, is_scheduler, without_stray_quotes


def keeps_entry_point(spec: LaunchSpec, job: JobFile | None) -> bool:
    """Whether neither the launch nor its job names a program, so that the image's own runs, with the launch's words."""
    return not (spec.overrides.entry_point or (job and job.entry_point))


def launch_command(spec: LaunchSpec, job: JobFile | None) -> tuple[str, ...]:
    """Return entry point and arguments: the spec's override, else the job's own; empty means the image's default."""
    entry_point = spec.overrides.entry_point or (job.entry_point if job else ())
    image = job.source if job and isinstance(job.source, ImageJobSource) else None
    args = spec.overrides.args or (image.args if image else ())
    if not entry_point and not image and not isinstance(spec.source, ImageSource):
        raise SpecError("There is no command to run: the job has no entry point. Give one with --entry-point.")
    if is_scheduler(spec):
        args = without_stray_quotes(args)
    return (*entry_point, *args)
