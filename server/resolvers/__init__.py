"""One module per noun, thin over `server.storage`: they check who may, translate names, and shape rows for the SDL."""

from server.graphql import Resolvers
from server.resolvers import (
    agents,
    artifact_changes,
    artifact_collections,
    artifact_files,
    artifact_uploads,
    artifacts,
    files,
    history,
    items,
    polling,
    projects,
    pushes,
    queues,
    runs,
    sweep_agents,
    sweep_changes,
    sweeps,
    users,
)

ALL_RESOLVERS: list[Resolvers] = [
    users.resolvers,
    projects.resolvers,
    runs.resolvers,
    files.resolvers,
    history.resolvers,
    artifacts.resolvers,
    artifact_collections.resolvers,
    artifact_files.resolvers,
    artifact_uploads.resolvers,
    artifact_changes.resolvers,
    queues.resolvers,
    pushes.resolvers,
    items.resolvers,
    polling.resolvers,
    agents.resolvers,
    sweeps.resolvers,
    sweep_changes.resolvers,
    sweep_agents.resolvers,
]
