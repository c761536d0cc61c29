"""The stock client brings a large file to a bucket in parts, and to a folder in one piece.

It does so from 2 GiB on, in parts of 100 MiB, which would take most of a minute for each test. Both numbers are
constants of its program `wandb-core`; the tests run a copy of that program in which these two are smaller.
"""

import http.client
import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests import buckets
from tests.end_to_end.conftest import LiveServer, serving

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.newest_client("what is changed in its program looks different in older ones"),
    pytest.mark.skipif(buckets.missing() is not None, reason=str(buckets.missing())),
]

MIB = 2**20
PART_BYTES = 5 * MIB
"""The least that S3 takes, but for the last part."""
LARGE_BYTES = 6 * MIB
SIZE = 11_000_000
"""Of the file that is sent: three parts."""
DEADLINE_SECONDS = 60.0
LOG = """
import json, os, random, sys, wandb
from pathlib import Path
from wandb.sdk.lib.service import service_process
program, project, size = sys.argv[1:]
service_process.get_core_path = lambda: program
print(os.getpid(), flush=True)
large = Path(project)
large.write_bytes(random.Random(project).randbytes(int(size)))
said = []
settings = wandb.Settings(x_file_transfer_retry_wait_min_seconds=0.1, x_file_transfer_retry_wait_max_seconds=0.1)
with wandb.init(entity="admin", project=project, settings=settings) as run:
    for _ in range(2):
        artifact = wandb.Artifact("large", "dataset")
        artifact.add_file(str(large), name="large", policy="immutable", skip_cache=True)
        try:
            logged = run.log_artifact(artifact).wait()
            break
        except ValueError as error:
            said.append(str(error))
folder = logged.download(root=f"{project}-back", skip_cache=True, multipart=True)
assert Path(folder, "large").read_bytes() == large.read_bytes()
print(json.dumps(said))
"""


# --- what the tests need ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's program, for which files are large from `LARGE_BYTES` on."""
    from wandb.util import get_core_path

    code = Path(get_core_path()).read_bytes()
    # Each is what a register gets, close to another number of the same few lines: 5 TiB, or 10,000 parts of 100 MiB.
    least = rb"([\xb8-\xbf])\x00\x00\x00\x80(?=.{1,16}?H[\xb8-\xbf]\x00{5}\x05\x00\x00)"
    part = rb"(\x24\xf4\x00\x00\x00.{1,15}?[\xb8-\xbf])\x00\x00\x40\x06"
    for pattern, number, places in ((least, LARGE_BYTES, 1), (part, PART_BYTES, 2)):
        smaller = rb"\g<1>" + re.escape(number.to_bytes(4, "little"))
        code, found = re.subn(pattern, smaller, code, flags=re.DOTALL)
        assert found == places, "another build of the client: find its numbers for uploads in parts again"
    changed = tmp_path_factory.mktemp("program") / "wandb-core"
    changed.write_bytes(code)
    changed.chmod(0o755)
    return changed


def as_it_is(number: int, body: bytes) -> bytes:
    """Change nothing."""
    return body


@dataclass(slots=True)
class Wire:
    """Between everybody and a bucket, or between clients and a server."""

    url: str
    meddle: Callable[[int, bytes], bytes | None] = as_it_is
    """Gets number and content of each part that is sent; returns what to pass on. None: the connection breaks.

    What is sent as a whole has the number 0.
    """
    parts: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Number and size of the parts that were sent."""

    @contextmanager
    def meddling(self, meddle: Callable[[int, bytes], bytes | None]) -> Generator[None]:
        """Have the parts changed while the block runs, beginning with none sent."""
        self.parts.clear()
        self.meddle = meddle
        yield
        self.meddle = as_it_is


@contextmanager
def wired(behind: str) -> Generator[Wire]:
    """Stand before another server while the block runs. Names of hosts are signed, so they stay as they came."""
    address = urlsplit(behind).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            came = self.rfile.read(size)
            if len(came) < size:
                return  # its sender is gone
            body: bytes | None = came
            if self.command == "PUT" and "/contents/" in self.path:
                part = re.search(r"[?&]partNumber=(\d+)", self.path)
                number = int(part[1]) if part else 0
                wire.parts.append((number, size))
                body = wire.meddle(number, came)
            if body is None:
                self.close_connection = True
                return
            asking = http.client.HTTPConnection(address)
            asking.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                asking.putheader(name, value)
            asking.endheaders(body)
            answer = asking.getresponse()
            content = answer.read()
            asking.close()
            self.send_response(answer.status)
            kept = {name: value for name, value in answer.headers.items() if name != "Transfer-Encoding"}
            for name, value in ({"Content-Length": str(len(content))} | kept).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815 -- their names there

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name for it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        wire = Wire(f"http://127.0.0.1:{listening.server_port}")
        Thread(target=listening.serve_forever).start()
        yield wire
        listening.shutdown()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where a bucket is found."""
    with buckets.serving(tmp_path_factory.mktemp("buckets"), "bucket") as environment:
        yield environment


@pytest.fixture(scope="module")
def wire(bucket: dict[str, str]) -> Iterator[Wire]:
    """What stands before it."""
    with wired(bucket["AWS_ENDPOINT_URL_S3"]) as wire:
        yield wire


@pytest.fixture(scope="module")
def beside_bucket(
    server: LiveServer, bucket: dict[str, str], wire: Wire, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that keeps its objects there, and whose clients meet the bucket behind the wire."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**bucket, "AWS_ENDPOINT_URL_S3": wire.url}.items():
            patch.setenv(name, value)
        patch.setenv("LAUNCHBAY_OBJECT_STORE", "s3://bucket/launchbay")
        with serving(tmp_path_factory.mktemp("data")) as (url, key):
            yield replace(server, base_url=url, api_key=key)


def log(server: LiveServer, program: Path, project: str) -> list[str]:
    """Have a large file logged, a second time if the first one fails, and fetched; returns what the client said."""
    result = server.run_script(LOG, str(program), project, str(SIZE))
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def damaged_once(wire: Wire, which: int) -> Callable[[int, bytes], bytes]:
    """Return what changes a part when it is sent for the first time."""

    def damaged(number: int, body: bytes) -> bytes:
        is_first = [sent for sent, _ in wire.parts].count(which) == 1
        return body[:-1] + b"x" if number == which and is_first else body

    return damaged


# --- the tests --------------------------------------------------------------------------------------------------------


def test_a_file_goes_to_a_bucket_in_parts_one_of_them_twice_as_its_connection_broke(
    beside_bucket: LiveServer, wire: Wire, program: Path
) -> None:
    def broken_once(number: int, body: bytes) -> bytes | None:
        return None if number == 2 and [sent for sent, _ in wire.parts].count(2) == 1 else body

    with wire.meddling(broken_once):
        assert not log(beside_bucket, program, "broken")
    assert sorted(wire.parts) == [(1, PART_BYTES), (2, PART_BYTES), (2, PART_BYTES), (3, SIZE - 2 * PART_BYTES)]


def test_a_part_that_is_damaged_on_its_way_is_refused(beside_bucket: LiveServer, wire: Wire, program: Path) -> None:
    with wire.meddling(damaged_once(wire, 3)):
        (said,) = log(beside_bucket, program, "damaged")
    assert "failed" in said
    assert [number for number, _ in wire.parts].count(3) == 2
    assert {number for number, _ in wire.parts} == {1, 2, 3}


def test_an_upload_that_ended_between_parts_is_done_again(beside_bucket: LiveServer, wire: Wire, program: Path) -> None:
    others, is_between, is_over = Semaphore(0), Event(), Event()

    def held(number: int, body: bytes) -> bytes | None:
        if number != 3:
            others.release()
            return body
        for _ in range(2):
            others.acquire(timeout=DEADLINE_SECONDS)
        is_between.set()
        is_over.wait(DEADLINE_SECONDS)
        return None

    with wire.meddling(held):
        with beside_bucket.started_script(LOG, str(program), "killed", str(SIZE)) as process:
            assert process.stdout is not None
            client = psutil.Process(int(process.stdout.readline()))
            assert is_between.wait(DEADLINE_SECONDS), "the last part was never sent"
            for each in [*client.children(recursive=True), client]:
                each.kill()
        is_over.set()
    with wire.meddling(as_it_is):
        assert not log(beside_bucket, program, "killed")
    assert {number for number, _ in wire.parts} == {1, 2, 3}, "nothing is made of what was left"


def test_a_folder_takes_it_in_one_piece_and_refuses_what_is_damaged(server: LiveServer, program: Path) -> None:
    with wired(server.base_url) as wire, wire.meddling(damaged_once(wire, 0)):
        log(replace(server, base_url=wire.url), program, "in-a-folder")
    assert wire.parts == [(0, SIZE), (0, SIZE)]
