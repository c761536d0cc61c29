"""One module per revision, forward only."""
