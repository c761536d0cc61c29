"""The daemon: claim, resolve, render, prepare, start, watch, report."""
