"""What an agent shows of itself: metrics, traces, health, status."""
