"""Python programs that have nothing to import: a process that has imported it all forks for each of them.

The import of the stock client takes more than a second, and the tests start it hundreds of times. What is started here
is a process of its own all the same, with its own arguments, environment, folder, standard streams and exit code.
"""

import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
# What the commands, the runs and the public interface of the stock client import, and what our own commands import.
CLIENT = ("wandb", "wandb.cli.cli", "wandb.apis.public", "wandb.sdk.launch", "requests", "yaml")
TELEMETRY = tuple(f"opentelemetry.exporter.otlp.proto.http.{name}" for name in ("metric_exporter", "_log_exporter"))
"""What each run of the newest client imports, too."""
OURS = tuple(f"launchbay.commands.{name}" for name in ("job", "launch", "logs", "queue", "status", "stop", "team"))


@contextmanager
def running(python: Path, modules: Sequence[str], environment: Mapping[str, str]) -> Generator[list[str]]:
    """Have a Python that has imported modules in this environment; gives the words that stand for it in a command.

    A file or `-c`, and arguments, may come behind them.
    """
    # Not below pytest's folders: the path of a socket has about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="launchbay-warm-", dir="/tmp") as folder:
        path = f"{folder}/socket"
        command = [str(python), str(HERE / "forking.py"), path, *modules]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == b"ready\n", f"it did not start: {command}"
            yield [sys.executable, "-IS", str(HERE / "stand_in.py"), path]
            process.stdin.close()  # it ends
