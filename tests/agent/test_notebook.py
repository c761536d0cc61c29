"""Notebooks become scripts: the Python of their cells, in the launch's own folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import LaunchFailed
from agent.sources.notebook import convert_notebook, notebook_script


def code(*lines: str) -> dict[str, Any]:
    """Return a cell of code."""
    return {"cell_type": "code", "source": list(lines)}


def test_a_notebook_becomes_a_script(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        code("!pip install x\n", "%matplotlib inline\n", "import sys\n", "x = (7\n", "     % 4)"),
        {"cell_type": "code", "source": "%%time\ny = x + 1"},
        code("%%bash\n", "rm -rf /"),
        code("\n", "%%html\n", "<b>"),
        code("print(x,\n", "      y, sys.argv[1:])"),
    ]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/train.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    convert_notebook(tmp_path, "sub/train.ipynb")
    script = (tmp_path / "sub/train.py").read_text()
    assert script == "import sys\nx = (7\n     % 4)\n\ny = x + 1\n\n\n\n\n\nprint(x,\n      y, sys.argv[1:])\n"
    compile(script, "train.py", "exec")


def test_one_without_code_is_an_empty_script() -> None:
    assert notebook_script({"cells": []}).strip() == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not in its code"),
        ("no json", "is no notebook of format 4"),
        ("[]", "is no notebook of format 4"),
        ('{"worksheets": []}', "is no notebook of format 4"),
        ('{"cells": [{"cell_type": "code", "source": 1}]}', "is no notebook of format 4"),
    ],
)
def test_what_is_no_notebook_is_told(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "train.ipynb").write_text(content)
    with pytest.raises(LaunchFailed, match=said):
        convert_notebook(tmp_path, "train.ipynb")


@pytest.mark.parametrize("name", ["../train.ipynb", "/etc/train.ipynb", "link/train.ipynb"])
def test_one_outside_of_the_code_is_not_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "train.ipynb").write_text('{"cells": []}')
    with pytest.raises(LaunchFailed, match="is not in its code"):
        convert_notebook(folder, name)
    assert not (tmp_path / "train.py").exists()
