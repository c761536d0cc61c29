"""What an agent is told to do: the keys of its file, their defaults, and how they are read and changed."""
