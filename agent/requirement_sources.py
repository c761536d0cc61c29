"""Where a job's requirements come from: the URLs that they name, and the files, which must be the code's own.

Read with care rather than exactly: uv understands its files in more ways than are written down, so what may be a URL
counts as one, and what may lead out of the code does. What a package brings along once it is fetched or built is not
seen here: that is code of somebody who was let in.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from agent.errors import LaunchFailed
from agent.requirements import PROJECT, Requirements, settings_files

PROJECT_ROOT = "${PROJECT_ROOT}"
"""The one variable of a path that is known: the folder in which uv runs."""
BUILT_BY = ("dependencies", "optional-dependencies")
"""Of a project's own table, what may name URLs that are fetched."""
PATH_KEYS = frozenset({"path", "find-links"})
"""Of uv's settings, what names files."""

_LINE_END = re.compile(r"[\r\n]")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_INCLUSION = re.compile(r"(?:^|\s)(?:-r|-c|--requirement|--constraint)(?:\s*=|\s)(?P<value>.*)")
_OPTION = re.compile(r"(?:^|\s)-(?:-[a-z-]+|[a-z])(?:\s*=|\s)(?P<value>.*)")
_NAMED = re.compile(r"[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@(?P<value>.*)")
_URL = re.compile(r"(?:[a-z][a-z0-9]*\+)*(?:https?|ssh|git|ftp|hg|svn|bzr)\s*:\S*", re.IGNORECASE)
_FILE = re.compile(r"(?:[a-z]+\+)?file:(?://(?:localhost)?(?=[/$]))?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{[^}]*\}")
_AFTER_PATH = re.compile(r"\[|\s*;|\s+--")
_AROUND = "".join(map(chr, range(0x21))) + "\ufeff"
"""What is taken off the ends of a URL."""


@dataclass(slots=True)
class Sources:
    """What requirements name."""

    urls: list[str] = field(default_factory=list[str])
    """As they are written, without `git+`."""
    outside: list[str] = field(default_factory=list[str])
    """Paths that lead, or may lead, out of the code."""
    texts: list[str] = field(default_factory=list[str])
    """The requirements themselves, and each file that they include."""
    files: list[Path] = field(default_factory=list[Path])
    """Where these are."""


def read_sources(requirements: Requirements) -> Sources:
    """Read requirements and the files that they include. Raises `LaunchFailed` if one is not the code's. Blocks."""
    reader = _Reader(requirements)
    if requirements.file.name == PROJECT:
        reader.sources.texts.append(requirements.file.read_text("utf-8", errors="replace"))
        reader.sources.files.append(requirements.file)
    else:
        reader.read(requirements.file)
    for file in settings_files(requirements):
        reader.read_table(file)
    reader.sources.urls = list(dict.fromkeys(reader.sources.urls))
    return reader.sources


class _Reader:
    def __init__(self, requirements: Requirements) -> None:
        self.sources = Sources()
        self._wanted = requirements
        self._seen: set[Path] = set()

    def read(self, file: Path) -> None:
        """Read a file of requirements."""
        if file.resolve() in self._seen:
            return
        self._seen.add(file.resolve())
        text = file.read_text("utf-8", errors="replace")
        self.sources.texts.append(text)
        self.sources.files.append(file)
        for line in _LINE_END.split(text):
            line = _COMMENT.sub("", line)
            self._add_urls(line)
            if match := _INCLUSION.search(line):
                self._include(match["value"], file)
            else:
                match = _OPTION.search(line) or _NAMED.match(line.strip(_AROUND))
                for path in self._inside(match["value"] if match else line, self._wanted.file.parent):
                    if (path / PROJECT).is_file():
                        self.read_table(path / PROJECT)

    def _include(self, value: str, by: Path) -> None:
        known = len(self.sources.outside)
        for included in self._inside(value, by.parent):
            if included.is_file():
                self.read(included)
        if len(self.sources.outside) > known:
            raise LaunchFailed(
                f"{by.name} includes {self.sources.outside[-1]!r}, which is no file of the job's code.", stage="build"
            )

    def read_table(self, file: Path) -> None:
        """Read a `pyproject.toml` or uv's own settings, as far as they say what is installed."""
        if file.resolve() in self._seen:
            return
        self._seen.add(file.resolve())
        try:
            table: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        except ValueError:
            return  # uv will say so
        if file.name == PROJECT:
            project, build, tool = (_table(table, name) for name in ("project", "build-system", "tool"))
            relevant: Any = [*(project.get(key, ()) for key in BUILT_BY), build.get("requires", ()), _table(tool, "uv")]
        else:
            relevant = table
        for key, text in _strings(relevant):
            self._add_urls(text)
            is_path = key in PATH_KEYS or "file:" in text
            if is_path:
                match = _NAMED.match(text)
                self._inside(match["value"] if match else text, file.parent)

    def _add_urls(self, text: str) -> None:
        # A variable may stand for nothing: then what is around it is one word.
        for each in dict.fromkeys((text, _VARIABLE.sub("", text))):
            self.sources.urls += [url.strip("\"'").removeprefix("git+") for url in _URL.findall(each)]

    def _inside(self, value: str, folder: Path) -> list[Path]:
        """Return what a value may mean, if it is a path in the code."""
        code = self._wanted.code
        value = value.strip(_AROUND).replace('"', "").replace("'", "")
        if code is None or not value or _URL.match(value):
            return []
        path = _FILE.sub("", value, count=1) if _FILE.match(value) else value
        path = path.replace(PROJECT_ROOT, str(self._wanted.file.parent))
        found = [folder / text for whole in (path, unquote(path)) for text in (whole, _AFTER_PATH.split(whole)[0])]
        is_clear = not _VARIABLE.search(path) and "\\" not in path
        if is_clear and all(each.resolve().is_relative_to(code.resolve()) for each in found):
            return list(dict.fromkeys(found))
        self.sources.outside.append(value)
        return []


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text at every depth, with the nearest key above it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, entry in cast("dict[str, Any]", value).items():
            yield from _strings(entry, name)
    elif isinstance(value, list):
        for entry in cast("Iterable[Any]", value):
            yield from _strings(entry, key)


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    found: Any = table.get(key)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
