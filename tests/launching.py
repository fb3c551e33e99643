"""Helpers to launch several processes."""

import socket


def free_port():
    """Find a free port. Old versions of accelerate do not."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])
