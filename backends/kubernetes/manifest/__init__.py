"""From a start request to the objects of a cluster. Pure: the same request gives the same objects, byte for byte.

The rules are the protocol's: the queue's owner writes as much of the manifest as they want to, and the agent completes
it. What is written stands, but for what makes a launch this launch: its names, labels, variables, command and code.
"""

from backends.kubernetes.manifest.plan import Plan, plan
from backends.kubernetes.manifest.target import Target, namespace_of, target

__all__ = ["Plan", "Target", "namespace_of", "plan", "target"]
