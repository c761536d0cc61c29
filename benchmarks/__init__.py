"""Measurements that anyone can repeat; the README quotes what these commands print."""
