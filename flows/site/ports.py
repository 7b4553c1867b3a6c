"""Free ports of this machine's loopback address."""

import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from flows.site.server_check import ServerUnavailable
from flows.site.state_files import try_lock

ANY = 0


def free_port(wanted: Sequence[int]) -> tuple[int, IO[str]]:
    """The first of these ports that is free, and a lock on its number; `ANY` stands for every port.

    The site of another home, started at the same time, skips a port whose lock is held. Raises `ServerUnavailable` when
    none is free.
    """
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                number: int = probe.getsockname()[1]
                claim = (Path(tempfile.gettempdir()) / f"nanochat-port-{number}").open("a")
            except (OSError, OverflowError):  # in use; locked by another user; not a port number
                continue
        if try_lock(claim):
            return number, claim
        claim.close()
    which = "No port" if ANY in wanted else f"The port {wanted[0]}"
    raise ServerUnavailable(
        f"{which} of 127.0.0.1 is {'' if ANY in wanted else 'not '}free for a Prefect server.",
        hint="`--plain` needs none.",
    )
