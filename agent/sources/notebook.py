"""Notebooks as scripts: the code of their cells, without what only a notebook understands."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import LaunchFailed

PYTHON_CELLS = frozenset({"%%capture", "%%prun", "%%time", "%%timeit"})
"""Cell magics around Python. Below any other is another language, or text."""


def convert_notebook(folder: Path, name: str) -> None:
    """Write the script of a notebook beside it; `LaunchFailed` if there is no such notebook in the folder."""
    notebook = folder / name
    if not notebook.resolve().is_relative_to(folder.resolve()) or not notebook.is_file():
        raise LaunchFailed(f"The job's notebook {name!r} is not in its code. Make the job again.")
    try:
        script = notebook_script(json.loads(notebook.read_text("utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchFailed(
            f"The job's notebook {name!r} is no notebook of format 4. Save it anew, and make the job again."
        ) from error
    target = notebook.with_suffix(".py")
    target.unlink(missing_ok=True)  # it may be a link
    target.write_text(script, "utf-8")


def notebook_script(notebook: Any) -> str:
    """Return the Python of a notebook of format 4, as parsed from JSON. Lines that begin with ! or % are dropped."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return "\n\n".join("\n".join(_python_lines(cell["source"])) for cell in cells) + "\n"


def _python_lines(source: str | list[str]) -> Iterator[str]:
    lines = "".join(source).split("\n")
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%") and first.split()[0] not in PYTHON_CELLS:
        return
    yield from (line for line in lines if not line.startswith(("!", "%")))
