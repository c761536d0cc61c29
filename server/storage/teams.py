"""Teams: their members, and invites of people who are not here yet."""

from sqlalchemy import Connection, delete, func, insert, select

from server.storage.rows import AnyRow
from server.storage.tables import entities, invites, members, users
from server.storage.upsert import upsert


def members_of(connection: Connection, entity_id: int) -> list[AnyRow]:
    """Return the users of an entity with their roles, people before service accounts, in the order of joining them."""
    return list(
        connection.execute(
            select(users, members.c.role)
            .join(members, members.c.user_id == users.c.id)
            .where(members.c.entity_id == entity_id, users.c.deleted_at.is_(None))
            .order_by(users.c.service_account, users.c.id)
        )
    )


def role_of(connection: Connection, entity_id: int, user_id: int) -> str | None:
    """Return a user's role in an entity; None for who is no member."""
    return connection.scalar(
        select(members.c.role).where(members.c.entity_id == entity_id, members.c.user_id == user_id)
    )


def lock_admins(connection: Connection, entity_id: int) -> None:
    """Let nobody else change who the admins are before this transaction is over.

    Their rows, and not the entity's: who waited for one that is gone by then looks again, from the beginning.
    """
    statement = select(members.c.user_id).where(members.c.entity_id == entity_id, members.c.role == "admin")
    connection.execute(statement.order_by(members.c.user_id).with_for_update())


def other_admins(connection: Connection, entity_id: int, user_id: int) -> int:
    """Return how many admins an entity has beside this one."""
    return (
        connection.scalar(
            select(func.count())
            .select_from(members)
            .where(members.c.entity_id == entity_id, members.c.role == "admin", members.c.user_id != user_id)
        )
        or 0
    )


def remove_member(connection: Connection, entity_id: int, user_id: int) -> bool:
    """End a membership; whether there was one."""
    result = connection.execute(delete(members).where(members.c.entity_id == entity_id, members.c.user_id == user_id))
    return result.rowcount > 0


def invite(connection: Connection, entity_id: int, email: str, role: str, user_id: int, now: float) -> int:
    """Keep an invite for who has this e-mail address one day; a second one replaces the first."""
    connection.execute(delete(invites).where(invites.c.entity_id == entity_id, invites.c.email == email.lower()))
    row = {"entity_id": entity_id, "email": email.lower(), "role": role, "created_by": user_id, "created_at": now}
    return connection.execute(insert(invites), row).inserted_primary_key[0]  # type: ignore[index]


def invites_of(connection: Connection, entity_id: int) -> list[AnyRow]:
    """Return an entity's open invites, oldest first."""
    return list(connection.execute(select(invites).where(invites.c.entity_id == entity_id).order_by(invites.c.id)))


def remove_invite(connection: Connection, entity_id: int, invite_id: int) -> bool:
    """Take an invite back; whether there was one."""
    result = connection.execute(delete(invites).where(invites.c.entity_id == entity_id, invites.c.id == invite_id))
    return result.rowcount > 0


def accept_invites(connection: Connection, user_id: int, email: str) -> None:
    """Make a new user a member wherever somebody with this e-mail address was invited."""
    rows = connection.execute(select(invites).where(invites.c.email == email.lower())).all()
    joined = [{"entity_id": row.entity_id, "user_id": user_id, "role": row.role} for row in rows]
    upsert(connection, members, joined, update=["role"])
    connection.execute(delete(invites).where(invites.c.email == email.lower()))


def is_user(connection: Connection, user_id: int) -> bool:
    """Whether there is a user of this row number."""
    statement = select(users.c.id).where(users.c.id == user_id, users.c.deleted_at.is_(None))
    return connection.scalar(statement) is not None


def is_team(connection: Connection, entity_id: int) -> bool:
    """Whether there is a team of this row number."""
    return (
        connection.scalar(select(entities.c.id).where(entities.c.id == entity_id, entities.c.kind == "team"))
        is not None
    )
