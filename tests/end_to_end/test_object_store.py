"""The stock client with a server whose files and artifacts are in a bucket."""

from pathlib import Path

import pytest

from tests import buckets
from tests.end_to_end.conftest import LiveServer, serving

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(buckets.missing() is not None, reason=str(buckets.missing())),
]

SCRIPT = """
import os
from pathlib import Path
import boto3, wandb
os.environ["AWS_S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL_S3"]
for name in ("a", "b"):
    boto3.client("s3").put_object(Bucket="bucket", Key=f"far/{name}", Body=f"far {name}".encode())
with wandb.init(entity="admin", project="bucket") as run:
    artifact = wandb.Artifact("data", "dataset")
    for number in range(5):
        with artifact.new_file(f"file{number}") as file:
            file.write(f"content {number}")
    run.log_artifact(artifact).wait()
    Path("saved.txt").write_text("saved")
    run.save("saved.txt", policy="now")
    used = run.use_artifact("data:latest")
    used.verify(used.download(root="again"))
    far = wandb.Artifact("far", "dataset")
    far.add_reference("s3://bucket/far/a", name="one")
    far.add_reference("s3://bucket/far", name="all")
    run.log_artifact(far).wait()
    unread = wandb.Artifact("unread", "dataset")
    unread.add_reference("s3://bucket/far/a", checksum=False)
    assert run.log_artifact(unread).wait().get_entry("far/a").ref == "s3://bucket/far/a"
    folder = Path(run.use_artifact("far:latest").download(root="far"))
    back = {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}
    assert back == {"one": "far a", "all/a": "far a", "all/b": "far b"}, back
found = wandb.Api().run(f"admin/bucket/{run.id}")
sizes = {file.name: file.size for file in found.files()}
assert sizes["saved.txt"] == 5 and {"config.yaml", "wandb-summary.json"} < set(sizes), sizes
Path("saved.txt").write_text("longer")
found.upload_file("saved.txt")
(file,) = found.files(["saved.txt"])
assert file.size == 6 and file.download(root="fetched", replace=True).read() == "longer"
file.delete()
assert not list(wandb.Api().run(f"admin/bucket/{run.id}").files(["saved.txt"]))
"""


def test_files_and_artifacts_go_to_a_bucket_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with buckets.serving(tmp_path / "buckets", "bucket") as environment:
        for name, value in {**environment, "LAUNCHBAY_OBJECT_STORE": "s3://bucket/launchbay"}.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "data").mkdir()
        (tmp_path / "client").mkdir()
        with serving(tmp_path / "data") as (url, key):
            result = LiveServer(url, key, tmp_path / "client").run_script(SCRIPT)
        assert result.returncode == 0, result.stdout + result.stderr
        assert not (tmp_path / "data" / "objects").exists()
        stored = tmp_path / "buckets" / "data" / "bucket" / "launchbay"
        assert {folder.name for folder in stored.iterdir()} == {"contents", "manifests", "runs"}
