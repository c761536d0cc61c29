"""A name server for pods: the names of services in the cluster, and no others.

There is no kube-proxy, as two of them on one machine would write to one table of its firewall. So the name of a service
leads to the pods behind it, as that of a headless service does, and its port has to be that of the pods.
"""

import json
import socketserver
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

DOMAIN = "cluster.local"
HEADER = 12
ADDRESS, IS_ANSWER, NO_SUCH_NAME = 1, 0x8580, 3
Get = Callable[[str], bytes | None]


@contextmanager
def served(host: str, get: Get) -> Generator[None]:
    """Answer questions on the address's port 53 while the block runs; `get` asks the API server for a path."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question, socket = self.request
            if reply := answer(question, get):
                socket.sendto(reply, self.client_address)

    with socketserver.ThreadingUDPServer((host, 53), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def answer(question: bytes, get: Get) -> bytes | None:
    """Return the answer to a question; None if it is none."""
    name, end = _name(question)
    if end + 4 > len(question):
        return None
    addresses = _addresses(name, get)
    records = addresses or [] if int.from_bytes(question[end : end + 2], "big") == ADDRESS else []
    code = IS_ANSWER | (NO_SUCH_NAME if addresses is None else 0)
    counts = [1, len(records), 0, 0]
    header = question[:2] + code.to_bytes(2, "big") + b"".join(count.to_bytes(2, "big") for count in counts)
    # Each names the question, is of its kind, and holds for a second.
    told = [b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04" + bytes(map(int, each.split("."))) for each in records]
    return header + question[HEADER : end + 4] + b"".join(told)


def _name(question: bytes) -> tuple[str, int]:
    """Return the name that is asked for, and where it ends."""
    labels: list[str] = []
    at = HEADER
    while at < len(question) and (length := question[at]):
        labels.append(question[at + 1 : at + 1 + length].decode("ascii", "replace").lower())
        at += 1 + length
    return ".".join(labels), at + 1


def _addresses(name: str, get: Get) -> list[str] | None:
    """Return the addresses of the pods that are ready behind a service; None if there is no service of that name."""
    service, _, rest = name.removesuffix(f".svc.{DOMAIN}").partition(".")
    if not name.endswith(f".svc.{DOMAIN}") or not rest or "." in rest:
        return None
    if get(f"/api/v1/namespaces/{rest}/services/{service}") is None:
        return None
    query = f"labelSelector=kubernetes.io/service-name%3D{service}"
    found = get(f"/apis/discovery.k8s.io/v1/namespaces/{rest}/endpointslices?{query}")
    slices = json.loads(found)["items"] if found else []
    ready = [each for part in slices for each in part.get("endpoints") or [] if each["conditions"].get("ready", True)]
    return [address for each in ready for address in each["addresses"]]
