"""Who may have a place now: limits, and the GPUs, CPUs and memory of this machine."""
