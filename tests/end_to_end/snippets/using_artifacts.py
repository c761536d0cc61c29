"""Artifacts are used, found again, not sent and not fetched twice, and gone when they are deleted."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import wandb
from wandb.errors import CommError

from tests.end_to_end.snippets.checks import refusal, shows

PLACE = "admin/using-artifacts"
PROJECT = PLACE.partition("/")[2]


def one_file(artifact_name: str, text: str) -> wandb.Artifact:
    """Return an artifact of one file."""
    made = wandb.Artifact(artifact_name, "dataset")
    with made.new_file("file") as file:
        file.write(text)
    return made


@shows("wandb.Run.use_artifact", "Artifact.used_by", "Artifact.logged_by", "Run.used_artifacts")
def a_version_is_used_by_its_name_its_path_and_itself() -> None:
    with wandb.init(entity="admin", project=PROJECT) as run:
        made = run.log_artifact(one_file("used", "1"), aliases=["best"]).wait()
        maker = run.id
    assert made.used_by() == []
    with wandb.init(entity="admin", project="using-elsewhere") as run:
        by_itself = run.use_artifact(wandb.Api().artifact(f"{PLACE}/used:v0"))
        by_path = run.use_artifact(f"{PLACE}/used:best", type="dataset")
        assert by_itself.id == by_path.id == made.id
        assert "of type 'dataset'" in refusal(lambda: run.use_artifact(f"{PLACE}/used:v0", type="model"), CommError)
        user = run.id
    found = wandb.Api().artifact(f"{PLACE}/used:v0")
    assert [each.id for each in found.used_by()] == [user], "once, however often it was used"
    assert found.logged_by().id == maker  # pyright: ignore[reportOptionalMemberAccess]
    used = wandb.Api().run(f"admin/using-elsewhere/{user}").used_artifacts()
    assert [each.qualified_name for each in used] == [f"{PLACE}/used:v0"]
    wandb.Api().run(f"{PLACE}/{maker}").delete()
    assert wandb.Api().artifact(f"{PLACE}/used:v0").logged_by() is None


@shows("wandb.Run.use_artifact", "Run.used_artifacts", "Run.logged_artifacts")
def what_is_used_before_it_was_logged_is_logged() -> None:
    with wandb.init(entity="admin", project=PROJECT) as run:
        assert run.use_artifact(one_file("fresh", "1")).wait().version == "v0"
        name = run.id
    found = wandb.Api().run(f"{PLACE}/{name}")
    assert [each.name for each in found.used_artifacts()] == ["fresh:v0"]
    assert [each.name for each in found.logged_artifacts()] == []


@shows("Artifact.download")
def what_is_in_the_cache_is_not_fetched_again_unless_it_was_cut_short() -> None:
    with wandb.init(entity="admin", project=PROJECT) as run:
        run.log_artifact(one_file("cached", "as it was logged")).wait()
    found = wandb.Api().artifact(f"{PLACE}/cached:v0")
    found.download(root="cached-once")
    digest = hashlib.md5(b"as it was logged", usedforsecurity=False).hexdigest()
    cached = Path(os.environ["WANDB_CACHE_DIR"], "artifacts", "obj", "md5", digest[:2], digest[2:])
    cached.chmod(0o600)
    for number, (in_cache, downloaded) in enumerate(
        (("kept in a cache!", "kept in a cache!"), ("as it", "as it was logged"))
    ):
        cached.write_text(in_cache)
        assert Path(found.download(root=f"cached-{number}"), "file").read_text() == downloaded


@shows("wandb.Run.log_artifact", "Artifact.digest", "Artifact.manifest", "Artifact.aliases")
def the_same_content_is_one_version_and_is_kept_once() -> None:
    with wandb.init(entity="admin", project=PROJECT) as run:
        versions = [
            run.log_artifact(one_file("same", text), aliases=aliases).wait()
            for text, aliases in (("kept once", ["a"]), ("other", ["c"]), ("kept once", ["b"]))
        ]
        elsewhere = run.log_artifact(one_file("as-well", "kept once")).wait()
    assert [each.version for each in versions] == ["v0", "v1", "v0"]
    first = wandb.Api().artifact(f"{PLACE}/same:v0")
    assert sorted(first.aliases) == ["a", "b", "latest"], "it was the last one that was logged"
    assert (elsewhere.id != first.id, elsewhere.digest) == (True, first.digest)
    entry = wandb.Api().artifact(f"{PLACE}/as-well:v0").manifest.entries["file"]
    assert entry.birth_artifact_id == first.id, "its content came with that one"


@shows("Artifact.delete", "ArtifactCollection.delete", "Api.artifact_exists", "Api.artifact_collection_exists")
def what_is_deleted_is_not_there_and_its_number_is_not_given_again() -> None:
    api = wandb.Api()
    with wandb.init(entity="admin", project=PROJECT) as run:
        for text in ("1", "2"):
            version = run.log_artifact(one_file("going", text)).wait()
        version.delete(delete_aliases=True)
        assert run.log_artifact(one_file("going", "3")).wait().version == "v2"
        there = [api.artifact_exists(f"{PLACE}/going:v{number}") for number in range(3)]
        assert there == [True, False, True]
        assert api.artifact_exists(f"{PLACE}/going:v0", type="dataset")
        assert not api.artifact_exists(f"{PLACE}/going:v0", type="model")
        assert api.artifact_collection_exists(f"{PLACE}/going", "dataset")
        assert not api.artifact_collection_exists(f"{PLACE}/going", "model")
        api.artifact_collection("dataset", f"{PLACE}/going").delete()
        assert not api.artifact_collection_exists(f"{PLACE}/going", "dataset")
        assert run.log_artifact(one_file("going", "4")).wait().version == "v0", "another collection of that name"
    assert not api.artifact_exists(f"{PLACE}/going:v2")


@shows("Artifact.ttl", "Artifact.link")
def a_time_to_live_is_the_sources_own() -> None:
    with wandb.init(entity="admin", project=PROJECT) as run:
        made = run.log_artifact(one_file("living", "1")).wait()
    linked = made.link("using-shelf/living")

    def set_ttl() -> None:
        linked.ttl = timedelta(days=1)

    assert "Cannot set TTL for link" in refusal(set_ttl, ValueError)
    made.ttl = timedelta(days=1)
    made.save()
    assert wandb.Api().artifact("admin/using-shelf/living:v0").ttl == timedelta(days=1)
