"""What launches share and need not make again: artifacts and environments."""
