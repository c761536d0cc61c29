"""Errors of the agent. Their class tells who is at fault, and so what happens next.

A `LaunchFailed` ends one item. A `ControlPlaneUnavailable` is tried again and never loses a launch. Anything else is a
bug: it ends one item too, with a stack trace in the log, and never the daemon.
"""

from pathlib import Path

from agent.launch import Cause
from protocol.errors import LaunchbayError


class LaunchFailed(LaunchbayError):
    """The launch cannot go on, and trying again would not help."""

    code = "launch_failed"

    def __init__(
        self,
        message: str,
        *,
        log: bytes = b"",
        stage: str = "agent",
        reason: str = "launch_failed",
        cause: Cause = Cause.WORKLOAD,
    ) -> None:
        super().__init__(message)
        self.log = log
        """Evidence, attached to the item."""
        self.stage = stage
        """The protocol's word for where it failed: agent, build or run."""
        self.reason = reason
        """For machines."""
        self.cause = cause
        """Who is at fault, and so whether it is tried again."""


class LaunchStopped(LaunchbayError):
    """Somebody asked for this launch to be stopped before it was running."""

    code = "launch_stopped"


class NoLongerOurs(LaunchbayError):
    """The server gave the item back to its queue, because this agent was silent for too long while preparing it."""

    code = "no_longer_ours"


class ControlPlaneUnavailable(LaunchbayError):
    """The server cannot be reached, or answers that it is overloaded."""

    code = "control_plane_unavailable"


class ControlPlaneRefused(LaunchbayError):
    """The server understood the request and refused it."""

    code = "control_plane_refused"


class Unauthenticated(ControlPlaneRefused):
    """The server does not accept the API key. Check WANDB_API_KEY and WANDB_BASE_URL."""

    code = "unauthenticated"


class NotFound(ControlPlaneRefused):
    """The server does not have it, or does not show it to us."""

    code = "not_found"


class ConfigError(LaunchbayError):
    """The agent's configuration cannot be used."""

    code = "bad_config"


class StateFolderInUse(LaunchbayError):
    """Another agent is using this state folder."""

    code = "state_folder_in_use"


class StateFolderUnusable(LaunchbayError):
    """The agent cannot keep its state in this folder."""

    code = "state_folder_unusable"

    def __init__(self, folder: Path, error: Exception) -> None:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        super().__init__(
            f"The state folder {folder} cannot be used: {why}. Make it writable, with room on its disk, or name "
            "another with --state-dir."
        )


class LeaseLost(LaunchbayError):
    """Another agent may be working now."""

    code = "lease_lost"


class QueueNotFound(LaunchbayError):
    """A queue that the agent should serve does not exist."""

    code = "not_found"
