"""The one SQL schema, for SQLite and PostgreSQL alike.

Times are seconds since the epoch, as floats, in UTC. JSON is kept as text, exactly as the client sent it, because
clients send tokens (bare `NaN`) that the JSON types of databases refuse.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite makes only INTEGER primary keys its row id.
_Id = BigInteger().with_variant(Integer, "sqlite")


def _id() -> Column[int]:
    return Column("id", _Id, primary_key=True, autoincrement=True)


def _ref(name: str, target: str, *, nullable: bool = False, index: bool = False) -> Column[int]:
    return Column(name, _Id, ForeignKey(target, ondelete="CASCADE"), nullable=nullable, index=index)


_Float: TypeEngine[float] = Double()


def _time(name: str, *, nullable: bool = True) -> Column[float]:
    return Column(name, _Float, nullable=nullable)


# --- who -------------------------------------------------------------------------------------------------------------

entities = Table(
    "entities",
    metadata,
    _id(),
    Column("name", String(128), nullable=False, unique=True),
    Column("name_key", String(128), unique=True),  # lower case: two names that differ by it alone would be a trap
    Column("kind", String(16), nullable=False),  # user | team | organization
    _time("created_at", nullable=False),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("username", String(128), nullable=False, unique=True),
    Column("name", String(256), nullable=False),
    Column("email", String(256), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("service_account", Boolean, nullable=False),
    _ref("entity_id", "entities.id"),  # the user's own entity
    _ref("default_entity_id", "entities.id"),
    _time("created_at", nullable=False),
    _time("deleted_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    _id(),
    _ref("user_id", "users.id", index=True),
    Column("hash", String(64), nullable=False, unique=True),  # SHA-256 of the whole key; keys are random, so no salt
    Column("redacted", String(64), nullable=False),
    Column("description", Text, nullable=False),
    _time("created_at", nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("entity_id", _Id, ForeignKey("entities.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", _Id, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", String(16), nullable=False),  # admin | member
)

invites = Table(
    "invites",
    metadata,
    _id(),
    _ref("entity_id", "entities.id"),
    Column("email", String(256), nullable=False, index=True),  # lower case
    Column("role", String(16), nullable=False),
    _ref("created_by", "users.id"),
    _time("created_at", nullable=False),
    UniqueConstraint("entity_id", "email"),
)

projects = Table(
    "projects",
    metadata,
    _id(),
    _ref("entity_id", "entities.id"),
    Column("name", String(128), nullable=False),
    Column("name_key", String(128), nullable=False),  # lower case: some agents lower-case project names
    Column("description", Text),
    Column("access", String(16), nullable=False),
    Column("any_artifact_type", Boolean, nullable=False),  # of registries; else those of its artifact types alone
    _ref("created_by", "users.id", nullable=True),
    _time("created_at", nullable=False),
    _time("updated_at"),
    UniqueConstraint("entity_id", "name_key"),
)

# Roles in registries, which are projects of the organization (storage.registries.Role).
registry_users = Table(
    "registry_users",
    metadata,
    Column("project_id", _Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", _Id, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", String(32), nullable=False),
)

registry_teams = Table(
    "registry_teams",
    metadata,
    Column("project_id", _Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("entity_id", _Id, ForeignKey("entities.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", String(32), nullable=False),
)

# --- runs ------------------------------------------------------------------------------------------------------------

runs = Table(
    "runs",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    Column("name", String(128), nullable=False),  # the run id that the client chose
    Column("display_name", Text, nullable=False),
    _ref("created_by", "users.id"),
    Column("tags", Text, nullable=False),  # JSON list of strings
    Column("group_name", Text),
    Column("job_type", Text),
    Column("notes", Text),
    Column("description", Text),
    Column("host", Text),
    Column("program", Text),
    Column("git_commit", Text),
    Column("git_repo", Text),
    Column("sweep", String(128)),
    # The facts from which `run_state.state_of` tells the run's state.
    _time("started_at"),  # first word from a client; null while only the queue knows of the run
    _time("heartbeat_at"),
    _time("ended_at"),
    Column("exit_code", Integer),
    Column("end_cause", String(16)),  # how somebody other than the run itself said that it ended: failed | killed | ...
    Column("preempting", Boolean, nullable=False),
    _time("stop_requested_at"),
    _time("deleted_at"),
    Column("history_lines", Integer, nullable=False),
    Column("event_lines", Integer, nullable=False),
    Column("log_lines", Integer, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    # Long texts stand last: SQLite reads its way through them to what is behind.
    Column("config", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("system_metrics", Text, nullable=False),
    UniqueConstraint("project_id", "name"),
)
Index(
    "ix_runs_project_id_created_at",
    runs.c.project_id,
    runs.c.created_at,
    sqlite_where=text("deleted_at IS NULL"),
    postgresql_where=text("deleted_at IS NULL"),
)
Index(
    "ix_runs_deleted_at",
    runs.c.deleted_at,
    sqlite_where=text("deleted_at IS NOT NULL"),
    postgresql_where=text("deleted_at IS NOT NULL"),
)

# The values in config, summary and tags, for what looks for runs: changed with those. See `storage.run_values`.
run_values = Table(
    "run_values",
    metadata,
    Column("run_id", _Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("place", SmallInteger, primary_key=True),  # run_values.Place
    Column("path", Text, primary_key=True),
    Column("element", SmallInteger, primary_key=True, autoincrement=False),  # of a list; 0 is the value itself
    _ref("project_id", "projects.id"),  # that of the run, for the indexes
    Column("kind", SmallInteger, nullable=False),  # run_values.Kind
    Column("number", _Float),  # of numbers and booleans
    Column("text", String(64)),  # the start of a text: an index on PostgreSQL cannot hold a long one
    Column("rest", Text),  # what comes behind that
    sqlite_with_rowid=False,
)
_of_path = (run_values.c.project_id, run_values.c.place, run_values.c.path)
Index("ix_run_values_number", *_of_path, run_values.c.kind, run_values.c.number, run_values.c.run_id)
Index("ix_run_values_text", *_of_path, run_values.c.text, run_values.c.run_id)

run_lines = Table(
    "run_lines",
    metadata,
    Column("run_id", _Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("stream", SmallInteger, primary_key=True),  # runs.Stream
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("step", BigInteger),  # of history lines
    Column("content", Text, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_run_lines_step", run_lines.c.run_id, run_lines.c.stream, run_lines.c.step)

run_writers = Table(
    "run_writers",
    metadata,
    Column("run_id", _Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("writer", String(128), primary_key=True),  # of a run in shared mode, by the client's id
    Column("stream", SmallInteger, primary_key=True),
    Column("lines", Integer, nullable=False),  # of its own, that have come
    sqlite_with_rowid=False,
)

run_files = Table(
    "run_files",
    metadata,
    _id(),
    _ref("run_id", "runs.id"),
    Column("name", Text, nullable=False),
    Column("object_key", Text, nullable=False, index=True),
    Column("size_bytes", BigInteger),  # null until the upload has arrived
    Column("md5", String(32)),  # base64
    _time("updated_at", nullable=False),
    UniqueConstraint("run_id", "name"),
)

# --- views -----------------------------------------------------------------------------------------------------------

views = Table(
    "views",
    metadata,
    _id(),
    _ref("project_id", "projects.id", index=True),
    Column("kind", Text, nullable=False),  # runs: a report | runs/draft | project-view: a workspace
    Column("name", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    _ref("created_by", "users.id"),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    Column("spec", Text, nullable=False),  # JSON text that only clients read
)

charts = Table(
    "charts",
    metadata,
    Column("entity_id", _Id, ForeignKey("entities.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("kind", Text, nullable=False),  # vega2
    Column("access", String(16), nullable=False),  # PRIVATE: of the entity's members | PUBLIC: of everybody
    Column("spec", Text, nullable=False),  # JSON text that only clients read
)

# --- artifacts -------------------------------------------------------------------------------------------------------

artifact_types = Table(
    "artifact_types",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    Column("name", String(128), nullable=False),
    Column("description", Text),
    _time("created_at", nullable=False),
    UniqueConstraint("project_id", "name"),
)

artifact_collections = Table(
    "artifact_collections",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    _ref("type_id", "artifact_types.id", index=True),
    Column("kind", String(32), nullable=False),  # ArtifactSequence | ArtifactPortfolio
    Column("name", String(256), nullable=False),
    Column("description", Text),
    Column("next_version", Integer, nullable=False),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    _time("deleted_at"),
)
Index(
    "uq_artifact_collections_project_id_name",
    artifact_collections.c.project_id,
    artifact_collections.c.name,
    unique=True,
    sqlite_where=text("deleted_at IS NULL"),
    postgresql_where=text("deleted_at IS NULL"),
)

artifacts = Table(
    "artifacts",
    metadata,
    _id(),
    _ref("sequence_id", "artifact_collections.id"),
    Column("state", String(16), nullable=False),  # PENDING | COMMITTED | DELETED
    Column("digest", String(64), nullable=False),
    Column("description", Text),
    Column("metadata", Text),  # JSON text, as the client sent it
    Column("metadata_json", Text),  # the same as every database reads it, for filters
    Column("distributed_id", String(256)),
    _ref("created_by_run", "runs.id", nullable=True),
    _ref("created_by", "users.id", nullable=True),
    Column("history_step", BigInteger),
    Column("ttl_seconds", BigInteger),
    Column("requested_aliases", Text, nullable=False),  # JSON list, applied at commit
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_count", Integer, nullable=False),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
)
Index("ix_artifacts_sequence_id_digest", artifacts.c.sequence_id, artifacts.c.digest)
Index(
    "ix_artifacts_ttl_seconds",
    artifacts.c.ttl_seconds,
    sqlite_where=text("ttl_seconds > 0 AND state = 'COMMITTED'"),
    postgresql_where=text("ttl_seconds > 0 AND state = 'COMMITTED'"),
)

Index(
    "ix_artifacts_state",
    artifacts.c.state,
    artifacts.c.updated_at,
    sqlite_where=text("state <> 'COMMITTED'"),
    postgresql_where=text("state <> 'COMMITTED'"),
)

artifact_client_ids = Table(
    "artifact_client_ids",
    metadata,
    Column("client_id", String(256), primary_key=True),  # made by the client; several may stand for one version
    _ref("artifact_id", "artifacts.id", index=True),
    Column("sequence_client_id", String(256), index=True),  # its name for the version's collection
    sqlite_with_rowid=False,
)

artifact_memberships = Table(
    "artifact_memberships",
    metadata,
    _id(),
    _ref("collection_id", "artifact_collections.id"),
    _ref("artifact_id", "artifacts.id", index=True),
    Column("version_index", Integer, nullable=False),
    _time("created_at", nullable=False),
    UniqueConstraint("collection_id", "version_index"),
    UniqueConstraint("collection_id", "artifact_id"),
)

artifact_aliases = Table(
    "artifact_aliases",
    metadata,
    _id(),
    _ref("collection_id", "artifact_collections.id"),
    _ref("membership_id", "artifact_memberships.id", index=True),
    Column("alias", String(128), nullable=False),
    UniqueConstraint("collection_id", "alias"),
)

artifact_tags = Table(
    "artifact_tags",
    metadata,
    Column("artifact_id", _Id, ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    sqlite_with_rowid=False,
)

artifact_collection_tags = Table(
    "artifact_collection_tags",
    metadata,
    Column("collection_id", _Id, ForeignKey("artifact_collections.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    sqlite_with_rowid=False,
)

artifact_manifests = Table(
    "artifact_manifests",
    metadata,
    _id(),
    _ref("artifact_id", "artifacts.id", index=True),
    Column("name", Text, nullable=False),
    Column("kind", String(16), nullable=False),  # FULL | INCREMENTAL | PATCH
    Column("digest", String(64), nullable=False),
    _ref("base_artifact_id", "artifacts.id", nullable=True),
    Column("object_key", Text, nullable=False),
    _time("created_at", nullable=False),
)

artifact_entries = Table(
    "artifact_entries",
    metadata,
    Column("artifact_id", _Id, ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(1024), primary_key=True),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("ref", Text),  # of references, which have no content here
    sqlite_with_rowid=False,
)
Index(
    "ix_artifact_entries_digest",
    artifact_entries.c.digest,
    sqlite_where=text("ref IS NULL"),
    postgresql_where=text("ref IS NULL"),
)

artifact_contents = Table(
    "artifact_contents",
    metadata,
    Column("entity_id", _Id, ForeignKey("entities.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", String(64), primary_key=True),  # base64 MD5; content is shared inside one entity only
    Column("object_key", Text, nullable=False, index=True),
    _ref("birth_artifact_id", "artifacts.id"),
    Column("size_bytes", BigInteger),  # null until somebody has looked and found it
    _time("unused_since"),  # when no version was found to need it; null as soon as one wants it
    sqlite_with_rowid=False,
)
Index(
    "ix_artifact_contents_unused_since",
    artifact_contents.c.unused_since,
    sqlite_where=text("unused_since IS NOT NULL"),
    postgresql_where=text("unused_since IS NOT NULL"),
)

run_artifacts = Table(
    "run_artifacts",
    metadata,
    Column("run_id", _Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("artifact_id", _Id, ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", String(8), primary_key=True),  # input | output
    Column("used_as", Text),
    _time("created_at", nullable=False),
    sqlite_with_rowid=False,
)

# Objects that nothing refers to any more, and that are still to be removed from the store.
discarded_objects = Table(
    "discarded_objects",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),  # as far as it is known
    _time("discarded_at", nullable=False),
    sqlite_with_rowid=False,
)

# --- launch ----------------------------------------------------------------------------------------------------------

resource_configs = Table(
    "resource_configs",
    metadata,
    _id(),
    _ref("entity_id", "entities.id"),
    Column("resource", String(64), nullable=False),
    Column("config", Text, nullable=False),  # JSON: {"resource_args": {<resource>: {...}}}
    Column("template_variables", Text, nullable=False),  # JSON: {<name>: {"schema": {...}}}
    _time("created_at", nullable=False),
)

run_queues = Table(
    "run_queues",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    Column("name", String(64), nullable=False),
    Column("access", String(16), nullable=False),
    Column("prioritization_mode", String(16), nullable=False),  # DISABLED | V0
    _ref("resource_config_id", "resource_configs.id", nullable=True),
    Column("external_links", Text, nullable=False),
    _ref("created_by", "users.id"),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    UniqueConstraint("project_id", "name"),
)

launch_agents = Table(
    "launch_agents",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    Column("name", String(63), nullable=False, unique=True),
    Column("hostname", Text, nullable=False),
    Column("queues", Text, nullable=False),  # JSON list of queue ids as on the wire
    Column("status", String(16), nullable=False),  # POLLING | RUNNING | KILLED
    Column("config", Text, nullable=False),
    Column("version", Text),
    Column("stop_polling", Boolean, nullable=False),
    _ref("created_by", "users.id"),
    _time("heartbeat_at", nullable=False),
    _time("created_at", nullable=False),
)

run_queue_items = Table(
    "run_queue_items",
    metadata,
    _id(),
    _ref("queue_id", "run_queues.id"),
    Column("state", String(16), nullable=False),  # PENDING | LEASED | CLAIMED | an end (protocol.states.ItemState)
    Column("priority", SmallInteger, nullable=False),
    Column("launch_spec", Text, nullable=False),
    Column("spec_digest", String(64), nullable=False),  # of a push by name that may come again by id, else empty
    _ref("created_by", "users.id"),
    _ref("agent_id", "launch_agents.id", nullable=True, index=True),  # holder of the lease or the claim, or the last
    _time("lease_expires_at"),
    Column("run_name", String(128)),
    _ref("run_id", "runs.id", nullable=True, index=True),
    Column("status", String(32)),  # how far the agent says it is
    Column("status_message", Text),
    Column("exit_code", Integer),
    Column("error", Text),  # JSON: message, stage, filePaths
    Column("warnings", Text, nullable=False),  # JSON list of the same
    _time("stop_requested_at"),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    _time("claimed_at"),
    _time("ended_at"),
    sqlite_autoincrement=True,  # launches are named after items: no id comes again
)
# The claim takes the first row of this index: its cost does not grow with the queue.
Index(
    "ix_run_queue_items_pending",
    run_queue_items.c.queue_id,
    run_queue_items.c.priority,
    run_queue_items.c.id,
    sqlite_where=text("state = 'PENDING'"),
    postgresql_where=text("state = 'PENDING'"),
)
Index(
    "ix_run_queue_items_leased",
    run_queue_items.c.queue_id,
    run_queue_items.c.lease_expires_at,
    sqlite_where=text("state = 'LEASED'"),
    postgresql_where=text("state = 'LEASED'"),
)
Index(
    "ix_run_queue_items_claimed",
    run_queue_items.c.queue_id,
    run_queue_items.c.agent_id,
    sqlite_where=text("state = 'CLAIMED'"),
    postgresql_where=text("state = 'CLAIMED'"),
)
Index("ix_run_queue_items_queue_id_id", run_queue_items.c.queue_id, run_queue_items.c.id)
Index(
    "ix_run_queue_items_spec_digest",
    run_queue_items.c.spec_digest,
    sqlite_where=text("spec_digest <> ''"),
    postgresql_where=text("spec_digest <> ''"),
)

item_log_chunks = Table(
    "item_log_chunks",
    metadata,
    Column("item_id", _Id, ForeignKey("run_queue_items.id", ondelete="CASCADE"), primary_key=True),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),  # in bytes, of the first byte
    Column("content", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# --- sweeps ----------------------------------------------------------------------------------------------------------

sweeps = Table(
    "sweeps",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    Column("name", String(16), nullable=False),  # the short id in URLs; `runs.sweep` holds it
    Column("display_name", Text),
    Column("description", Text),
    Column("state", String(16), nullable=False),  # sweep_states.SweepState
    Column("method", String(16), nullable=False),
    Column("config", Text, nullable=False),  # YAML, as it was sent
    Column("version", Integer, nullable=False),  # changes with whatever makes a suggestion void
    Column("controller", Text),  # JSON, kept for a local controller
    Column("scheduler", Text),  # JSON: what a launch scheduler was queued with, or what a client left here
    Column("launched", Boolean, nullable=False),  # its runs go through a queue, by a scheduler
    Column("scheduler_item_id", _Id, ForeignKey("run_queue_items.id", ondelete="SET NULL"), index=True),
    Column("prior_runs", Text),  # JSON: a filter of runs from which it learns though they are not its own
    _ref("created_by", "users.id"),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    UniqueConstraint("project_id", "name"),
)

sweep_agents = Table(
    "sweep_agents",
    metadata,
    _id(),
    _ref("sweep_id", "sweeps.id", index=True),
    Column("name", String(16), nullable=False, unique=True),
    Column("host", Text, nullable=False),
    Column("busy", Boolean, nullable=False),  # its last heartbeat told of a run that is alive
    Column("dismissed", Boolean, nullable=False),  # it was told to exit
    _ref("created_by", "users.id"),
    _time("heartbeat_at", nullable=False),
    _time("created_at", nullable=False),
)

# Runs that the sweep has made for its agents. A run can belong to a sweep without: its user said so.
sweep_runs = Table(
    "sweep_runs",
    metadata,
    Column("run_id", _Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    _ref("sweep_id", "sweeps.id", index=True),
    _ref("agent_id", "sweep_agents.id", nullable=True, index=True),  # null: the next one that asks gets it
    Column("enqueued", Boolean, nullable=False),  # somebody asked for it, not the search
    Column("args", Text, nullable=False),  # JSON: {<parameter>: {"value": ...}}
    Column("hand_outs", Integer, nullable=False),  # since anybody has started it
    Column("taken", Boolean, nullable=False),  # the agent has told of it
)
Index(
    "ix_runs_project_id_sweep",
    runs.c.project_id,
    runs.c.sweep,
    sqlite_where=text("sweep IS NOT NULL"),
    postgresql_where=text("sweep IS NOT NULL"),
)

# --- automations -----------------------------------------------------------------------------------------------------

integrations = Table(
    "integrations",
    metadata,
    _id(),
    _ref("entity_id", "entities.id"),
    Column("kind", String(16), nullable=False),  # webhook | slack
    Column("name", String(64), nullable=False),
    Column("url", Text, nullable=False),  # that of Slack is a secret
    Column("access_token", Text),
    Column("secret", Text),
    Column("gets_alerts", Boolean, nullable=False),
    Column("reaches_all", Boolean, nullable=False),  # else addresses of the public internet alone
    _ref("created_by", "users.id"),
    _time("created_at", nullable=False),
    UniqueConstraint("entity_id", "name"),
)

# Where one acts: in a collection, else in a project, else wherever its entity owns the project.
automations = Table(
    "automations",
    metadata,
    _id(),
    _ref("entity_id", "entities.id"),
    _ref("project_id", "projects.id", nullable=True, index=True),
    _ref("collection_id", "artifact_collections.id", nullable=True, index=True),
    Column("name", String(255), nullable=False),
    Column("description", Text),
    Column("enabled", Boolean, nullable=False),
    Column("event_type", String(32), nullable=False),  # automations.events.EventType
    Column("filter", Text, nullable=False),  # JSON, as it was sent
    Column("action_type", String(32), nullable=False),  # automations.actions.ActionType
    Column("action", Text, nullable=False),  # JSON: what is sent
    _ref("integration_id", "integrations.id", nullable=True, index=True),
    _ref("created_by", "users.id"),  # or who has said last where it sends: with his rights it does
    _time("created_at", nullable=False),
    _time("updated_at"),
    UniqueConstraint("entity_id", "name"),
)

# Runs about which an automation may have something to say yet.
watched_runs = Table(
    "watched_runs",
    metadata,
    Column("run_id", _Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),  # changes with whatever makes a look at the run void
    Column("told", String(16)),  # the state of which those who wait for one were told last
    Column("lines_read", Integer, nullable=False),  # of its history
    Column("metrics", Text, nullable=False),  # JSON, by automation: automations.metrics.Seen
)

run_alerts = Table(
    "run_alerts",
    metadata,
    _id(),
    _ref("run_id", "runs.id", index=True),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("severity", String(8), nullable=False),  # INFO | WARN | ERROR
    _time("created_at", nullable=False),
)

# What automations did and have to do, and alerts on their way.
deliveries = Table(
    "deliveries",
    metadata,
    _id(),
    _ref("entity_id", "entities.id", index=True),
    _ref("automation_id", "automations.id", nullable=True, index=True),  # null of alerts
    _ref("integration_id", "integrations.id", nullable=True, index=True),  # null if nothing is sent
    Column("event_type", String(32), nullable=False),
    Column("variables", Text, nullable=False),  # JSON: what is known of the event
    Column("state", String(16), nullable=False),  # WAITING | DONE | FAILED
    Column("attempts", Integer, nullable=False),
    Column("answer", Text),  # to the last attempt
    _time("due_at", nullable=False),  # while an attempt goes on: when nobody will hear of it any more
    _time("created_at", nullable=False),
    _time("ended_at"),
)
Index(
    "ix_deliveries_due_at",
    deliveries.c.due_at,
    sqlite_where=text("state = 'WAITING'"),
    postgresql_where=text("state = 'WAITING'"),
)
