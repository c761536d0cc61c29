"""What the kubernetes backend is measured by, on a control plane of its own."""
