"""A job from git, from the stock client's `job create` to its run: over ssh, from a private repository."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import agent, logs, make_queue, push, run, wait_for
from tests.git_servers import SSHD, git, make_repository, ssh_server

pytestmark = pytest.mark.end_to_end

PROJECT = "git-launches"
TRAIN = """
import pathlib, sys, wandb
from library import VALUE
assert not pathlib.Path(".git").exists()
with wandb.init() as run:
    run.log({"value": VALUE, "arguments": len(sys.argv) - 1})
"""


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed: on Debian, apt-get install openssh-server")
@pytest.mark.newest_client("it is our own agent that fetches")
def test_a_job_from_git_runs_and_its_run_tells_the_commit(server: LiveServer, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "served", "code")
    first = repository.commit(
        {"sub/train.py": TRAIN, "sub/library.py": "VALUE = 1", "requirements.txt": "# none beside ours\n"}
    )
    make_queue(server, "from-git")
    with ssh_server(tmp_path) as ssh:
        remote = f"{ssh.url}{repository.served}"
        options = [f"UserKnownHostsFile={ssh.known_hosts}", "GlobalKnownHostsFile=none", "BatchMode=yes"]
        command = ["ssh", "-F", "none", "-i", str(ssh.key_file), *(word for each in options for word in ("-o", each))]
        arguments = ["-p", PROJECT, "-n", "train", "-E", f"{sys.executable} sub/train.py"]
        run(server, "wandb", "job", "create", "git", remote, *arguments, GIT_SSH_COMMAND=shlex.join(command))
        git(repository.working, "mv", "sub/library.py", "library.py")
        second = repository.commit({"library.py": "VALUE = 2"})
        config = {
            "git": {"hosts": {"127.0.0.1": {"key_file": str(ssh.key_file)}}, "known_hosts": str(ssh.known_hosts)},
            "policy": {"git_hosts": ["127.0.0.1"]},
        }
        (tmp_path / "agent.yaml").write_text(json.dumps(config))
        with agent(server, "from-git", tmp_path / "state", "-c", str(tmp_path / "agent.yaml")):
            spec = {"job": f"admin/{PROJECT}/train:latest", "entity": "admin", "project": PROJECT}
            item_id = push(server, "from-git", {**spec, "overrides": {"args": ["--fast"]}})
            found = wait_for(server, item_id, "FINISHED", "FAILED")
            assert found["state"] == "FINISHED", logs(server, item_id)
    read = server.run_script(
        "import json, wandb\n"
        f"run = wandb.Api().run('admin/{PROJECT}/{found['associatedRunId']}')\n"
        "print(json.dumps([run.commit, run.metadata['git'], run.summary['value'], run.summary['arguments']]))\n"
    )
    assert read.returncode == 0, read.stderr
    commit, told, value, arguments_given = json.loads(read.stdout.splitlines()[-1])
    assert first != second
    assert (commit, told, value, arguments_given) == (first, {"remote": remote, "commit": first}, 1, 1)
    assert f'"commit": "{first}"' in (tmp_path / "state.log").read_text()
    assert len(list((tmp_path / "state" / "artifacts").glob("*/tree/sub/train.py"))) == 1
