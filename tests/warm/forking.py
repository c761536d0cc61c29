"""Imports modules, and then forks for each program. An older client's Python runs it, so it needs that client alone.

Arguments: the path of the socket where it is asked, and the modules. It ends when its standard input is closed.
"""

import atexit
import builtins
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, TypeAlias

Folder: TypeAlias = TemporaryDirectory[Any]

IS_DONE = threading.Event()
"""Whether this is a program that has come to its end, and not by an exit or an error."""


def leave() -> None:
    """Spare a program that is done the time in which Python takes apart all that was imported: about half of it all."""
    if IS_DONE.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def serve(path: str, modules: list[str]) -> None:
    """Fork for each request. Returns in the forks, too."""
    atexit.register(leave)  # before all others do, so that it comes last
    del sys.path[0]  # the folder of this file
    for name in modules:
        importlib.import_module(name)
    folders = [each for each in gc.get_objects() if isinstance(each, TemporaryDirectory)]
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(100)
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
        while listening in select.select([listening, 0], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
        else:
            return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    watch(connection, folders)


def watch(connection: socket.socket, folders: list[Folder]) -> None:
    """Fork once more, for the program itself, and tell its end. If nobody waits for that, it is killed."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as stream:
        given = json.loads(stream.readline())
    program = os.fork()
    if program == 0:
        connection.close()
        become(streams, folders, **given)
        return
    for each in streams:
        os.close(each)
    ended = os.pidfd_open(program)
    if ended in select.select([ended, connection], [], [])[0]:
        _, status = os.waitpid(program, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    else:
        os.kill(program, signal.SIGKILL)
    os._exit(0)


def become(
    streams: list[int], folders: list[Folder], words: list[str], folder: str, environment: dict[str, str]
) -> None:
    """Run a program as Python runs it. The temporary folders that the imports have made are each its own."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for each in folders:  # not the ones of the process that has imported, which removes them
        vars(each)["_finalizer"].detach()
        each.__init__()
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if words[0] == "-c":
        source, name = words[1], "<string>"
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
    else:
        name = main.__file__ = words[0]
        source = Path(name).read_text()
        sys.argv = words
        sys.path.insert(0, str(Path(name).resolve().parent))
    exec(compile(source, name, "exec"), main.__dict__)  # noqa: S102 -- it is what it is for
    IS_DONE.set()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
