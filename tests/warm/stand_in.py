"""Stands in for a program that is forked elsewhere: gives it all that this process was given, and ends as it ends.

If this process is killed, so is the program.
"""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as forking:
    forking.connect(sys.argv[1])
    socket.send_fds(forking, [b"."], [0, 1, 2])
    given = {"words": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    forking.sendall(json.dumps(given).encode() + b"\n")
    code = int(forking.recv(10))
sys.exit(code if code >= 0 else 128 - code)
