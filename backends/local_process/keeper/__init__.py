"""The keeper: one process per agent that is the parent of all its jobs, and outlives it. `__main__` is its program.

It is started as a program of its own with the standard library alone, and this folder as its path: `python -E -s -S`.
So its modules import one another by their bare names. The agent uses `files`, `groups` and `wire`, which import none of
them.

Environment and secrets of a job come only through a socket: never on a command line, never in a file. When the agent is
gone the keeper goes on, until its last job has ended and that is written down. The next agent starts its own keeper;
both can live side by side.

Exactly one start. A keeper takes the lock of a launch's folder before it looks there, and holds it as long as the job
lives. The job's process, which inherits that lock, waits before it becomes the job until its pid stands in the status
file; if the keeper dies first, the process sees its pipe end and never runs. So whatever is killed at whatever moment:
no status means that no job ever ran and starting is right; a status means that it did, and which process to look at.

The folder is all that the next agent has. If it is removed under a job, its keeper makes it anew: when an agent that
misses it says so by SIGHUP, and at the end of the job.
"""
