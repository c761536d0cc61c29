"""One module per noun, thin over `server.storage`: they check who may, translate names, and shape rows for the SDL."""

from server.graphql import Resolvers
from server.resolvers import agents, artifact_changes, artifacts, files, history, items, projects, queues, runs, users

ALL_RESOLVERS: list[Resolvers] = [
    users.resolvers,
    projects.resolvers,
    runs.resolvers,
    files.resolvers,
    history.resolvers,
    artifacts.resolvers,
    artifact_changes.resolvers,
    queues.resolvers,
    items.resolvers,
    agents.resolvers,
]
