"""The main job, from nothing to a run on record: `make demo`.

Starts a server and an agent on a fresh data folder, makes a queue with template variables, makes a job from
`examples/digits` with the stock `wandb` command, pushes it, and follows it to its end. Exits non-zero if anything on
the way went wrong. What it leaves lies in `.demo/`; the next demo starts anew.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".demo"
BIN = Path(sys.executable).parent
QUEUE = "demo"
PROJECT = "digits"
JOB = "train-digits"
WAIT_SECONDS = 600
CONFIG = {"note": "{{epochs}} epochs", "epochs": "{{epochs}}"}
VARIABLES = {"epochs": {"type": "integer", "default": 10, "minimum": 1, "maximum": 100}}


class DemoFailed(Exception):
    """A step did not do what it should."""


def main() -> int:
    """Run the demo; the exit code tells whether it worked."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        show(processes)
        return 0
    except DemoFailed as error:
        print(f"\nThe demo failed: {error}\nLogs: {FOLDER}/server.log, {FOLDER}/agent.log", file=sys.stderr)
        return 1
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def show(processes: list[subprocess.Popen[bytes]]) -> None:
    """Do all the steps."""
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    step(f"starting a server on {base_url}")
    processes.append(background("server", {}, "server", "--port", str(port), "--data-dir", str(FOLDER / "server")))
    key_file = FOLDER / "server" / "admin-api-key"
    until(lambda: key_file.is_file() and answers(port), "the server to answer", processes)
    environment = job_environment(base_url, key_file.read_text().strip())

    step(f"making queue {QUEUE!r} with template variable `epochs`")
    for name, content in (("config", CONFIG), ("variables", VARIABLES)):
        (FOLDER / f"{name}.json").write_text(json.dumps(content))
    files = ("-c", str(FOLDER / "config.json"), "-t", str(FOLDER / "variables.json"))
    launchbay(environment, "queue", "create", QUEUE, "-r", "local-process", *files)

    step("starting an agent")
    state = ("--state-dir", str(FOLDER / "agent"))
    processes.append(background("agent", environment, "agent", "-q", QUEUE, *state))

    step("making a job from examples/digits with the stock `wandb job create code`")
    create = ["job", "create", "code", str(ROOT / "examples" / "digits"), "-p", PROJECT, "-n", JOB]
    run([str(BIN / "wandb"), *create, "-E", "python train.py"], environment)

    step("pushing it with --set-var epochs=15")
    spec = FOLDER / "launch.json"
    spec.write_text(json.dumps({"overrides": {"run_config": {"epochs": 15}}}))
    pushed = launchbay(
        environment,
        *("launch", "-q", QUEUE, "-j", f"admin/{PROJECT}/{JOB}:latest", "-c", str(spec)),
        *("--set-var", "epochs=15", "--name", "demo", "--json"),
    )
    item_id = json.loads(pushed)["id"]
    step("following its output")
    follow(environment, item_id)
    item = until(lambda: ended_item(environment, item_id), "the item to end", processes)
    tell(environment, item, base_url)


def follow(environment: dict[str, str], item_id: str) -> None:
    """Show the launch's progress and its output until it has ended."""
    said = ""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        item = find_item(environment, item_id)
        if item["state"] not in {"PENDING", "LEASED", "CLAIMED"}:
            break
        reason = item["waitingReason"] or item["state"].lower()
        if reason != said:
            print(f"    {reason}", flush=True)
            said = reason
        time.sleep(0.5)
    command = [str(BIN / "launchbay"), "logs", "--follow", item_id]
    if subprocess.run(command, env=environment, check=False, timeout=WAIT_SECONDS).returncode:
        raise DemoFailed("the output could not be followed")


def tell(environment: dict[str, str], item: dict[str, Any], base_url: str) -> None:
    """Print how it ended, as the stock client's public API tells it."""
    if item["state"] != "FINISHED":
        raise DemoFailed(f"the item ended as {item['state']}: {item['error']}")
    read = f"""
import json, wandb
run = wandb.Api().run("admin/{PROJECT}/{item["associatedRunId"]}")
print(json.dumps({{
    "state": run.state, "summary": {{k: v for k, v in run.summary.items() if not k.startswith("_")}},
    "epochs": run.config["epochs"], "rows": len(list(run.scan_history())),
    "artifacts": [artifact.name for artifact in run.logged_artifacts() if artifact.type == "model"],
}}))
"""
    found = json.loads(run([sys.executable, "-c", read], environment).splitlines()[-1])
    if found["state"] != "finished" or found["epochs"] != 15 or found["rows"] != 15 or len(found["artifacts"]) != 1:
        raise DemoFailed(f"the run on record is not what was launched: {found}")
    path = f"admin/{PROJECT}/{item['associatedRunId']}"
    print(f"\nrun        {path}\nstate      {found['state']}")
    for name, value in sorted(found["summary"].items()):
        print(f"  {name:<15} {value:.4f}" if isinstance(value, float) else f"  {name:<15} {value}")
    print(f"model      {found['artifacts'][0]}")
    print(f"waited     {seconds_between(item['createdAt'], item['claimedAt']):.0f} s in the queue")
    print(f"took       {seconds_between(item['claimedAt'], item['endedAt']):.0f} s with its environment")
    print(f"look at    WANDB_BASE_URL={base_url} while a server runs on {FOLDER / 'server'}:")
    print(f"           {BIN / 'launchbay'} server --data-dir {FOLDER / 'server'} --port {base_url.rsplit(':', 1)[1]}")


def find_item(environment: dict[str, str], item_id: str) -> dict[str, Any]:
    """Return the item as `launchbay status` shows it."""
    status = json.loads(launchbay(environment, "status", "--json"))
    return next(item for queue in status["queues"] for item in queue["items"] if item["id"] == item_id)


def ended_item(environment: dict[str, str], item_id: str) -> dict[str, Any] | None:
    """Return the item if it has ended."""
    item = find_item(environment, item_id)
    return item if item["endedAt"] else None


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two times of the server."""
    pattern = "%Y-%m-%dT%H:%M:%SZ"
    return time.mktime(time.strptime(end, pattern)) - time.mktime(time.strptime(start, pattern))


def job_environment(base_url: str, api_key: str) -> dict[str, str]:
    """Return variables with which the stock client finds this server, and touches nothing of the user's."""
    folders = {name: str(FOLDER / "wandb") for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")}
    (FOLDER / "wandb").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, **folders, "WANDB_BASE_URL": base_url, "WANDB_API_KEY": api_key}


def launchbay(environment: dict[str, str], *arguments: str) -> str:
    """Run a launchbay command and return what it prints."""
    return run([str(BIN / "launchbay"), *arguments], environment)


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run a command; `DemoFailed` with its output if it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=FOLDER)
    if done.returncode:
        raise DemoFailed(f"`{' '.join(command[:4])} ...` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def background(name: str, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """Start a launchbay process whose output goes to a log file."""
    with (FOLDER / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [str(BIN / "launchbay"), *arguments], env=environment or None, stdout=log, stderr=subprocess.STDOUT
        )


def until(check: Callable[[], Any], what: str, processes: list[subprocess.Popen[bytes]]) -> Any:
    """Return the first true value of `check`; `DemoFailed` if it takes too long or a process has died."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            raise DemoFailed(f"server or agent ended while waiting for {what}")
        if value := check():
            return value
        time.sleep(0.1)
    raise DemoFailed(f"waited too long for {what}")


def answers(port: int) -> bool:
    """Whether somebody listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step(what: str) -> None:
    """Say what happens now."""
    print(f"==> {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
