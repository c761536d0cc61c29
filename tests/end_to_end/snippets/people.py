"""An organization, its teams and its people."""

import wandb
from wandb.apis.public import Team, User

from tests.end_to_end.snippets.checks import differs, shows


@shows("Api.organization")
def look_up_the_organization() -> None:
    found = wandb.Api().organization()
    assert (found.name, found.org_entity.name) == ("launchbay", "launchbay")
    assert wandb.Api().organization("launchbay").id == found.id


@shows("Team.create", "User.create", "Member.delete")
def create_a_team_invite_and_remove_a_member() -> None:
    api = wandb.Api()
    team = Team.create(api, "leavers")
    user = User.create(api, "leaver@example.com")
    team.invite(user.username)
    (member,) = [each for each in wandb.Api().team("leavers").members if each.username == user.username]
    assert member.delete()
    assert [each.username for each in wandb.Api().team("leavers").members] == ["admin"]


@shows("User.user_api")
def use_the_api_as_the_viewer() -> None:
    mine = wandb.Api().viewer.user_api
    assert mine is not None
    assert mine.viewer.username == "admin"


@differs("User.user_api", "of another user, it has the key of who asked")
def use_the_api_as_another_user() -> None:
    theirs = wandb.Api().create_user("other@example.com").user_api
    assert theirs is not None
    assert theirs.viewer.username == "admin"
