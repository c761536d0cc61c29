"""A program: `launchbay`, but what an agent starts runs nowhere, and for ever.

It is the whole agent with everything that it does by default, and the platform's own memory in addition: launches that
exist only in the same process.
"""

from backends import registry
from backends.base import Backend, StartRequest
from backends.fake import Behavior, FakeBackend, FakePlatform
from launchbay.cli import main
from protocol.json_types import JsonObject


def _create(_: object, __: str, ___: JsonObject) -> Backend:
    def begin(_: StartRequest) -> Behavior:
        platform.started.clear()  # the platform's diary of all requests, for tests
        return Behavior()

    platform = FakePlatform(begin)
    return FakeBackend(platform)


if __name__ == "__main__":
    registry.load = lambda resource: _create
    main()
