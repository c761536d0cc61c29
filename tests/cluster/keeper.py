"""Runs a whole cluster of one node for as long as anybody wants it.

The workers of a test run share one cluster, whichever of them wants it first and whichever is done last. So it belongs
to a process of its own, the keeper. Whoever uses the cluster holds a connection to it; when the last one closes, as it
also does when its owner is killed, the keeper takes the cluster down. A keeper that is killed leaves things behind,
which the next start of any keeper removes.
"""

import contextlib
import fcntl
import json
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import control_plane, node
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Place

FOLDERS = Path("/var/lib/launchbay-test")
MOST = 200  # clusters at a time on one machine
CONNECT_SECONDS = 300.0
KEEPER_SECONDS = 10.0  # until a keeper is there, and until it misses those who wanted it


@contextmanager
def running() -> Generator[tuple[Place, ControlPlane]]:
    """Run a cluster while the block runs."""
    with own_place() as place:
        try:
            place.prepare()
            services = f"{place.services}.0/24"
            with (
                control_plane.running_in(place.folder, place.api_address, 443, services) as plane,
                node.running(place, plane),
            ):
                yield place, plane
        finally:
            place.clear()


@contextmanager
def own_place() -> Generator[Place]:
    """Take the first number that nobody has; what the dead have left is removed."""
    FOLDERS.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        own: Place | None = None
        for number in range(MOST):
            place = Place(number, FOLDERS / str(number))
            if own and not place.folder.exists():
                continue
            lock = (FOLDERS / f"{number}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            place.clear()
            if own:
                lock.close()
            else:
                stack.enter_context(lock)
                own = place
        assert own, f"{MOST} clusters are running here"
        yield own


# --- sharing ----------------------------------------------------------------------------------------------------------


@contextmanager
def shared(name: str) -> Generator[dict[str, str]]:
    """Use the cluster of a name while the block runs; gives what there is to know about it."""
    with _connection(name) as (connection, about):
        if error := about.get("error"):
            raise AssertionError(f"the cluster does not start: {error}")
        yield about
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # Whoever is the last waits until it is down.


@contextmanager
def _connection(name: str) -> Generator[tuple[socket.socket, dict[str, str]]]:
    deadline = time.monotonic() + CONNECT_SECONDS
    next_keeper = 0.0
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(_address(name))
                if said := connection.makefile().readline():
                    yield connection, json.loads(said)
                    return
            except (ConnectionRefusedError, ConnectionResetError):
                if time.monotonic() > next_keeper:
                    _start_keeper(name)
                    next_keeper = time.monotonic() + KEEPER_SECONDS
        assert time.monotonic() < deadline, "the cluster's keeper does not answer"
        time.sleep(0.05)


def _start_keeper(name: str) -> None:
    """Start a keeper that is nobody's child. One too many ends by itself."""
    command = ["setsid", "--fork", sys.executable, "-m", "tests.cluster.keeper", name]
    root = Path(__file__).parents[2]
    subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def _address(name: str) -> str:
    # Linux's abstract names: there is one owner, and nothing is left of them.
    return f"\0launchbay-cluster-{name}"


def keep(name: str) -> None:
    """Run the cluster of a name until nobody uses it any more. Does nothing if it has a keeper."""
    users: set[socket.socket] = set()
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(_address(name))
        except OSError:
            return
        listener.listen(100)
        listener.settimeout(KEEPER_SECONDS)
        try:
            with running() as (place, plane):
                about = {"kubeconfig": str(plane.kubeconfig), "machine": place.machine, "folder": str(place.folder)}
                _serve(listener, json.dumps(about), users)
                listener.close()
        except Exception:  # noqa: BLE001  # Whoever wanted the cluster is told, whatever it is.
            if not users:
                with listener.accept()[0] as user:
                    user.sendall(json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
    for user in users:
        user.close()


def _serve(listener: socket.socket, about: str, users: set[socket.socket]) -> None:
    """Tell everybody about the cluster, until the last one is gone; that one is left open in `users`."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            ready = selector.select(None if users else KEEPER_SECONDS)
            if not ready:
                return
            for key, _ in ready:
                if key.fileobj is listener:
                    user = listener.accept()[0]
                    users.add(user)
                    selector.register(user, selectors.EVENT_READ)
                    with contextlib.suppress(BrokenPipeError):
                        user.sendall(about.encode() + b"\n")
                    continue
                user = key.fileobj
                assert isinstance(user, socket.socket)
                selector.unregister(user)
                if len(users) == 1:
                    return
                users.remove(user)
                user.close()


def until_told() -> None:
    """Wait until somebody asks this process to end."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def end_when_told() -> None:
    """Have SIGTERM end this process as Ctrl-C does, so that everything is taken down."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


if __name__ == "__main__":
    end_when_told()
    keep(sys.argv[1])
