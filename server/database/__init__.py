"""The one way to the database, whichever it is: a function of a connection in one transaction.

The functions are plain synchronous SQLAlchemy Core, the same for every engine. What runs them differs: see `sqlite` and
`postgresql`.
"""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from protocol.errors import LaunchbayError
from server.wakeups import Wakeups

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseUnusable(LaunchbayError):
    """The database cannot be used as it was given."""


class Database(Protocol):
    """Transactions, one function each.

    `work` must not do network or file work, and must not keep its connection. It may run more than once, if others
    changed meanwhile what it had read; only its last run counts.
    """

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` on a snapshot and return its result."""
        ...

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` in one transaction; committed when this returns, undone if it raises.

        What it reads does not change under it: it is run again if somebody else changes a row that it changes too.
        """
        ...

    async def claim(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run statements that are each right by themselves while others choose among the same rows.

        Each sees what was committed before it, so that two who claim at the same moment get two different rows at once,
        instead of one of them having to begin again. Each may be committed by itself.
        """
        ...

    async def share(self, wakeups: Wakeups) -> None:
        """Carry wake-ups to and from the other processes that use this database, until cancelled."""
        ...

    async def close(self) -> None:
        """Finish what is queued and close all connections."""
        ...
