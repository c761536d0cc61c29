"""The credential helper of `git_fetch.py`: a program that git asks for a user name and a password.

They are in its environment and go through a pipe. It answers for one host alone: where a remote redirects to another,
that one gets nothing. Standard library only, as it is started for every connection.
"""

import os
import sys
from collections.abc import Iterable, Mapping

HOST, USER, PASSWORD = "LAUNCHBAY_GIT_HOST", "LAUNCHBAY_GIT_USER", "LAUNCHBAY_GIT_PASSWORD"


def answer(action: str, question: Iterable[str], environment: Mapping[str, str]) -> str:
    """Return what git is told; nothing where it asks for another host, or for something else than credentials."""
    asked = dict(line.rstrip("\n").split("=", 1) for line in question if "=" in line)
    host = asked.get("host", "").lower().partition(":")[0]
    if action != "get" or not host or host != environment.get(HOST):
        return ""
    return f"username={environment[USER]}\npassword={environment[PASSWORD]}\n"


if __name__ == "__main__":
    sys.stdout.write(answer(sys.argv[1], sys.stdin, os.environ))
