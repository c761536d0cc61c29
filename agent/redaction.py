"""Redaction: the secrets that are live in this process, and what takes them out of whatever leaves it.

Whoever brings a secret into the process has it kept here for as long as it is in use. From then on it stands in no log
line, in no message and in no log of a launch, wherever it got in: in an exception, in a URL, in what a job prints.
"""

import base64
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, MutableMapping, Set
from typing import Any, cast
from urllib.parse import quote

from backends.base import LogChunk
from protocol.masking import REDACTED, without_passwords

SHORTEST_SECRET = 16
"""Characters. What is shorter is no key, and cutting it out would garble every log: an item may bring any text as its
key, a common word too."""
MASK = b"*"


class Secrets:
    """Values that must not be seen, in all their spellings."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()
        self._spellings: tuple[str, ...] = ()
        """The longest first, as one may be part of another."""
        self._spellings_in_bytes: tuple[bytes, ...] = ()

    def keep(self, *values: str) -> None:
        """Redact these from now on. Each use is kept and dropped by itself."""
        self._uses.update(value for value in values if len(value) >= SHORTEST_SECRET and value != REDACTED)
        self._spell()

    def drop(self, *values: str) -> None:
        """Take back one `keep` of each. Unknown ones are fine."""
        for value in values:
            if self._uses[value] <= 1:
                del self._uses[value]
            else:
                self._uses[value] -= 1
        self._spell()

    def text(self, text: str) -> str:
        """Return a text without secrets, and without passwords in its URLs."""
        for secret in self._spellings:
            text = text.replace(secret, REDACTED)
        return without_passwords(text)

    def data(self, data: bytes) -> bytes:
        """Return bytes with every secret masked. The length stays, as pieces of logs are known by their offsets."""
        for secret in self._spellings_in_bytes:
            data = data.replace(secret, MASK * len(secret))
        return data

    async def chunks(self, chunks: AsyncIterator[LogChunk]) -> AsyncGenerator[LogChunk]:
        """Pass on pieces of a log with every secret masked, also one that stands across two pieces.

        An end that may be the beginning of a secret waits for the piece after it.
        """
        waiting = b""
        end = 0
        async for chunk in chunks:
            data, end = self.data(waiting + chunk.data), chunk.end
            sure = len(data) - self._begun(data)
            if sure:
                yield LogChunk(end - len(data), data[:sure])
            waiting = data[sure:]
            del chunk, data
        if waiting:
            yield LogChunk(end - len(waiting), waiting)

    def value(self, value: Any) -> Any:
        """Return a value of a log line without secrets: keys, nested values and what would be printed of objects."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.data(value)
        if isinstance(value, Mapping):
            pairs = cast("Mapping[object, object]", value)
            return {self.text(str(key)): self.value(entry) for key, entry in pairs.items()}
        if isinstance(value, list | tuple | Set):
            return [self.value(entry) for entry in cast("Iterable[object]", value)]
        shown = repr(value)
        clean = self.text(shown)
        return value if clean == shown else clean

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """Redact a log line: a processor of structlog. It must come after exceptions have become text."""
        return self.value(event)

    def _spell(self) -> None:
        spellings = {spelling for value in self._uses for spelling in _spellings(value)}
        self._spellings = tuple(sorted(spellings, key=len, reverse=True))
        self._spellings_in_bytes = tuple(spelling.encode(errors="replace") for spelling in self._spellings)

    def _begun(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a secret."""
        return max((_overlap(data, secret) for secret in self._spellings_in_bytes), default=0)


SECRETS = Secrets()
"""Those of this process. Logging belongs to the process, and so does this."""


def _spellings(value: str) -> set[str]:
    """Return the forms in which a secret may be met: as it is, escaped, in a URL, and in an Authorization header."""
    basic = base64.b64encode(f"api:{value}".encode(errors="replace")).decode()
    return {value, repr(value)[1:-1], quote(value, safe="", errors="replace"), basic}


def _overlap(data: bytes, secret: bytes) -> int:
    for size in range(min(len(secret) - 1, len(data)), 0, -1):
        if data.endswith(secret[:size]):
            return size
    return 0
