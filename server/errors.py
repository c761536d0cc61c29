"""Errors that a request may end with. Each carries the HTTP status that makes the stock client behave.

The client shows the message of a 4xx answer to the user and gives up at once; it retries 5xx for minutes. So everything
that trying again will not change is a 4xx; and one of 400, 401, 403 and 404, as clients before 0.26 retry others for up
to a week.
"""

from typing import ClassVar

from protocol.errors import LaunchbayError


class RequestError(LaunchbayError):
    """The request cannot be served."""

    code = "bad_request"
    status: ClassVar[int] = 400


class Unauthenticated(RequestError):
    """No valid API key was sent. Set WANDB_API_KEY to a key of this server (`launchbay user create` prints one)."""

    code = "unauthenticated"
    status = 401


class Forbidden(RequestError):
    """You may not do this."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """There is no such thing, or you may not see it."""

    code = "not_found"
    status = 404


class Conflict(RequestError):
    """The request contradicts what is stored."""

    code = "conflict"
    # Not 409: that one is retried by runs until their init times out.
    status = 400


class NameTaken(Conflict):
    """There is one of that name already."""

    # What the public API asks for, to fetch that one instead.
    status = 409


class Gone(RequestError):
    """It was deleted, and its name is not given out again."""

    code = "gone"
    status = 404
