"""Manifests of artifacts: read strictly, digested as clients do."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.sdk.artifacts._generated.enums import ArtifactDigestAlgorithm
from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
from wandb.sdk.artifacts.artifact_manifests.artifact_manifest_v1 import ArtifactManifestV1
from wandb.sdk.artifacts.storage_policies.wandb_storage_policy import WandbStoragePolicy
from wandb.sdk.lib.paths import LogicalPath

from server.artifact_manifest import Entry, digest, parse
from server.errors import Conflict

paths = st.text("ab/é:.", min_size=1, max_size=6)


def manifest(**contents: Any) -> bytes:
    """Return a manifest's bytes."""
    return json.dumps({"version": 1, "contents": contents}).encode()


def test_files_and_references_are_read() -> None:
    content = manifest(
        **{
            "a/b.txt": {"digest": "AAA=", "size": 3, "birthArtifactID": "QQ=="},
            "model.bin": {"digest": "etag", "ref": "s3://bucket/model.bin", "size": 10, "extra": {"versionID": "1"}},
            "no size": {"digest": "BBB="},
            "null size": {"digest": "BBB=", "size": None},
        }
    )
    assert parse(content) == [
        Entry("a/b.txt", "AAA=", 3, None),
        Entry("model.bin", "etag", 10, "s3://bucket/model.bin"),
        Entry("no size", "BBB=", 0, None),
        Entry("null size", "BBB=", 0, None),
    ]


def test_an_empty_manifest_has_no_files() -> None:
    assert parse(manifest()) == []


@pytest.mark.parametrize("path", ["../x", "a/../../x", "a/..", "..", "/etc/passwd", "/", "", "."])
def test_a_path_outside_of_the_artifact_is_refused(path: str) -> None:
    with pytest.raises(Conflict) as caught:
        parse(manifest(**{"good.txt": {"digest": "AAA="}, path: {"digest": "AAA="}}))
    assert str(caught.value) == f"The artifact names a file {path!r}, which would lie outside of it."


@pytest.mark.parametrize("path", ["a\0b", "half a pair \ud83d"])
def test_a_path_that_is_no_text_is_refused(path: str) -> None:
    with pytest.raises(Conflict) as caught:
        parse(manifest(**{path: {"digest": "AAA="}}))
    assert str(caught.value) == f"The artifact names a file {path!r}, which no folder can hold. Rename it."


def test_a_path_has_an_end() -> None:
    longest = "x" * 1024
    assert parse(manifest(**{longest: {"digest": "AAA="}}))[0].path == longest
    with pytest.raises(Conflict) as caught:
        parse(manifest(**{longest + "x": {"digest": "AAA="}}))
    with pytest.raises(Conflict, match=r"whose path has 2049 bytes. Use at most 2048"):
        parse(manifest(**{"名" * 683: {"digest": "AAA="}}))
    said = f"The artifact names a file {'x' * 40!r}..., whose path has 1025 characters. Use at most 1024."
    assert str(caught.value) == said


@pytest.mark.parametrize("path", ["..a", "a..b/c", ".hidden", "a/.../b"])
def test_dots_inside_of_names_are_fine(path: str) -> None:
    assert parse(manifest(**{path: {"digest": "AAA="}})) == [Entry(path, "AAA=", 0, None)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"{", "Expecting property name", id="cut off"),
        pytest.param(b"\xff\xfe", "Expecting value|decode", id="not text"),
        pytest.param(b"[" * 100_000, "recursion", id="too deep"),
        pytest.param(b"{}", "it has no `contents`", id="no contents"),
        pytest.param(b'{"contents": []}', "`contents` is", id="contents are a list"),
        pytest.param(b"[]", "must be an object", id="a list"),
        pytest.param(b"null", "must be an object", id="null"),
        pytest.param(manifest(a={}), "`a: digest` is missing; it must be a string", id="no digest"),
        pytest.param(manifest(a={"digest": None}), "`a: digest` is missing", id="digest is null"),
        pytest.param(manifest(a={"digest": ["x"]}), "`a: digest` is ", id="digest is a list"),
        pytest.param(manifest(a="x"), "must be an object", id="entry not an object"),
        pytest.param(manifest(a={"digest": "x", "size": "many"}), "`a: size` is 'many'", id="size not a number"),
        pytest.param(manifest(a={"digest": "x", "size": -5}), "'a' cannot have -5 bytes", id="size negative"),
        pytest.param(manifest(a={"digest": "x", "size": 2**70}), "'a' cannot have", id="size too large"),
        pytest.param(manifest(a={"digest": "x\0"}), "'a' has digest .* not both text", id="digest with a NUL"),
        pytest.param(manifest(a={"digest": "x", "ref": "\ud800"}), "'a' has digest .* not both text", id="ref no text"),
        pytest.param(manifest(a={"digest": "x", "ref": 5}), "`a: ref` is 5", id="ref not a text"),
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Conflict, match=rf"^The artifact's manifest cannot be read: .*({said})"):
        parse(content)


def test_the_digest_of_nothing_is_that_of_the_heading() -> None:
    assert digest([]) == hashlib.md5(b"wandb-artifact-manifest-v1\n", usedforsecurity=False).hexdigest()


@given(st.dictionaries(paths, st.text("ABC=", min_size=1, max_size=4), max_size=5), st.randoms())
def test_the_digest_is_the_stock_clients_and_independent_of_order(contents: dict[Any, str], random: Any) -> None:
    stock = ArtifactManifestV1(
        entries={
            path: ArtifactManifestEntry(path=LogicalPath(path), digest=value, size=1)
            for path, value in contents.items()
        },
        storage_policy=WandbStoragePolicy(),
        digest_algorithm=ArtifactDigestAlgorithm.MANIFEST_MD5,
    )
    entries = [Entry(path, value, 1, None) for path, value in contents.items()]
    random.shuffle(entries)
    assert digest(entries) == stock.digest()


def test_the_digest_depends_on_path_and_content_alone() -> None:
    entry = Entry("a", "AAA=", 1, None)
    assert digest([entry]) == digest([Entry("a", "AAA=", 2, "s3://x")])
    assert len({digest([entry]), digest([Entry("b", "AAA=", 1, None)]), digest([Entry("a", "BBB=", 1, None)])}) == 3
