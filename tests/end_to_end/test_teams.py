"""Teams, users and service accounts with the stock client, and from the command line."""

import json
import re
from typing import Any
from uuid import uuid4

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import run
from tests.end_to_end.snippets.checks import shows

MAKE = """
import json, sys, wandb
team_name, email = sys.argv[1:]
api = wandb.Api()
team = api.create_team(team_name)
user = api.create_user(email)
invited = team.invite(user.username)
waiting = team.invite("nobody-yet-" + email)
account = team.create_service_account("nightly")
team.load(force=True)
members = {one.name: [one.account_type, one.pending] for one in team.members}
print(json.dumps({
    "key": account.api_key, "account": account.name, "members": members, "user": user.username,
    "invited": [invited, waiting], "found": api.user(email).username, "many": len(api.users(email)),
    "viewer": [api.viewer.username, team_name in wandb.Api().viewer.teams, api.default_entity],
}))
"""
KEYS = """
import json, wandb
viewer = wandb.Api().viewer
key = viewer.generate_api_key("from a test")
listed = len(wandb.Api().viewer.api_keys)
viewer = wandb.Api().viewer
shown = viewer.api_keys[-1]
print(json.dumps({"made": bool(key), "listed": listed, "secret": key == shown, "gone": viewer.delete_api_key(shown)}))
"""
LOG = """
import sys, wandb
with wandb.init(entity=sys.argv[1], project="shared", id="by-machine") as run:
    run.log({"value": 1})
"""
READ = """
import json, sys, wandb
api = wandb.Api()
run = api.run(f"{sys.argv[1]}/shared/by-machine")
print(json.dumps([run.user.username, run.state, [project.name for project in api.projects(sys.argv[1])]]))
"""
PROJECTS = """
import json, sys, wandb
team = sys.argv[1]
api = wandb.Api()
for name in ("alpha", "beta"):
    api.create_project(name, team)
with wandb.init(entity=team, project="written") as run:
    run.log({"value": 1})
project = api.project("alpha", team)

def error(ask):
    try:
        ask()
    except Exception as problem:
        return type(problem).__name__

print(json.dumps({
    "listed": [one.name for one in api.projects(team, per_page=1)],
    "found": [project.name, project.entity, project.owner.username] if project.id else None,
    "stored": wandb.Api().team(team).storage_bytes > 0,
    "missing": error(lambda: api.project("never", team).id),
}))
"""
STRANGER = """
import json, sys, wandb
api = wandb.Api()
seen = {}
for what, ask in {
    "run": lambda: api.run(f"{sys.argv[1]}/shared/by-machine").state,
    "runs": lambda: len(api.runs(f"{sys.argv[1]}/shared")),
    "queue": lambda: api.run_queue(sys.argv[1], "q").id,
    "make": lambda: api.create_run_queue("q2", "local-process", entity=sys.argv[1]).id,
}.items():
    try:
        seen[what] = ask()
    except Exception as error:
        seen[what] = f"{type(error).__name__}: {error}"
print(json.dumps(seen))
"""


def _said(done: Any) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@shows(
    "Api.create_team",
    "Api.create_user",
    "Team.invite",
    "Team.create_service_account",
    "Team.load",
    "Api.user",
    "Api.users",
    "Api.viewer",
    "User.teams",
    "Api.default_entity",
)
def test_a_team_its_members_and_its_machine(server: LiveServer) -> None:
    team = f"team-{uuid4().hex[:6]}"
    email = f"{uuid4().hex[:8]}@example.com"
    made = _said(server.run_script(MAKE, team, email))
    user = made["user"]
    assert made["invited"] == [True, True]
    assert made["members"] == {
        "admin": ["MEMBER", False],
        user: ["MEMBER", False],
        f"nobody-yet-{email}": ["MEMBER", True],
        "nightly": ["SERVICE", False],
    }
    assert (made["account"], len(made["key"])) == ("nightly", 40)
    assert (made["found"], made["many"], made["viewer"]) == (user, 1, ["admin", True, "admin"])

    # The machine logs for the member, with its own rights.
    for_member = {"WANDB_API_KEY": made["key"], "WANDB_USERNAME": user}
    logged = server.run_script(LOG, team, **for_member)
    assert logged.returncode == 0, logged.stderr
    assert _said(server.run_script(READ, team, WANDB_API_KEY=made["key"])) == [user, "finished", ["shared"]]

    shown = json.loads(run(server, "launchbay", "team", "members", team, "--json").stdout)
    assert [one["name"] for one in shown][-1] == "nightly"
    assert team in run(server, "launchbay", "team", "list").stdout
    assert "is not in" in run(server, "launchbay", "team", "remove", team, user).stdout
    gone = run(server, "launchbay", "team", "remove", team, user, check=False)
    assert gone.returncode == 5
    assert "is not in team" in gone.stderr


@shows("Api.create_project", "Api.project", "Api.projects", "Project.owner", "Project.id", "Api.team")
def test_projects_of_a_team(server: LiveServer) -> None:
    team = f"team-{uuid4().hex[:6]}"
    run(server, "launchbay", "team", "create", team)
    assert _said(server.run_script(PROJECTS, team)) == {
        "listed": ["alpha", "beta", "written"],
        "found": ["alpha", team, "admin"],
        "stored": True,
        "missing": "ValueError",
    }


def test_people_come_and_go_by_the_command_line(server: LiveServer) -> None:
    team, email = f"team-{uuid4().hex[:6]}", f"{uuid4().hex[:8]}@example.com"
    assert f"Team {team} is made." in run(server, "launchbay", "team", "create", team).stdout
    taken = run(server, "launchbay", "team", "create", team.upper(), check=False)
    assert (taken.returncode, "is taken by entity" in taken.stderr) == (6, True)
    assert run(server, "launchbay", "team", "invite", team, email).stdout == f"{email} will be a member of {team}.\n"
    invited = run(server, "launchbay", "team", "members", team).stdout
    assert re.search(rf"{email} +{email} +member +invited", invited), invited
    user = _said(
        server.run_script(f"import json, wandb; print(json.dumps(wandb.Api().create_user({email!r}).username))")
    )
    promoted = run(server, "launchbay", "team", "invite", team, user, "--admin")
    assert promoted.stdout == f"{user} is a member of {team}.\n"
    shown = json.loads(run(server, "launchbay", "team", "members", team, "--json").stdout)
    assert {one["username"]: one["role"] for one in shown} == {"admin": "admin", user: "admin"}
    unknown = run(server, "launchbay", "team", "invite", team, "nobody-at-all", check=False)
    assert (unknown.returncode, "There is no user 'nobody-at-all'" in unknown.stderr) == (5, True)
    run(server, "launchbay", "team", "remove", team, email)
    assert user not in run(server, "launchbay", "team", "members", team).stdout
    last = run(server, "launchbay", "team", "remove", team, "admin", check=False)
    assert (last.returncode, "would have no admin" in last.stderr) == (6, True)
    none = run(server, "launchbay", "team", "members", "no-such-team", check=False)
    assert (none.returncode, "There is no team 'no-such-team'" in none.stderr) == (5, True)


def test_a_stranger_learns_nothing(server: LiveServer) -> None:
    team, other = f"team-{uuid4().hex[:6]}", f"team-{uuid4().hex[:6]}"
    for name in (team, other):
        run(server, "launchbay", "team", "create", name)
    run(server, "launchbay", "queue", "create", "q", "-e", team)
    inside = run(server, "launchbay", "team", "service-account", team, "inside").stdout.strip()
    outside = run(server, "launchbay", "team", "service-account", other, "outside").stdout.strip()
    assert server.run_script(LOG, team, WANDB_API_KEY=inside).returncode == 0
    real = _said(server.run_script(STRANGER, team, WANDB_API_KEY=outside, WANDB_ENTITY=other))
    missing = _said(server.run_script(STRANGER, "team-none", WANDB_API_KEY=outside, WANDB_ENTITY=other))
    assert all("Error" in text for text in real.values()), real
    assert {what: text.replace(team, "T") for what, text in real.items()} == {
        what: text.replace("team-none", "T") for what, text in missing.items()
    }


def test_a_teams_queue_takes_from_its_members_only(server: LiveServer) -> None:
    team, other = f"team-{uuid4().hex[:6]}", f"team-{uuid4().hex[:6]}"
    for name in (team, other):
        run(server, "launchbay", "team", "create", name)
    run(server, "launchbay", "queue", "create", "q", "-e", team, "-r", "local-container")
    launch = ("wandb", "launch", "-e", team, "-p", "p", "-q", "q", "-d", "busybox")
    for owner, works in ((team, True), (other, False)):
        key = run(server, "launchbay", "team", "service-account", owner, "pusher").stdout.strip()
        done = run(server, *launch, check=False, WANDB_API_KEY=key)
        assert (done.returncode == 0) == works, done.stdout + done.stderr
        if not works:  # the newest client says it in its own words
            assert re.search("is not a member of entity|check that you have access", done.stdout + done.stderr)
    items = f"import wandb; print(len(wandb.Api().run_queue({team!r}, 'q').items))"
    assert _said(server.run_script(items)) == 1


@shows("User.generate_api_key", "User.delete_api_key", "User.api_keys")
@pytest.mark.newest_client(reason="older clients take a listed key for the key itself")
def test_keys_are_made_listed_in_part_and_taken_back(server: LiveServer) -> None:
    assert _said(server.run_script(KEYS)) == {"made": True, "listed": 2, "secret": False, "gone": True}
