"""The keys of objects: one place that says where each kind is kept.

No key is ever given out twice. So what is to be removed can be removed at any time, whatever has come since.
"""

import secrets

CONTENTS = "contents/"
"""What the keys of contents begin with. Only these come in parts."""
_OF_RUNS = "runs/"


def of_run_file(run_id: int) -> str:
    """Return the key of a new file of a run; not of its name, which may hold anything."""
    return f"{_OF_RUNS}{run_id}/{secrets.token_hex(8)}"


def is_of_run_file(key: str) -> bool:
    """Whether an object is the file of a run."""
    return key.startswith(_OF_RUNS)


def of_content(entity_id: int, hex_md5: str) -> str:
    """Return the key of a new content of artifacts."""
    return f"{CONTENTS}{entity_id}/{hex_md5[:2]}/{hex_md5}-{secrets.token_hex(4)}"


def of_manifest(artifact_id: int) -> str:
    """Return the key of a new manifest of an artifact, as its client uploads it."""
    return f"manifests/{artifact_id}/{secrets.token_hex(8)}"


def of_whole_manifest(artifact_id: int) -> str:
    """Return the key of what a commit puts together of an artifact's manifests. Of these there is one."""
    return f"manifests/{artifact_id}/whole"
