"""`launchbay user`: users of a server, made on the server's own machine."""

import asyncio
from pathlib import Path

import click
from sqlalchemy import Connection

from launchbay.commands.server import DATA_DIR
from server.resolvers.users import new_secret
from server.start import opened
from server.storage import users


@click.group()
def command() -> None:
    """Make users. Works on the data folder itself, also while the server runs."""


@command.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="The user may see and change everything.")
@click.option("--team", help="Make the user a member of this team; the team is made if it is missing.")
@click.option(
    "--data-dir",
    default=DATA_DIR,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The server's data folder.",
)
def create(name: str, admin: bool, team: str | None, data_dir: Path) -> None:
    """Make user NAME and print an API key. It is shown this once and stored only as a hash."""
    click.echo(asyncio.run(_create(name, admin, team, data_dir)))


async def _create(name: str, admin: bool, team: str | None, data_dir: Path) -> str:
    async with opened(data_dir) as services:
        secret = new_secret()

        def work(connection: Connection) -> None:
            now = services.clock()
            user_id = users.create_user(connection, name, now=now, admin=admin)
            users.create_key(connection, user_id, secret, now=now, description="made with the user")
            if team:
                known = users.entity_by_name(connection, team)
                team_id = known.id if known else users.create_entity(connection, team, "team", now)
                users.add_member(connection, team_id, user_id, "member" if known else "admin")

        await services.database.write(work)
        return secret
