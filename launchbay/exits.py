"""Exit codes, one per kind of cause, so that scripts can tell them apart. Listed in the README."""

import sys

import click

from protocol.errors import LaunchbayError

FAILED = 1
USAGE = 2
CANNOT_REACH_SERVER = 3
NOT_AUTHENTICATED = 4
NOT_FOUND = 5
REFUSED = 6
RUN_FAILED = 7
DRAINED_WITH_WORK = 8
STOPPED_WORK = 9
LEASE_LOST = 10
INTERRUPTED = 130

_BY_CODE = {
    "control_plane_unavailable": CANNOT_REACH_SERVER,
    "unauthenticated": NOT_AUTHENTICATED,
    "not_found": NOT_FOUND,
    "control_plane_refused": REFUSED,
    "lease_lost": LEASE_LOST,
}


def run_command(command: click.Command) -> None:
    """Run a command; errors that we raise on purpose end in one clear line and an exit code of their own."""
    try:
        sys.exit(command.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LaunchbayError as error:
        click.secho(f"Error: {error}", err=True, fg="red")
        sys.exit(_BY_CODE.get(error.code, FAILED))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
