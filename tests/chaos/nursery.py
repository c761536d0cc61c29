"""A program that forks agents and servers which have imported everything already, so that they start in milliseconds.

For each line of JSON on standard input (a command line, a file for its output, more variables) it answers with a pid.
What is orphaned below it becomes its child, so that whoever looks at its children sees everything that is still alive.
"""

import ctypes
import json
import os
import signal
import sys
from importlib import import_module

import backends.registry
from backends.local_process import create
from launchbay.cli import main
from server.resolvers import polling
from server.storage import agents, claims

PR_SET_CHILD_SUBREAPER = 36
SECONDS = 0.5
"""How long a lease lasts, and for how long a server that has not heard of an agent believes it at work."""

COMMANDS = ("agent.run", "launchbay.commands.agent", "launchbay.commands.server", "server.start")
"""What they import when they start, and need not any more."""


def serve() -> None:
    """Fork until standard input ends."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit("cannot become the reaper of orphans")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    for module in COMMANDS:
        import_module(module)
    claims.LEASE_SECONDS = SECONDS
    for module in (agents, claims):
        module.ALIVE_SECONDS = SECONDS  # type: ignore[attr-defined]
    polling.ABANDONED_SECONDS = SECONDS
    backends.registry.load = lambda _: create  # looking for entry points takes longer than all the rest
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ.update(order["environment"])
            _become(order["command"], order["output"])
        print(pid, flush=True)


def _become(command: list[str], output: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    sys.argv = ["launchbay", *command]
    main()


if __name__ == "__main__":
    serve()
