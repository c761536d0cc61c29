"""How log lines look: for people on a terminal, JSON otherwise; always on standard error."""

import logging
import sys

import structlog

from agent.redaction import SECRETS


def configure_logging(verbosity: int) -> None:
    """Set up structlog. 0 shows what happened, 1 and more also how, less than 0 only what went wrong."""
    level = logging.WARNING if verbosity < 0 else logging.INFO if verbosity == 0 else logging.DEBUG
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries and asyncio say goes to standard error by this handler.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_RedactedFormatter())
    # Alembic tells every step of a migration; that is only of interest to who looks for it.
    logging.getLogger("alembic").setLevel(logging.WARNING if verbosity < 2 else logging.INFO)


class _RedactedFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return SECRETS.text(super().format(record))
