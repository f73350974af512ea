"""The end of a client's connection that carries a stream of a Pod."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.kube.podstreams import _Client


class Transport:
    """As asyncio's of TLS: once it is closed it cannot be asked any more."""

    def __init__(self, *, is_tls: bool) -> None:
        self._facts: dict[str, object] | None = {"sslcontext": object() if is_tls else None}

    def get_extra_info(self, name: str) -> Any:
        assert self._facts is not None, "asked after its close"
        return self._facts[name]

    def is_closing(self) -> bool:
        return self._facts is None

    def close(self) -> None:
        self._facts = None


@pytest.mark.parametrize("is_tls", [True, False], ids=["tls", "plain"])
def test_an_end_that_comes_after_our_close_is_heard(is_tls: bool) -> None:
    transport = Transport(is_tls=is_tls)
    client = _Client(cast("asyncio.Transport", transport), asyncio.Protocol())
    transport.close()
    assert client.eof_received() is not is_tls
    assert asyncio.run(client.read()) == b""
