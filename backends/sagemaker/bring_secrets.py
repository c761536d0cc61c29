"""Runs in a job's container, before the job: fetches its secrets by their name, and becomes the job's program.

Sent along with the job as text, so it is one file, needs the standard library alone, and an old Python will do.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import NoReturn

SERVICE = "secretsmanager"
FAILURE = "/opt/ml/output/failure"


def run(words: list[str]) -> NoReturn:
    """Become the program that the words name, with the secrets as variables."""
    try:
        secrets = fetch(os.environ["LAUNCHBAY_SECRETS"])
    except Exception as error:  # noqa: BLE001 -- whatever it is, the job's log has to say so
        said = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
        fail(1, f"The job's secrets cannot be fetched from Secrets Manager: {error!r} {said}")
    os.environ.update(secrets)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        fail(code, f"{words[0]} cannot be started: {error.strerror}")


def fail(code: int, why: str) -> NoReturn:
    """End with what is the matter, where SageMaker looks for it."""
    sys.stderr.write(why + "\n")
    try:
        with open(FAILURE, "w") as file:
            file.write(why)
    except OSError:
        pass
    sys.exit(code)


def fetch(place: str) -> dict[str, str]:
    """Return the variables of the secret at a place, `REGION/NAME`."""
    region, _, name = place.partition("/")
    dns = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = os.environ.get("AWS_ENDPOINT_URL_SECRETS_MANAGER") or os.environ.get("AWS_ENDPOINT_URL")
    url = (url or f"https://{SERVICE}.{region}.{dns}").rstrip("/") + "/"
    body = json.dumps({"SecretId": name}).encode()
    headers = sign(url.split("/")[2], region, body, credentials())
    answer = urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60).read()
    return json.loads(json.loads(answer.decode())["SecretString"])


def credentials() -> list[str | None]:
    """Return the keys of the job's role: those of its container, or of its variables."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return [os.environ.get(name) for name in names]
    path = os.environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = "http://169.254.170.2" + path if path else os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    answer = json.loads(urllib.request.urlopen(url, timeout=60).read().decode())
    return [answer[name] for name in ("AccessKeyId", "SecretAccessKey", "Token")]


def sign(host: str, region: str, body: bytes, keys: list[str | None]) -> dict[str, str]:
    """Return the headers of a request, signed as AWS wants it (Signature Version 4)."""
    key, secret, token = (each or "" for each in keys)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": host,
        "x-amz-date": now,
        "x-amz-target": SERVICE + ".GetSecretValue",
    }
    if token:
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join(["POST", "/", "", lines, names, hashlib.sha256(body).hexdigest()])
    scope = "/".join([now[:8], region, SERVICE, "aws4_request"])
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
    signature = ("AWS4" + secret).encode()
    for part in [*scope.split("/"), text]:
        signature = hmac.new(signature, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={}".format(
        key, scope, names, "".join(f"{byte:02x}" for byte in signature)
    )
    return headers
