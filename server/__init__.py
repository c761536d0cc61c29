"""The control plane: GraphQL and file endpoints over SQL and an object store."""
