"""Whether something listens at an address."""

from __future__ import annotations

import re
import socket


def is_listening(address: str, patience: float = 5.0) -> bool:
    """Return whether something listens at HOST:PORT.

    Wait for at most `patience` seconds. Any other address gives False.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=patience):
            return True
    except (OSError, OverflowError, ValueError):  # a port above 65535; no number, or a name that no machine can have
        return False


def why_unreachable(cluster: str) -> str | None:
    """Return why no Ray cluster can be reached at an address; None if something listens, or only Ray can tell.

    Ray itself would wait for many minutes.

    Args:
        cluster: The address, as the user gave it.
    """
    if re.fullmatch(r".+:\d+", cluster) is None or cluster.startswith("ray://") or is_listening(cluster):
        return None
    return f"cannot reach Ray at {cluster}: nothing listens there; start the cluster or mend the address"
