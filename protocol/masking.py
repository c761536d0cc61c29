"""What stands in the place of a secret, and what takes the passwords out of the URLs in a text."""

import re

REDACTED = "<redacted>"

_LONGEST_PASSWORD = 256
"""Characters of one that holds a slash. A bound keeps the search linear in the length of the text."""
_CREDENTIALS = re.compile(
    rf"(?<=://)(?!{REDACTED}@)(?:"
    r"[^/?#\s]+"  # user:password, or a token alone
    # Not a URL any more, but people write it: a password with a slash. What is no port is no host's.
    rf"|[^/?#\s:@\[]*:(?!\d+(?:[/?#\s]|$))\S{{0,{_LONGEST_PASSWORD}}}"
    r")(?=@)"
)


def without_passwords(text: str) -> str:
    """Return a text with whatever stands before the @ of a URL cut out, as in `https://user:token@host/path`."""
    return _CREDENTIALS.sub(REDACTED, text) if "://" in text else text
