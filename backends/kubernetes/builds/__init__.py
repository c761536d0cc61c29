"""Images that are built in a cluster: a Job with rootless BuildKit for each, shared by all who want the same image.

| module | what |
| --- | --- |
| `order.py` | what is to be built, and with what |
| `manifest.py` | the Job and its Secret. Pure |
| `running.py` | has it built: joins the Job, tells how it is, and leaves nothing behind |
"""

from backends.kubernetes.builds.order import Order, Registry
from backends.kubernetes.builds.running import RIGHTS, Build, BuildFailed

__all__ = ["RIGHTS", "Build", "BuildFailed", "Order", "Registry"]
