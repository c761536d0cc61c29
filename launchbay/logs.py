"""How log lines look: for people on a terminal, JSON otherwise; on standard error, or where somebody wants them."""

import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog

from agent.log_fields import LAUNCH_NAMES
from agent.redaction import SECRETS


def configure_logging(verbosity: int, stream: TextIO | None = None) -> None:
    """Set up structlog. 0 shows what happened, 1 and more also how, less than 0 only what went wrong.

    `stream` is where lines go; None is standard error.
    """
    level = logging.WARNING if verbosity < 0 else logging.INFO if verbosity == 0 else logging.DEBUG
    terminal = (stream or sys.stderr).isatty()
    lines = cast(TextIO, _Patient(stream or sys.stderr))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            LAUNCH_NAMES,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            # After everything that turns something into text. For the same reason no pretty tracebacks on a terminal:
            # they are made later, and show the variables of every frame.
            SECRETS,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if terminal
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(lines),
        cache_logger_on_first_use=True,
    )
    # What libraries and asyncio say goes to standard error by the handler of last resort.
    of_libraries = logging.lastResort
    if stream:
        of_libraries = logging.StreamHandler(lines)
        of_libraries.setLevel(logging.WARNING)
        logging.getLogger().addHandler(of_libraries)
    if of_libraries:
        of_libraries.setFormatter(_RedactedFormatter())
    # Alembic tells every step of a migration; that is only of interest to who looks for it.
    logging.getLogger("alembic").setLevel(logging.WARNING if verbosity < 2 else logging.INFO)


class _Patient:
    """Writes to a stream. A disk that is full, or a reader that is gone, costs lines of the log and no launch."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class _RedactedFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return SECRETS.text(super().format(record))
