"""What commands say of names that name nothing."""

from protocol.errors import LaunchbayError


class NotThere(LaunchbayError):
    """There is nothing of this name, or you may not see it."""

    code = "not_found"
