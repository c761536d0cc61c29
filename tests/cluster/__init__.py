"""A real Kubernetes for tests; `tests/clusters.py` is what tests use of it.

`programs` gets the programs, `control_plane` runs etcd and what is around the API server, `node` runs a kubelet with
containerd, and `keeper` all of it for many at once. A newer Kubernetes: change the versions that `go.mod` replaces
(those of 1.37.1 are 0.37.1), and run `go get -tool` there with the new version of each tool.
"""
