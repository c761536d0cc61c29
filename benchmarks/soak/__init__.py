"""One agent and one server at work for a long time: what they hold on to must not grow. `python -m benchmarks.soak`."""
