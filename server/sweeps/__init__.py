"""The search of sweeps: configs, the next parameters, who stops early. Pure: no I/O, and chance is an argument."""
