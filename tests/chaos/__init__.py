"""Agents are killed at every point of a launch's way; what happened is compared with what must hold."""
