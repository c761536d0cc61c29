"""Users, their API keys, and the entities (own or team) that they are members of."""

import hashlib
import re
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from server.context import Viewer
from server.errors import Conflict, NotFound, RequestError
from server.storage import registries, teams
from server.storage.rows import AnyRow
from server.storage.tables import api_keys, artifact_contents, entities, members, projects, run_files, runs, users
from server.storage.upsert import upsert

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

# Made once, as every acknowledgement needs it.
_ENTITY_BY_NAME = select(entities).where(entities.c.name == bindparam("named"))


@dataclass(frozen=True, slots=True)
class NewKey:
    """An API key at the only moment when it is known."""

    id: int
    secret: str


def hash_key(secret: str) -> str:
    """Return what is stored of an API key. Keys are random and long, so a plain hash cannot be guessed back."""
    return hashlib.sha256(secret.encode()).hexdigest()


def redact(secret: str) -> str:
    """Return the form of a key that may be shown."""
    return f"{secret[:4]}...{secret[-4:]}"


def count(connection: Connection) -> int:
    """Return how many users there are."""
    return connection.scalar(select(func.count()).select_from(users)) or 0


def create_entity(connection: Connection, name: str, kind: str, now: float) -> int:
    """Add a user's own entity or a team. `Conflict` if the name is taken, in whatever case."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot be the name of a user or team: use 1 to 64 letters, digits, dashes, dots and underscores."
        )
    taken = connection.scalar(select(entities.c.name).where(entities.c.name_key == name.lower()))
    if taken is not None:
        raise Conflict(f"The name {name!r} is taken by entity {taken!r}. Choose another.")
    return _inserted(connection, insert(entities).values(name=name, name_key=name.lower(), kind=kind, created_at=now))


def create_user(
    connection: Connection,
    username: str,
    *,
    now: float,
    email: str = "",
    admin: bool = False,
    service_account: bool = False,
) -> int:
    """Add a user with an entity of the same name. `Conflict` if the name or the e-mail address is taken."""
    if email and user_by_email(connection, email) is not None:
        raise Conflict(f"There is a user with the e-mail address {email} already.")
    entity_id = create_entity(connection, username, "user", now)
    user_id = _inserted(
        connection,
        insert(users).values(
            username=username,
            name=username,
            email=email,
            admin=admin,
            service_account=service_account,
            entity_id=entity_id,
            default_entity_id=entity_id,
            created_at=now,
        ),
    )
    add_member(connection, entity_id, user_id, "admin")
    if email:
        teams.accept_invites(connection, user_id, email)
    return user_id


def create_key(connection: Connection, user_id: int, secret: str, *, now: float, description: str = "") -> NewKey:
    """Store a new API key of the user, hashed."""
    key_id = _inserted(
        connection,
        insert(api_keys).values(
            user_id=user_id, hash=hash_key(secret), redacted=redact(secret), description=description, created_at=now
        ),
    )
    return NewKey(key_id, secret)


def delete_key(connection: Connection, key_id: int, user_id: int | None) -> bool:
    """Remove a key, of this user if one is given; whether there was one."""
    statement = delete(api_keys).where(api_keys.c.id == key_id)
    if user_id is not None:
        statement = statement.where(api_keys.c.user_id == user_id)
    return connection.execute(statement).rowcount > 0


def add_member(connection: Connection, entity_id: int, user_id: int, role: str) -> None:
    """Make a user a member of an entity, or change his role."""
    upsert(connection, members, [{"entity_id": entity_id, "user_id": user_id, "role": role}], update=["role"])


def viewer_by_key(connection: Connection, secret: str) -> Viewer | None:
    """Return the user whose API key this is."""
    user_id = connection.scalar(
        select(users.c.id)
        .join(api_keys, api_keys.c.user_id == users.c.id)
        .where(api_keys.c.hash == hash_key(secret), users.c.deleted_at.is_(None))
    )
    return None if user_id is None else viewer_by_id(connection, user_id)


def viewer_by_id(connection: Connection, user_id: int) -> Viewer:
    """Return a user with all memberships."""
    user = connection.execute(select(users).where(users.c.id == user_id)).one()
    names = connection.execute(
        select(entities.c.id, entities.c.name)
        .join(members, members.c.entity_id == entities.c.id)
        .where(members.c.user_id == user_id)
    )
    by_id = {row.id: row.name for row in names}
    return Viewer(
        id=user.id,
        username=user.username,
        email=user.email,
        admin=user.admin,
        entity=by_id[user.default_entity_id],
        entities=frozenset(by_id.values()),
        service_account=user.service_account,
        registries=registries.roles_of(connection, user_id),
    )


def user_by_name(connection: Connection, username: str) -> AnyRow | None:
    """Return the row of a user by name. Service accounts are not found: what they are in never changes."""
    statement = select(users).where(users.c.username == username, users.c.deleted_at.is_(None))
    return connection.execute(statement.where(users.c.service_account.is_(False))).first()


def entity_by_name(connection: Connection, name: str) -> AnyRow | None:
    """Return the row of an entity."""
    return connection.execute(_ENTITY_BY_NAME, {"named": name}).first()


def entity_by_id(connection: Connection, entity_id: int) -> AnyRow | None:
    """Return the row of an entity by its number."""
    return connection.execute(select(entities).where(entities.c.id == entity_id)).first()


def entity_id(connection: Connection, name: str) -> int:
    """Return an entity's row number; `NotFound` if there is none of that name."""
    row = entity_by_name(connection, name)
    if row is None:
        raise NotFound(f"There is no entity {name!r}.")
    return row.id


def teams_of(connection: Connection, user_id: int) -> list[str]:
    """Return the names of the teams that a user is a member of."""
    rows = connection.scalars(
        select(entities.c.name)
        .join(members, members.c.entity_id == entities.c.id)
        .where(members.c.user_id == user_id, entities.c.kind == "team")
        .order_by(entities.c.name)
    )
    return list(rows)


def _inserted(connection: Connection, statement: object) -> int:
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[call-overload]


def keys_of(connection: Connection, user_id: int) -> list[AnyRow]:
    """Return what may be shown of a user's API keys, oldest first."""
    return list(connection.execute(select(api_keys).where(api_keys.c.user_id == user_id).order_by(api_keys.c.id)))


def user_by_id(connection: Connection, user_id: int) -> AnyRow:
    """Return the row of a user."""
    return connection.execute(select(users).where(users.c.id == user_id)).one()


def entity_name(connection: Connection, entity_id: int) -> str:
    """Return the name of an entity."""
    return connection.execute(select(entities.c.name).where(entities.c.id == entity_id)).scalar_one()


def is_taken(connection: Connection, name: str) -> bool:
    """Whether an entity has this name, in whatever case."""
    return connection.scalar(select(entities.c.id).where(entities.c.name_key == name.lower())) is not None


def user_by_email(connection: Connection, email: str) -> AnyRow | None:
    """Return the row of a user by e-mail address, without regard to case."""
    return connection.execute(
        select(users).where(func.lower(users.c.email) == email.lower(), users.c.deleted_at.is_(None))
    ).first()


def search(connection: Connection, query: str, within: frozenset[str] | None, limit: int) -> list[AnyRow]:
    """Return users whose name or e-mail address begins or ends with the query; only of these entities, if given."""
    pattern = query.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    columns = (func.lower(users.c.username), func.lower(users.c.email))
    matches = [column.like(shape, escape="\\") for column in columns for shape in (f"{pattern}%", f"%{pattern}")]
    statement = select(users).where(or_(*matches), users.c.deleted_at.is_(None), users.c.service_account.is_(False))
    if within is not None:
        fellows = select(members.c.user_id).join(entities, entities.c.id == members.c.entity_id)
        fellows = fellows.where(entities.c.name.in_(within))
        statement = statement.where(users.c.id.in_(fellows))
    return list(connection.execute(statement.order_by(users.c.username).limit(limit)))


def become_service_account(connection: Connection, user_id: int, team_id: int, description: str) -> None:
    """Let an account work for a team: that is where it is at home."""
    connection.execute(update(users).where(users.c.id == user_id).values(name=description, default_entity_id=team_id))


def retire(connection: Connection, user_id: int, now: float) -> None:
    """End a service account: its keys open nothing any more; what it has made stays."""
    connection.execute(delete(api_keys).where(api_keys.c.user_id == user_id))
    connection.execute(update(users).where(users.c.id == user_id).values(deleted_at=now))


def use_own_entity(connection: Connection, user_id: int, left_id: int) -> None:
    """Let a user's own entity be the default one, if it was the one that he leaves."""
    connection.execute(
        update(users)
        .where(users.c.id == user_id, users.c.default_entity_id == left_id)
        .values(default_entity_id=users.c.entity_id)
    )


def fellow(connection: Connection, account_id: int, username: str) -> AnyRow | None:
    """Return the user of that name if he is in a team of the service account."""
    own = select(members.c.entity_id).where(members.c.user_id == account_id)
    return connection.execute(
        select(users)
        .join(members, members.c.user_id == users.c.id)
        .where(members.c.entity_id.in_(own), users.c.username == username, users.c.deleted_at.is_(None))
    ).first()


def maker_of_project(connection: Connection, project_id: int) -> AnyRow | None:
    """Return the row of who made a project."""
    statement = select(users).join(projects, projects.c.created_by == users.c.id).where(projects.c.id == project_id)
    return connection.execute(statement).first()


def storage_bytes(connection: Connection, entity_id: int) -> int:
    """Return the size of an entity's files and artifacts; contents that artifacts share count once."""
    files = (
        select(func.sum(run_files.c.size_bytes))
        .join(runs, runs.c.id == run_files.c.run_id)
        .join(projects, projects.c.id == runs.c.project_id)
        .where(projects.c.entity_id == entity_id)
    )
    contents = select(func.sum(artifact_contents.c.size_bytes)).where(artifact_contents.c.entity_id == entity_id)
    return sum(int(connection.scalar(statement) or 0) for statement in (files, contents))
