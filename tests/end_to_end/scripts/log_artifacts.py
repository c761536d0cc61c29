"""Logs artifacts of several kinds, some of them again. Prints what it saw."""

import json
import sys
from pathlib import Path
from typing import Any

import wandb


def write(folder: str, **files: str) -> None:
    """Write files below a folder."""
    for name, content in files.items():
        file = Path(folder) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def dataset(one: str) -> wandb.Artifact:
    """Return an artifact with a file, a folder and a reference."""
    made = wandb.Artifact("data", "dataset", description="numbers", metadata={"rows": 2, "none": None})
    write("source", one=one)
    made.add_file("source/one")
    made.add_dir("folder", name="dir")
    made.add_reference(Path("folder/a").absolute().as_uri(), name="ref")
    return made


def log_table_and_reference(run: wandb.Run, extra: str) -> wandb.Artifact:
    """Log a table, and an artifact that refers to the table as it is known in this process alone."""
    table = wandb.Table(columns=["x"], data=[[1]])
    original, copy = wandb.Artifact("original", "tables"), wandb.Artifact("copy", "tables")
    original.add(table, "table")
    run.log_artifact(original)
    copy.add(table, "same table")
    with copy.new_file("extra") as file:
        file.write(extra)
    return run.log_artifact(copy).wait()


project = sys.argv[1]
write("folder", a="same", **{"sub/b": "in a folder"})
write("code", **{"train.py": "print(1)", "notes.txt": "no code"})
seen: dict[str, Any] = {}
with wandb.init(entity="admin", project=project, id="maker") as run:
    versions = [run.log_artifact(dataset(one), aliases=["latest", f"is {one}"]).wait() for one in ("1", "2", "1")]
    seen["versions"] = [version.version for version in versions]
    refers = wandb.Artifact("refers", "dataset")
    refers.add_reference(versions[0].get_entry("one").ref_url(), name="elsewhere")
    run.log_artifact(refers).wait()
    # The second time the original is there already, so the client's new id for it stands for an old version.
    seen["tables"] = [log_table_and_reference(run, extra).version for extra in ("a", "b")]
    run.log_code("code", name="code")
    try:
        run.log_artifact(wandb.Artifact("data", "model")).wait()
    except ValueError as error:
        seen["other type"] = str(error)
print("SEEN", json.dumps(seen))
