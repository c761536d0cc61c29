"""Where the server is and who we are: from the same variables that the stock client reads."""

import netrc
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from protocol.masking import without_passwords

BASE_URL = "WANDB_BASE_URL"
API_KEY = "WANDB_API_KEY"
API_KEY_FILE = "WANDB_API_KEY_FILE"
"""Where containers find a secret: in a file."""
DEFAULT_BASE_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Account:
    """A server and a key to it."""

    base_url: str
    api_key: str


def account() -> Account:
    """Return the server and key from the environment; the key also from the netrc file, where `wandb login` puts it."""
    base_url = os.environ.get(BASE_URL) or DEFAULT_BASE_URL
    if not _is_url(base_url):
        shown = without_passwords(base_url)
        raise click.UsageError(f"{BASE_URL} is {shown!r}; it must be a URL, as {DEFAULT_BASE_URL}.")
    api_key = os.environ.get(API_KEY) or _key_from_file() or _key_from_netrc(base_url)
    if not api_key:
        raise click.UsageError(
            f"No API key for {without_passwords(base_url)}. Set {API_KEY} or {API_KEY_FILE} (`launchbay server` writes "
            "the first user's key to DATA_DIR/admin-api-key), or use `wandb login --host URL`."
        )
    return Account(base_url, api_key)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _key_from_file() -> str | None:
    path = os.environ.get(API_KEY_FILE)
    if not path:
        return None
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise click.UsageError(f"{API_KEY_FILE} is {path}, which cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{API_KEY_FILE} is {path}, which holds no key: it is not text.") from error


def _key_from_netrc(base_url: str) -> str | None:
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    server = urlsplit(base_url)
    try:
        entries = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return None
    # `wandb login` writes the port, too; clients before 0.26 wrote the host alone.
    found = entries.authenticators(server.netloc) or entries.authenticators(server.hostname or "")
    return found[2] if found else None
