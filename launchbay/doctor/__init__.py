"""What `launchbay doctor` looks at: one small function per check, and what they all have in common."""
