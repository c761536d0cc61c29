"""What both sides of the wire say: launch specs, job files, templates, states. Pure, no I/O."""
