"""JSON as clients write it: with a bare NaN or Infinity, and with halves of surrogate pairs from cut-off programs."""

import json
import re

import orjson

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def parse(text: str | bytes) -> object:
    """Return the value of a JSON text, with what could not be stored or sent replaced. Raises `ValueError`."""
    try:
        return orjson.loads(text)  # reads neither of them
    except orjson.JSONDecodeError:
        return with_whole_pairs(json.loads(text))


def dump(value: object) -> bytes:
    """Return the JSON text of a value, whatever its texts hold."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(with_whole_pairs(value))


def with_whole_pairs(value: object) -> object:
    """Return a JSON value with every half of a surrogate pair in it replaced."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(_HALF_A_PAIR.sub("\ufffd", text)) if _HALF_A_PAIR.search(text) else value


def proper(text: str | None) -> str | None:
    """Return a JSON text as every database reads it: without NaN, infinities and zero bytes. None if that cannot be."""
    try:
        return dump(parse(text or "null")).decode().replace("\\u0000", "\\ufffd")
    except (ValueError, TypeError):  # no JSON, or a number that does not fit
        return None
