"""Reads typed values out of JSON that came over the wire; a wrong type names the key, the value and what is allowed."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from protocol.errors import LaunchbayError
from protocol.json_types import Json, JsonObject


class Reader:
    """Reads the keys of one object. `where` is put before key names in errors, which are of class `error`."""

    def __init__(self, raw: Json, error: type[LaunchbayError], where: str = "") -> None:
        self._error = error
        self._where = where
        if not isinstance(raw, Mapping):
            raise error(f"{where or 'it'} must be an object, not {raw!r}.")
        self.raw: JsonObject = raw

    def text(self, key: str) -> str | None:
        """Return a string, or None if it is absent or empty."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value or None

    def required_text(self, key: str) -> str:
        """Return a string that must be there; it may be empty."""
        value = self.raw.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def path_in_code(self, key: str) -> str | None:
        """Return a path inside the job's code, or None if it is absent."""
        value = self.text(key)
        path = PurePosixPath(value or "")
        if path.is_absolute() or ".." in path.parts or "\0" in (value or ""):
            raise self._wrong(key, value, "a path inside the job's code")
        return value

    def object(self, key: str) -> JsonObject:
        """Return an object; an empty one if it is absent."""
        value = self.raw.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings; an empty one if it is absent."""
        value = self.raw.get(key)
        if value is None:
            return ()
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self._wrong(key, value, "a list of strings")
        words = [word for word in value if isinstance(word, str)]
        if len(words) != len(value):
            raise self._wrong(key, value, "a list of strings")
        return tuple(words)

    def integer(self, key: str) -> int:
        """Return an integer; 0 if it is absent."""
        value = self.raw.get(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, value, "an integer")
        return value

    def inner(self, key: str) -> "Reader":
        """Return a reader of an object inside; of an empty one if it is absent."""
        return Reader(self.object(key), self._error, f"{self._where}{key}.")

    def _wrong(self, key: str, value: Json, wanted: str) -> LaunchbayError:
        found = "missing" if value is None else repr(value)
        return self._error(f"`{self._where}{key}` is {found}; it must be {wanted}.")
