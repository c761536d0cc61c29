"""What issue and README ask of the agent, measured side by side: `python -m benchmarks.agent`."""
