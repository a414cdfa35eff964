"""Where ranks meet."""

import socket


def free_port() -> int:
    """One that nobody listens at on this machine just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
