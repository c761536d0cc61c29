"""Users, their API keys, and the entities (own or team) that they are members of."""

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from server.context import Viewer
from server.errors import Conflict, NotFound
from server.storage.rows import AnyRow
from server.storage.tables import api_keys, entities, members, users


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
    taken = connection.scalar(select(entities.c.name).where(func.lower(entities.c.name) == name.lower()))
    if taken is not None:
        raise Conflict(f"The name {name!r} is taken by entity {taken!r}. Choose another.")
    return _inserted(connection, insert(entities).values(name=name, kind=kind, created_at=now))


def create_user(
    connection: Connection,
    username: str,
    *,
    now: float,
    email: str = "",
    admin: bool = False,
    service_account: bool = False,
) -> int:
    """Add a user with an entity of the same name."""
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


def delete_key(connection: Connection, key_id: int, user_id: int) -> bool:
    """Remove one of the user's keys; whether there was one."""
    result = connection.execute(delete(api_keys).where(api_keys.c.id == key_id, api_keys.c.user_id == user_id))
    return result.rowcount > 0


def add_member(connection: Connection, entity_id: int, user_id: int, role: str) -> None:
    """Make a user a member of an entity."""
    connection.execute(insert(members).values(entity_id=entity_id, user_id=user_id, role=role))


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
    )


def user_by_name(connection: Connection, username: str) -> AnyRow | None:
    """Return the row of a user by name."""
    return connection.execute(select(users).where(users.c.username == username, users.c.deleted_at.is_(None))).first()


def entity_by_name(connection: Connection, name: str) -> AnyRow | None:
    """Return the row of an entity."""
    return connection.execute(select(entities).where(entities.c.name == name)).first()


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
