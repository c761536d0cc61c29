"""Where launches run: one module or package per resource. Knows nothing of queues or the server."""
