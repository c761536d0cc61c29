"""Real git servers on loopback: over http through git's own `http-backend`, over ssh through OpenSSH's `sshd`."""

import asyncio
import base64
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_SECONDS = 120
PERSON = {f"GIT_{role}_{what}": f"a@{what}.test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """Run git as somebody; returns what it prints."""
    variables = {**os.environ, **PERSON, "GIT_CONFIG_GLOBAL": os.devnull, **environment}
    done = subprocess.run(["git", *arguments], cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that is served, and a working copy to change it."""

    working: Path
    served: Path

    def commit(self, files: Mapping[str, str] = {}, branch: str = "main") -> str:
        """Write files and push them with what is staged; returns the commit, which is a new one in any case."""
        for name, content in files.items():
            path = self.working / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            git(self.working, "add", "--", name)
        git(self.working, "commit", "--quiet", "--allow-empty", "--message", "a change")
        self.push(branch)
        return git(self.working, "rev-parse", "HEAD")

    def push(self, branch: str = "main") -> None:
        """Put what is committed where it is served, with all tags."""
        git(self.working, "push", "--quiet", "--force", str(self.served), f"HEAD:refs/heads/{branch}")
        git(self.working, "push", "--quiet", "--force", "--tags", str(self.served))


def make_repository(folder: Path, name: str) -> Repository:
    """Make an empty repository; it is served as `name` by whoever serves the folder."""
    working, served = folder.with_name(f"{folder.name}-working") / name, folder / name
    working.mkdir(parents=True)
    git(working, "init", "--quiet", "--initial-branch", "main")
    git(working, "init", "--quiet", "--bare", "--initial-branch", "main", str(served))
    return Repository(working, served)


# --- http -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class HttpServer:
    """A server of every repository in a folder."""

    root: Path
    url: str = ""
    password: str | None = None
    """What everybody must give, as user `git`."""
    requests: list[str] = field(default_factory=list[str])
    """Paths that were asked for."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as anybody has asked for anything."""
    delay: float = 0.0
    """Seconds before each answer."""
    redirect: str | None = None
    """Where everybody is sent instead."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Let git's own program answer."""
        self.requests.append(request.path_qs)
        self.asked.set()
        await asyncio.sleep(self.delay)
        if self.redirect:
            raise web.HTTPMovedPermanently(self.redirect + request.path_qs)
        given = request.headers.get("Authorization", "")
        if self.password and given != f"Basic {base64.b64encode(f'git:{self.password}'.encode()).decode()}":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        process = await asyncio.create_subprocess_exec(
            *("git", "http-backend"),
            env={
                **os.environ,
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": request.path,
                "QUERY_STRING": request.query_string,
                "REQUEST_METHOD": request.method,
                "CONTENT_TYPE": request.content_type,
                "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(await request.read())
        head, _, body = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        return web.Response(status=int(headers.pop("Status", "200").split()[0]), headers=headers, body=body)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that nobody knows; returns its file, and that of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=test", "-days", "2"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def http_server(root: Path, tls: ssl.SSLContext | None = None) -> AsyncGenerator[HttpServer]:
    """Serve the repositories of a folder while the block runs, with TLS over https."""
    server = HttpServer(root)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        server.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


# --- ssh --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SshServer:
    """A server that lets in whoever has the key, as the user that runs the tests."""

    url: str
    """Of its root folder."""
    key_file: Path
    known_hosts: Path


@contextmanager
def ssh_server(folder: Path) -> Generator[SshServer]:
    """Run a server while the block runs. Its keys and settings are in the folder."""
    assert SSHD
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # a place that the program wants, and nothing else
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "sshd_config"
    settings.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\nPrintLastLog no\nPrintMotd no\n"
    )
    host_key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(settings)], stderr=log)
    try:
        _wait_for(port)
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
        yield SshServer(url, folder / "user", folder / "known_hosts")
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the ssh server did not start"
            time.sleep(0.02)
