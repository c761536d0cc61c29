"""`launchbay team`: teams, who is in them, and their service accounts."""

from collections.abc import Mapping
from typing import Any

import click

from agent.control_plane import ControlPlane
from launchbay.errors import NotThere
from launchbay.output import json_option, print_json, print_table
from launchbay.wire import with_server


@click.group()
def command() -> None:
    """Make teams, and say who is in them. A team owns queues, jobs and runs like a user does."""


@command.command()
@click.argument("team")
@click.option("--admin", help="Who is its admin; an admin of the server may name somebody else. Default: you.")
def create(team: str, admin: str | None) -> None:
    """Make TEAM."""

    async def work(server: ControlPlane) -> None:
        await server.ask(
            """mutation CreateTeam($team: String!, $admin: String) {
                 createTeam(input: {teamName: $team, teamAdminUserName: $admin}) { entity { id } }
               }""",
            team=team,
            admin=admin,
        )

    with_server(work)
    click.echo(f"Team {team} is made. Invite somebody: launchbay team invite {team} USER")


@command.command("list")
@json_option
def list_teams(as_json: bool) -> None:
    """List your teams."""

    async def work(server: ControlPlane) -> list[str]:
        data = await server.ask("query Viewer { viewer { teams { edges { node { name } } } } }")
        return [edge["node"]["name"] for edge in data["viewer"]["teams"]["edges"]]

    teams = with_server(work)
    if as_json:
        print_json(teams)
    else:
        print_table(("TEAM",), [(team,) for team in teams], empty="No teams. Make one: launchbay team create TEAM")


@command.command()
@click.argument("team")
@json_option
def members(team: str, as_json: bool) -> None:
    """List who is in TEAM, and who is invited."""

    async def work(server: ControlPlane) -> list[Mapping[str, Any]]:
        return await _members(server, team)

    found = with_server(work)
    if as_json:
        print_json(found)
        return
    rows = [(one["username"] or "-", one["name"], one["email"] or "-", one["role"], _kind(one)) for one in found]
    print_table(("USER", "NAME", "E-MAIL", "ROLE", "KIND"), rows, empty="Nobody.")


@command.command()
@click.argument("team")
@click.argument("who", metavar="USER|EMAIL")
@click.option("--admin", is_flag=True, help="As an admin of the team.")
def invite(team: str, who: str, admin: bool) -> None:
    """Make a user a member of TEAM, or change their role.

    No mail is sent: a user who is here is a member at once, and somebody else as soon as there is a user with that
    e-mail address.
    """

    async def work(server: ControlPlane) -> Mapping[str, Any]:
        data = await server.ask(
            """mutation CreateInvite($team: String!, $username: String, $email: String, $admin: Boolean) {
                 createInvite(input: {entityName: $team, username: $username, email: $email, admin: $admin}) {
                   invite { toUser { username } }
                 }
               }""",
            team=team,
            admin=admin,
            **{"email" if "@" in who else "username": who},
        )
        return data["createInvite"]["invite"]

    joined = with_server(work)["toUser"]
    click.echo(f"{joined['username']} is a member of {team}." if joined else f"{who} will be a member of {team}.")


@command.command()
@click.argument("team")
@click.argument("who", metavar="USER|EMAIL")
def remove(team: str, who: str) -> None:
    """Take a member or an invite out of TEAM."""

    async def work(server: ControlPlane) -> None:
        found = [one["id"] for one in await _members(server, team) if who in {one["username"], one["email"]}]
        if not found:
            raise NotThere(f"{who!r} is not in team {team!r}. See who is: launchbay team members {team}")
        await server.ask(
            """mutation DeleteInvite($id: String, $team: String) {
                 deleteInvite(input: {id: $id, entityName: $team}) { success }
               }""",
            id=found[0],
            team=team,
        )

    with_server(work)
    click.echo(f"{who} is not in {team} any more.")


@command.command("service-account")
@click.argument("team")
@click.argument("description")
def service_account(team: str, description: str) -> None:
    """Make a service account of TEAM and print its API key. It is shown this once and stored only as a hash."""

    async def work(server: ControlPlane) -> str:
        data = await server.ask(
            """mutation CreateServiceAccount($team: String!, $description: String!) {
                 createServiceAccount(input: {entityName: $team, description: $description}) { apiKey { name } }
               }""",
            team=team,
            description=description,
        )
        return str(data["createServiceAccount"]["apiKey"]["name"])

    click.echo(with_server(work))


async def _members(server: ControlPlane, team: str) -> list[Mapping[str, Any]]:
    data = await server.ask(
        """query Members($team: String!) {
             entity(name: $team) { isTeam members { id username name email role pending accountType } }
           }""",
        team=team,
    )
    if data["entity"] is None or not data["entity"]["isTeam"]:
        raise NotThere(f"There is no team {team!r}, or you are not in it. See yours: launchbay team list")
    return data["entity"]["members"]


def _kind(member: Mapping[str, Any]) -> str:
    if member["pending"]:
        return "invited"
    return "service account" if member["accountType"] == "SERVICE" else "person"
