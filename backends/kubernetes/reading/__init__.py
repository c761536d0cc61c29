"""Reads what a cluster says of a launch: `read` and its like. Pure; whatever the JSON is, nothing raises."""

from backends.kubernetes.reading.events import is_about
from backends.kubernetes.reading.read import Reading, launch_labels, read, read_gone

__all__ = ["Reading", "is_about", "launch_labels", "read", "read_gone"]
