"""The ports that tests get."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.ports import KERNELS_OWN, free_port, free_ports


def test_a_port_is_none_that_a_connection_may_get() -> None:
    low, high = map(int, KERNELS_OWN.read_text().split())
    assert not any(low <= port <= high for port in free_ports(20))


def test_no_two_are_the_same_and_nobody_listens_there() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_another_process_does_not_get_what_this_one_has() -> None:
    port = free_port()
    asked = "import sys; from tests.ports import _hold; print(_hold(int(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", asked, str(port)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
