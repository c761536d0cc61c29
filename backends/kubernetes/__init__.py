"""Launches as objects of a Kubernetes cluster: a Job, or any other kind that the cluster knows."""
