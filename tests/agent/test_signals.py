"""What tells an agent to end is heard, and does not end the process in the agent's place."""

import subprocess
import sys

PROGRAM = """
import asyncio, os, signal, sys
from agent.signals import do_not_listen, when_told_to_end

async def work():
    told = asyncio.Event()
    when_told_to_end(told.set)
    os.kill(os.getpid(), signal.{number})
    await told.wait()

asyncio.run(work())
os.kill(os.getpid(), signal.{number})
do_not_listen()
os.kill(os.getpid(), signal.{number})
sys.exit(8)
"""


def test_a_signal_after_the_end_of_the_loop_does_not_take_the_exit_code_away() -> None:
    for number in ("SIGTERM", "SIGINT"):
        command = [sys.executable, "-c", PROGRAM.format(number=number)]
        assert subprocess.run(command, timeout=240, check=False).returncode == 8
