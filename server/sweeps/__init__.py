"""Sweeps: which parameters are tried next, by whom, and when a sweep is over.

`config`, `distributions`, `search` and `early_stop` are the search itself: pure, and chance is an argument. `commands`
decides what an agent is told, in one transaction that holds the sweep's row; `suggestions` lets the search think before
that, on a snapshot and in a thread.
"""
