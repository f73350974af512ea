"""TLS for servers whose clients may show a certificate that only the application can judge.

The authorities of devices belong to tenants, change while we run and may be known by name and key alone; a
device without a trusted certificate may still log in by password. So the handshake asks for a certificate,
proves that the peer has its key, and takes any; who it stands for is decided afterwards. Python's `ssl` lets
OpenSSL judge or asks for none, so the judge is replaced in OpenSSL itself; a build where that cannot be done
soundly asks for no certificates (decision record 0009).
"""

from __future__ import annotations

import ctypes
import logging
import ssl
import sys
from functools import cache
from pathlib import Path
from typing import Any

from gateway.model.login import NO_TLS, TlsPeer
from gateway.runtime.certificates import server_context

log = logging.getLogger(__name__)

_Judge = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def _yes(_store: int | None, _argument: int | None) -> int:
    return 1


_TAKE_ANY = _Judge(_yes)
"""The answer to OpenSSL's question whether a chain is good; kept here, so that it outlives every context."""


class DeviceTls(ssl.SSLObject):
    """One connection's TLS, with the host name that the peer asked for."""

    asked_host: str | None = None


def _note_host(connection: ssl.SSLObject, host: str | None, _context: ssl.SSLContext) -> None:
    if isinstance(connection, DeviceTls):
        connection.asked_host = host


def device_context(certificate: Path, key: Path, setting: str) -> ssl.SSLContext:
    """Return TLS for a server of devices, 1.2 or newer, that asks for a certificate where it can.

    Errors: InvalidSetting, naming the setting, when the files are missing or do not fit.
    """
    context = server_context(certificate, key, setting)
    if not ask_for_certificates(context):
        log.warning("client certificates are not asked for: this Python hides its OpenSSL")
    return context


def ask_for_certificates(context: ssl.SSLContext) -> bool:
    """Make a server's context take any client certificate, or none; False where that cannot be done."""
    library = _openssl()
    if library is None:
        return False
    pointer = _pointer(context)
    if library.SSL_CTX_get_options(pointer) != context.options & 0xFFFF_FFFF_FFFF_FFFF:
        return False
    library.SSL_CTX_set_cert_verify_callback(pointer, _TAKE_ANY, None)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.sslobject_class = DeviceTls
    context.sni_callback = _note_host
    return True


def _pointer(context: ssl.SSLContext) -> int | None:
    """The `SSL_CTX *` of a context: the first member after the object's head."""
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value


@cache
def _openssl() -> Any:
    """The OpenSSL that `ssl` itself uses; None where it is not CPython's or hides its functions."""
    if sys.implementation.name != "cpython":
        return None
    try:
        import _ssl

        library = ctypes.CDLL(_ssl.__file__)
        options, judge = library.SSL_CTX_get_options, library.SSL_CTX_set_cert_verify_callback
    except (ImportError, AttributeError, OSError):
        return None
    options.argtypes, options.restype = [ctypes.c_void_p], ctypes.c_uint64
    judge.argtypes, judge.restype = [ctypes.c_void_p, _Judge, ctypes.c_void_p], None
    return library


def tls_peer(connection: object) -> TlsPeer:
    """Return what a connection's `ssl_object` says about its peer."""
    if not isinstance(connection, ssl.SSLObject):
        return NO_TLS
    host = connection.asked_host if isinstance(connection, DeviceTls) else None
    return TlsPeer(connection.getpeercert(binary_form=True), host)
