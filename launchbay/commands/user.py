"""`launchbay user`: users of a server, made on the server's own machine."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import click
from sqlalchemy import Connection

from launchbay.commands.server import DATA_DIR, database_option
from launchbay.errors import NotThere
from server.database.opening import open_database
from server.errors import NotFound
from server.resolvers.users import new_secret
from server.start import ADMIN_KEY_FILE, SIGNING_FILE
from server.storage import users

data_dir_option = click.option(
    "--data-dir",
    default=DATA_DIR,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The server's data folder.",
)


@click.group()
def command() -> None:
    """Make users and keys. Works on the server's database itself, also while the server runs."""


@command.command()
@click.argument("name")
@click.option("--email", default="", help="The user's e-mail address; invites to it take effect.")
@click.option("--admin", is_flag=True, help="The user may see and change everything.")
@click.option("--team", help="Make the user a member of this team; the team is made if it is missing.")
@data_dir_option
@database_option
def create(name: str, email: str, admin: bool, team: str | None, data_dir: Path, database_url: str | None) -> None:
    """Make user NAME and print an API key. It is shown this once and stored only as a hash."""
    secret = new_secret()

    def work(connection: Connection, now: float) -> None:
        user_id = users.create_user(connection, name, now=now, email=email, admin=admin)
        users.create_key(connection, user_id, secret, now=now, description="made with the user")
        if team:
            known = users.entity_by_name(connection, team)
            team_id = known.id if known else users.create_entity(connection, team, "team", now)
            users.add_member(connection, team_id, user_id, "member" if known else "admin")

    asyncio.run(_write(data_dir, database_url, work))
    click.echo(secret)


@command.command()
@click.argument("name")
@data_dir_option
@database_option
def key(name: str, data_dir: Path, database_url: str | None) -> None:
    """Make another API key of user NAME and print it. It is shown this once and stored only as a hash."""
    secret = new_secret()

    def work(connection: Connection, now: float) -> None:
        row = users.user_by_name(connection, name)
        if row is None:
            raise NotFound(f"There is no user {name!r}. Make one: launchbay user create {name}")
        users.create_key(connection, row.id, secret, now=now, description="made on the server")

    asyncio.run(_write(data_dir, database_url, work))
    click.echo(secret)


def check_data_dir(data_dir: Path) -> None:
    """Raise `NotThere` unless a server was started on this data folder."""
    if not any((data_dir / name).exists() for name in (SIGNING_FILE, ADMIN_KEY_FILE)):
        raise NotThere(f"No server was ever started on {data_dir}. Name the data folder of yours: --data-dir FOLDER")


async def _write(data_dir: Path, database_url: str | None, work: Callable[[Connection, float], None]) -> None:
    check_data_dir(data_dir)
    database = await open_database(data_dir, database_url)
    try:
        await database.write(work, time.time())
    finally:
        await database.close()
