"""What agent and keeper say to each other.

Requests come through a stream socket, each as JSON behind its length. Replies and ends go through a socket of packets.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    from backends.local_process.keeper.files import Status

    class Group(TypedDict):
        """A control group of a launch: its folder, and what is written to which of the kernel's files in it."""

        folder: str
        settings: dict[str, str]

    class Request(TypedDict):
        """What the agent asks for. `folder` is the launch's."""

        id: int
        folder: str
        command: list[str]
        environment: dict[str, str]
        working_dir: str | None
        labels: dict[str, str]
        groups: list[Group]

    class Reply(TypedDict, total=False):
        """Either the status of the launch, or what went wrong and whether asking again can help.

        Where the request has started the job (`is_kept`), another packet with its id follows at the job's end.
        """

        id: int
        status: Status
        is_kept: bool
        error: str
        again: bool


LENGTH = struct.Struct("!I")
PACKET_BYTES = 64 * 1024
"""More than any reply."""
