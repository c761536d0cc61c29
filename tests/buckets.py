"""A server that speaks S3, for tests: versitygw, which keeps a bucket as a folder and checks signatures and MD5s."""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = "versitygw"
START_SECONDS = 60.0
KEY, SECRET = "access-key", "secret-key"


def missing() -> str | None:
    """Return why there can be no bucket here; None if there can be."""
    return None if shutil.which(PROGRAM) else f"there is no {PROGRAM}; see .ci/run"


@contextmanager
def serving(folder: Path, *buckets: str) -> Generator[dict[str, str]]:
    """Serve buckets while the block runs; gives the environment in which boto3 finds them."""
    for bucket in buckets:
        (folder / "data" / bucket).mkdir(parents=True)
    port = _free_port()
    own = ("--access", KEY, "--secret", SECRET, "--port", f"127.0.0.1:{port}", "--iam-dir", str(_made(folder / "iam")))
    command = [PROGRAM, *own, "posix", "--sidecar", str(_made(folder / "sidecar")), str(folder / "data")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "log")
        yield {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        }
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{PROGRAM} does not serve:\n{log.read_text()}")
