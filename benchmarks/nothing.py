"""A server that keeps nothing: what a client by itself takes to bring artifacts up and to fetch them.

    python -m benchmarks.nothing URL SIZE

It answers at once what a client asks for each file: where to send it, and where it is. What is sent is thrown away, and
what is fetched is as many zeros as SIZE says. All else it hands on to the server at URL. It prints its own URL first.
"""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import uvloop

FILE = "/storage/nothing/"
ZEROS = bytes(256 * 1024)
MAX_HEAD_BYTES = 2**20


class Nothing:
    """What it knows: the names of the files that it was told of."""

    def __init__(self, behind: str, size: int) -> None:
        self._behind = behind
        self._size = size
        self._url = ""
        self._names: list[str] = []

    async def serve(self) -> None:
        """Serve for ever."""
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        self._url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        print(self._url, flush=True)
        await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            first, *lines = head[:-4].split("\r\n")
            method, path, _ = first.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", 0))
            if path.startswith(FILE) and method == "PUT":
                await _swallow(reader, length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            elif path.startswith(FILE):
                await self._send(writer, headers.get("range"))
            else:
                body = await reader.readexactly(length)
                answer = self._answer(body)
                if answer is None:
                    writer.write(await asyncio.to_thread(self._handed_on, method, path, headers, body))
                else:
                    writer.write(_message(200, "application/json", json.dumps({"data": answer}).encode()))

    async def _send(self, writer: asyncio.StreamWriter, asked: str | None) -> None:
        size, status = self._size, "200 OK"
        if asked is not None:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            size, status = min(int(end or size), size - 1) - int(start) + 1, "206 Partial Content"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode())
        while size:
            some = ZEROS[:size]
            writer.write(some)
            size -= len(some)
            await writer.drain()

    def _answer(self, body: bytes) -> dict[str, Any] | None:
        """Answer what is asked for each file, and that all of them have come; None for all else."""
        if b"mutation CreateArtifactFiles" in body:
            files: list[dict[str, Any]] = json.loads(body)["variables"]["input"]["artifactFiles"]
            return {"createArtifactFiles": {"files": {"edges": [{"node": self._place(file)} for file in files]}}}
        if b"mutation CommitArtifact" in body:
            version = {"id": json.loads(body)["variables"]["artifactID"], "digest": ""}
            return {"commitArtifact": {"artifact": version}}
        if b"query GetArtifactMembershipFileUrls" in body:
            return self._page(json.loads(body)["variables"])
        return None

    def _place(self, file: dict[str, Any]) -> dict[str, Any]:
        self._names.append(file["name"])
        url = f"{self._url}{FILE}{len(self._names)}"
        place = {"storagePath": url, "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
        return {**place, "artifact": {"id": file["artifactID"]}}

    def _page(self, asked: dict[str, Any]) -> dict[str, Any]:
        start = int(asked.get("cursor") or 0)
        end = start + int(asked["perPage"])
        nodes = [
            {"__typename": "File", "name": name, "directUrl": f"{self._url}{FILE}{number}"}
            for number, name in enumerate(self._names[start:end])
        ]
        info = {"__typename": "PageInfo", "endCursor": str(end), "hasNextPage": end < len(self._names)}
        files = {"pageInfo": info, "edges": [{"node": node} for node in nodes]}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}

    def _handed_on(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        kept = {name: value for name, value in headers.items() if name not in {"connection", "accept-encoding"}}
        request = urllib.request.Request(self._behind + path, body or None, kept, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return _message(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            return _message(error.code, error.headers["Content-Type"], error.read())


async def _swallow(reader: asyncio.StreamReader, length: int) -> None:
    while length:
        length -= len(await reader.read(min(length, MAX_HEAD_BYTES)))


def _message(status: int, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} -\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


if __name__ == "__main__":
    uvloop.run(Nothing(sys.argv[1], int(sys.argv[2])).serve())
