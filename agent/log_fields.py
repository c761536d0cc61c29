"""What stands on every log line about a launch, also where only its name on the platform is known."""

from collections.abc import MutableMapping
from typing import Any

from agent.launch import Launch
from protocol import names


class LaunchNames:
    """Finds the item and the queue of a launch by its name on the platform. One that a line calls `launch` is enough.

    What a launch does itself runs in a context that names all of them. A backend also works for all launches at once,
    and knows nothing of them but these names.
    """

    def __init__(self) -> None:
        self._launches: dict[str, Launch] = {}

    def keep(self, launch: Launch) -> None:
        """Know a launch, whatever its attempt, from now on."""
        self._launches[names.without_attempt(launch.name)] = launch

    def drop(self, launch: Launch) -> None:
        """Forget a launch; unknown ones are fine."""
        self._launches.pop(names.without_attempt(launch.name), None)

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Complete a log event, as structlog's processors do. What it says itself stays."""
        name = str(event.get("launch", ""))
        launch = self._launches.get(names.without_attempt(name))
        if launch is not None and names.is_launch_name(name):
            for field, value in (launch.log_fields | {"attempt": names.attempt_of(name)}).items():
                event.setdefault(field, value)
        return event


LAUNCH_NAMES = LaunchNames()
"""Those of this process. Logging belongs to the process, and so does this."""
