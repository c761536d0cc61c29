"""The command line: the one place that knows both the agent and the server."""

__version__ = "0.1.0"
