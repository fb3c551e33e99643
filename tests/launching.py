"""Programs of several processes."""

import socket


def free_port():
    """A port that nobody listens on: not every version of accelerate finds one itself."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])
