"""`python -m tests.cluster [node|api|controllers] [FLAG...]` runs a cluster by hand until Ctrl-C.

`node` is all of it, `api` is etcd and the API server alone (the flags are for it), `controllers` adds the controllers
and the scheduler, and no node.
"""

import sys

from tests.cluster import control_plane, keeper, programs


def main() -> None:
    """Run what is wanted until somebody asks for the end."""
    kind, *flags = sys.argv[1:] or ["node"]
    keeper.end_when_told()
    try:
        if kind == "node":
            with keeper.running() as (place, plane):
                tell(plane, f"; pods reach this machine at {place.machine}")
        else:
            with control_plane.running(*flags, with_controllers=kind == "controllers") as plane:
                tell(plane, "")
    except KeyboardInterrupt:
        print("taken down", file=sys.stderr)


def tell(plane: control_plane.ControlPlane, more: str) -> None:
    """Say how it is used, and wait."""
    print(f"export KUBECONFIG={plane.kubeconfig} PATH={programs.folder()}:$PATH{more and ' #'}{more}", flush=True)
    keeper.until_told()


if __name__ == "__main__":
    main()
