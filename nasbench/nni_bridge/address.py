"""Where the portal may listen. Nothing here imports NNI: the command line needs it to tell its options."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable

from nasbench.errors import OptionError

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
FIRST_PORT = 8080
PORTS = 200  # that are tried


def check_host(host: str) -> None:
    """Raise OptionError for any host but loopback and all interfaces: NNI's own calls to its manager would fail."""
    if host not in (LOOPBACK, EVERYWHERE):
        raise OptionError(f"host must be {LOOPBACK} (this machine only) or {EVERYWHERE} (every interface), not {host}")


def warn_if_exposed(host: str, say: Callable[[str], None]) -> None:
    """Say what it means that others can reach the portal, where they can."""
    if host != LOOPBACK:
        say(
            "warning: the portal listens on every interface, without password or encryption; whoever learns its "
            "address can change the experiment and read its files"
        )


def is_loopback(address: str) -> bool:
    """Whether an address, or the name `localhost`, means this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether nothing listens on a port, of the given address or of localhost."""
    try:
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Node does
            bound.bind((host, port))
    except OSError:
        return False
    # NNI calls its manager by the name localhost, which may mean ::1 first.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as other:
        return other.connect_ex(("::1", port)) != 0
    return True
