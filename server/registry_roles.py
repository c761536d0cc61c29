"""What members of a registry may do in it. Pure."""

from enum import StrEnum


class Role(StrEnum):
    """What somebody may do in a registry; each one all that the ones before it may."""

    RESTRICTED_VIEWER = "restricted_viewer"
    """See what is there, and not its files."""
    VIEWER = "viewer"
    """Use and download what is there."""
    MEMBER = "member"
    """Link, unlink, give aliases and tags."""
    ADMIN = "admin"
    """Change the registry itself and its members."""

    def includes(self, other: "Role") -> bool:
        """Whether this role may do all that the other one may."""
        return _RANKS.index(self) >= _RANKS.index(other)


_RANKS = tuple(Role)
