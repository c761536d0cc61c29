"""Artifacts of what is unusual: strange names, nothing at all, links, files elsewhere of all kinds."""

import json
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import wandb
from wandb.sdk.artifacts.artifact_ttl import ArtifactTTL

from tests.end_to_end.snippets.checks import differs, refusal, shows

PLACE = "admin/odd-artifacts"


def logged(artifact: wandb.Artifact) -> wandb.Artifact:
    """Log an artifact; return it as the server has it."""
    with wandb.init(entity="admin", project="odd-artifacts") as run:
        run.log_artifact(artifact).wait()
    return wandb.Api().artifact(f"{PLACE}/{artifact.name.partition(':')[0]}:latest")


def in_folder(root: str | Path) -> dict[str, str]:
    """Return the files below a folder."""
    return {str(path.relative_to(root)): path.read_text() for path in Path(root).rglob("*") if path.is_file()}


@shows("Artifact.add_dir", "Artifact.download", "Artifact.verify", "Artifact.get_entry")
def artifact_files_with_unusual_names() -> None:
    names = ["with space", "ünïcödé/名前 ☃", "100%/a+b&c=d;e", "#?*[]{}'\"\\", ".hidden", "a\nb", "x" * 255]
    names.append("/".join(["deep"] * 60) + "/" + "名" * 80)
    for name in names:
        file = Path("names", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    artifact = wandb.Artifact("names-of_all.kinds", "dataset")
    artifact.add_dir("names")
    found = logged(artifact)
    folder = found.download(root="back")
    assert in_folder(folder) == {name: name for name in names}
    found.verify(root=folder)
    assert Path(found.get_entry(names[1]).download(root="one")).read_text() == names[1]


@shows("Artifact.add_file", "Artifact.file_count", "Artifact.download")
def empty_files_and_an_empty_artifact() -> None:
    Path("empty").touch()
    artifact = wandb.Artifact("of-nothing", "dataset")
    artifact.add_file("empty", name="one")
    artifact.add_file("empty", name="two")
    found = logged(artifact)
    assert (found.size, found.file_count) == (0, 2)
    assert in_folder(found.download(root="of-nothing")) == {"one": "", "two": ""}
    found = logged(wandb.Artifact("nothing", "dataset"))
    assert (found.size, found.file_count, found.version) == (0, 0, "v0")
    assert in_folder(found.download(root="nothing")) == {}


@shows("Artifact.add_dir")
def add_a_folder_with_symbolic_links() -> None:
    Path("links").mkdir()
    Path("links/file").write_text("text")
    Path("links/link").symlink_to("file")
    Path("elsewhere").mkdir()
    Path("elsewhere/more").write_text("more")
    Path("links/folder").symlink_to(Path("elsewhere").absolute())
    artifact = wandb.Artifact("links", "dataset")
    artifact.add_dir("links")
    back = in_folder(logged(artifact).download(root="back"))
    assert back == {"file": "text", "link": "text", "folder/more": "more"}


@differs("Artifact.digest_algorithm", "files are summed up by MD5, whatever is asked for: the server has no XXH128")
def ask_for_another_digest_algorithm() -> None:
    artifact = wandb.Artifact("sums", "dataset", digest_algorithm="XXH128")
    with artifact.new_file("a") as file:
        file.write("text")
    found = logged(artifact)
    assert found.digest_algorithm == "MANIFEST_MD5"
    folder = found.download(root="sums")
    found.verify(root=folder)
    assert in_folder(folder) == {"a": "text"}


@shows("wandb.Run.log_artifact", "Artifact.delete")
def log_an_increment_to_a_deleted_version() -> None:
    for name in ("a", "b"):
        artifact = wandb.Artifact("grown", "dataset", incremental=name == "b")
        with artifact.new_file(name) as file:
            file.write(name)
        found = logged(artifact)
        if name == "a":
            found.delete(delete_aliases=True)
    assert (found.version, sorted(found.manifest.entries)) == ("v1", ["b"])


@shows("Artifact.download")
def download_a_file_in_parts() -> None:
    Path("large").write_bytes(os.urandom(1_000_000))
    artifact = wandb.Artifact("in-parts", "dataset")
    artifact.add_file("large")
    folder = logged(artifact).download(root="in-parts", multipart=True)
    assert Path(folder, "large").read_bytes() == Path("large").read_bytes()


@shows("Artifact.ttl", "Artifact.save")
def set_and_unset_a_ttl() -> None:
    artifact = wandb.Artifact("passing", "dataset")
    artifact.ttl = timedelta(days=3)
    found = logged(artifact)
    assert found.ttl == timedelta(days=3)
    for ttl in (None, timedelta(hours=1), ArtifactTTL.INHERIT):
        found.ttl = ttl
        found.save()
        read = wandb.Api().artifact(f"{PLACE}/passing:v0").ttl
        assert read == (None if ttl is ArtifactTTL.INHERIT else ttl), "nothing is inherited here"


@shows("Artifact.link", "Artifact.delete", "Api.artifact_exists")
def delete_a_link_and_a_linked_version() -> None:
    api = wandb.Api()
    with wandb.init(entity="admin", project="odd-artifacts") as run:
        for text in ("first", "second"):
            artifact = wandb.Artifact("source", "dataset")
            with artifact.new_file("a") as file:
                file.write(text)
            run.log_artifact(artifact).wait()
    first, second = (api.artifact(f"{PLACE}/source:{version}") for version in ("v0", "v1"))
    for version in (first, second):
        version.link("odd-shelf/best")
    second.delete(delete_aliases=True)
    assert api.artifact("admin/odd-shelf/best:latest").source_version == "v0"
    assert not api.artifact_exists("admin/odd-shelf/best:v1")
    api.artifact("admin/odd-shelf/best:v0").delete()
    assert not api.artifact_exists("admin/odd-shelf/best:v0")
    assert api.artifact_exists(f"{PLACE}/source:v0")


# --- files elsewhere --------------------------------------------------------------------------------------------------


@contextmanager
def serving(files: dict[str, bytes]) -> Generator[str]:
    """Serve files over HTTP, and as a bucket of Google's; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        """Knows as much of either protocol as the client needs."""

        def do_GET(self) -> None:
            """Answer with a file, or with what is known of it."""
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            if name not in files:
                self.send_error(404)
                return
            if path.startswith("/storage/v1/"):
                about = {"name": name, "bucket": "bucket", "etag": "etag", "generation": "1", "size": len(files[name])}
                self._send(json.dumps({**about, "mediaLink": f"{url}/download/storage/v1/b/bucket/o/{name}"}).encode())
            else:
                self._send(files[name])

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"sum"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name for it
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield url
        finally:
            server.shutdown()


def referring(name: str, uris: Iterable[str], *, checksum: bool) -> wandb.Artifact:
    """Log an artifact of nothing but references."""
    artifact = wandb.Artifact(name, "dataset")
    for number, uri in enumerate(uris):
        artifact.add_reference(uri, name=f"ref{number}", checksum=checksum)
    return logged(artifact)


@shows("Artifact.add_reference", "Artifact.download", "Artifact.get_entry")
def add_references_with_and_without_checksums() -> None:
    Path("far").write_bytes(b"file")
    with serving({"web": b"web", "cloud": b"cloud"}) as url:
        os.environ["STORAGE_EMULATOR_HOST"] = url
        uris = [f"{url}/web", "gs://bucket/cloud", Path("far").absolute().as_uri()]
        for checksum in (True, False):
            found = referring(f"far-{checksum}", uris, checksum=checksum)
            assert [found.get_entry(f"ref{number}").ref for number in range(3)] == uris
            assert found.file_count == 3
        sums = wandb.Api().artifact(f"{PLACE}/far-True:latest")
        back = in_folder(sums.download(root="far-away"))
        assert back == {"ref0": "web", "ref1": "cloud", "ref2": "file"}, back
        assert sums.size == len("web" + "cloud" + "file")


@shows("Artifact.add_reference")
def add_references_of_an_unknown_scheme() -> None:
    with serving({}):
        found = referring("unknown", ["hdfs://cluster/part", "s3-like://x/y"], checksum=True)
        assert found.get_entry("ref0").ref == "hdfs://cluster/part"
        assert "not recognized" in refusal(lambda: found.download(root="unknown"), ValueError)
