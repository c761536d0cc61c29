"""Every GraphQL document that the installed stock client can send.

They come from string literals of its Python sources, from its Go binary, and from calls of the functions that put a
document together at run time: those are run against a stand-in for the connection, which keeps what it is given.
"""

import ast
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import wandb
from graphql import DocumentNode, GraphQLError, OperationDefinitionNode, parse
from wandb.apis.public import files, runs, sweeps
from wandb.sdk.artifacts import _gqlutils
from wandb.sdk.launch.api import LaunchApi

PACKAGE = Path(wandb.__file__).parent
PLACEHOLDER = "_PROJECT_QUERY_"
"""Stands in a document that is put together at run time."""
_OPERATION = re.compile(rb"(?:query|mutation) [A-Za-z]\w* ?[({]")


@cache
def stock_documents() -> dict[str, DocumentNode]:
    """Return the documents by a readable id: where each comes from, and its operation's name."""
    return _documents([*_static_texts(PACKAGE), *(("composed", text) for text in _composed_texts())])


def documents_of(package: Path) -> dict[str, DocumentNode]:
    """Return those of another installed version of the client, without the ones that are composed at run time."""
    return _documents(_static_texts(package))


def _static_texts(package: Path) -> list[tuple[str, str]]:
    binary = (package / "bin" / "wandb-core").read_bytes()
    return [*_python_texts(package), *(("go", text) for text in _binary_texts(binary))]


def _documents(texts: list[tuple[str, str]]) -> dict[str, DocumentNode]:
    found: dict[str, DocumentNode] = {}
    for origin, text in texts:
        document = _document(text)
        if document is None:
            continue
        operation = next(node for node in document.definitions if isinstance(node, OperationDefinitionNode))
        name = operation.name.value if operation.name else "anonymous"
        key = base = f"{origin}:{name}"
        number = 2
        while key in found:
            if found[key] == document:
                break
            key = f"{base}-{number}"
            number += 1
        found[key] = document
    return found


def _python_texts(package: Path) -> list[tuple[str, str]]:
    texts: list[tuple[str, str]] = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text("utf-8")
        origin = path.relative_to(package).with_suffix("").as_posix()
        if origin.startswith("vendor/") or ("query" not in source and "mutation" not in source):
            continue
        nodes = list(ast.walk(ast.parse(source)))
        # A piece of an f-string can look like a document that lacks its fragments.
        pieces = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
        texts += [
            (origin, node.value)
            for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces
        ]
    return texts


def _composed_texts() -> list[str]:
    """Call what composes documents, in the forms with the fewest and the most parts."""
    artifact: dict[str, str] = dict.fromkeys(["artifact_id", "entity_name", "project_name", "run_name", "use_as"], "x")
    return [
        files.Files._get_query(MagicMock()),
        *(runs._create_runs_query(lazy=lazy) for lazy in (True, False)),
        _sent(runs.Run._load_with_fragment, runs.RUN_FRAGMENT, runs.RUN_FRAGMENT_NAME, True),
        _sent(runs.Run.update),
        *(_sent(runs.Run.delete, artifacts) for artifacts in (True, False)),
        *(_sent(runs.Run._full_history, 500, stream) for stream in ("default", "system")),
        *(_sent(LaunchApi.push_to_run_queue_by_name, "e", "p", "q", "{}", *more) for more in ((None,), ({"v": 1}, 2))),
        *(_sent(LaunchApi.push_to_run_queue, "q", {"entity": "e"}, values, "p") for values in (None, {"v": 1})),
        _sent(LaunchApi.create_launch_agent, "e", "p", ["q"], {}, "v"),
        _sent(lambda client: _gqlutils.record_artifact_use(client._service_api, **artifact)),
        *_all_sent(sweeps._upsert_sweep, {"method": "grid"}),
    ]


def _sent(call: Callable[..., object], *arguments: object) -> str:
    """Return the first document that a method sends."""
    return _all_sent(call, *arguments)[0]


def _all_sent(call: Callable[..., object], *arguments: object) -> list[str]:
    """Return the documents that a method sends, one after the other. It gets no answer, and ends in an error."""
    sent: list[str] = []

    def keep(query: str, *_: object, **__: object) -> None:
        sent.append(query)
        raise ConnectionError

    client: Any = MagicMock()
    client._exec.side_effect = client._service_api.execute_graphql.side_effect = keep
    client._service_api.feature_enabled.return_value = True
    client.push_to_run_queue_by_name.return_value = None
    client.get_project_run_queues.return_value = [{"id": "i", "name": "q", "access": "PROJECT", "createdBy": None}]
    with suppress(Exception):
        call(client, *arguments)
    return sent


def _document(text: str) -> DocumentNode | None:
    """Return the text as an executable document, if it is one that holds an operation."""
    if not re.search(r"\b(query|mutation)\b", text) or PLACEHOLDER in text:
        return None
    try:
        document = parse(text, no_location=True)
    except GraphQLError:
        return None
    return document if any(isinstance(node, OperationDefinitionNode) for node in document.definitions) else None


def _binary_texts(binary: bytes) -> list[str]:
    """Cut documents out of the binary: an operation with balanced braces, and the fragments that follow it."""
    texts: list[str] = []
    for match in _OPERATION.finditer(binary):
        end = _balanced_end(binary, match.start())
        while end and (fragment := re.compile(rb"\s*fragment \w+ on \w+ ?\{").match(binary, end)):
            end = _balanced_end(binary, fragment.start())
        if end:
            texts.append(binary[match.start() : end].decode("utf-8", "replace"))
    return texts


def _balanced_end(binary: bytes, start: int) -> int:
    """Return the position behind the selection set that starts somewhere behind `start`; 0 if there is none."""
    depth = parentheses = 0
    for position in range(start, min(start + 20_000, len(binary))):
        byte = binary[position : position + 1]
        if byte == b"(":
            parentheses += 1
        elif byte == b")":
            parentheses -= 1
        elif byte == b"{":
            depth += 1
        elif byte == b"}":
            depth -= 1
            if depth == 0 and parentheses == 0:
                return position + 1
        elif byte == b"\0":
            return 0
    return 0
