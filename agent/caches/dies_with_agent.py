"""Becomes a program that is killed when the agent dies: what it was making, the next agent makes again.

It runs by itself, as `python dies_with_agent.py AGENT-PID PROGRAM ARGUMENT...`, and only on Linux.
"""

import ctypes
import os
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of `linux/prctl.h`."""

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() == int(sys.argv[1]):  # it may have died before that
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
