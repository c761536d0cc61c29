"""Images of jobs, where the agent's `builder` asks for them: the default builds nothing, and mounts the code."""
