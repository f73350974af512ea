"""Loads OpenSSL's DTLS when it is needed: pyOpenSSL, and the pre-shared keys that it does not show.

Python's `ssl` has no DTLS. pyOpenSSL has, on the OpenSSL that comes with `cryptography`; what its classes
lack, the callback for pre-shared keys, is set in OpenSSL itself by the same binding.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import InvalidSetting

if TYPE_CHECKING:
    from OpenSSL import SSL

EXTRA = "pip install 'twinspan[coap]'"
DTLS_1_2 = 0xFEFD
SMALL = 0x10
"""SSL_MODE_RELEASE_BUFFERS: a session that rests holds no buffers."""
MTU = 1_200
"""Bytes of a handshake's datagrams: what every path of IPv6 carries."""

PSK_CIPHERS = (
    "ECDHE-PSK-CHACHA20-POLY1305",
    "PSK-AES256-GCM-SHA384",
    "PSK-AES128-GCM-SHA256",
    "PSK-CHACHA20-POLY1305",
    "PSK-AES256-CCM",
    "PSK-AES128-CCM",
    "PSK-AES128-CCM8",
)
CERTIFICATE_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_SHORT_TAGS = "@SECLEVEL=0"
"""CCM_8, which constrained devices speak, counts as 64 bits; every suite is named, so no other comes in."""


@cache
def missing() -> str | None:
    """Say in a line why DTLS cannot be had here; None where it can."""
    try:
        binding: Any = importlib.import_module("OpenSSL._util")
        library = importlib.import_module("OpenSSL.SSL")
    except ImportError:
        return f"CoAP over DTLS needs pyOpenSSL: {EXTRA}"
    has_keys = getattr(binding.lib, "Cryptography_HAS_PSK", 0)
    if not has_keys or not hasattr(library, "DTLS_SERVER_METHOD"):
        return "CoAP over DTLS needs a pyOpenSSL with DTLS and pre-shared keys: this one has none"
    return None


class DtlsLibrary:
    """What a DTLS server takes from OpenSSL.

    Shape:  `find_key` is asked with a connection's `pointer_of` for the key that its peer has named.
    Errors: InvalidSetting where it is not installed, or the certificate cannot be read.
    """

    def __init__(
        self, find_key: Callable[[int, bytes], bytes | None], files: tuple[Path, Path] | None
    ) -> None:
        why = missing()
        if why is not None:
            raise InvalidSetting(f"hono.coap.tls: {why}")
        binding: Any = importlib.import_module("OpenSSL._util")
        self._ffi, self._lib = binding.ffi, binding.lib
        self.ssl: Any = importlib.import_module("OpenSSL.SSL")
        self._secret = os.urandom(32)
        self._keys = self._key_callback(find_key)
        self._context = self._new_context(files)

    def _new_context(self, files: tuple[Path, Path] | None) -> SSL.Context:
        ssl = self.ssl
        context: SSL.Context = ssl.Context(ssl.DTLS_SERVER_METHOD)
        context.set_options(
            ssl.OP_NO_QUERY_MTU
            | ssl.OP_COOKIE_EXCHANGE
            | ssl.OP_NO_TICKET
            | ssl.OP_NO_RENEGOTIATION
            | ssl.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_session_cache_mode(ssl.SESS_CACHE_OFF)
        context.set_mode(SMALL)
        context.set_min_proto_version(DTLS_1_2)
        ciphers = PSK_CIPHERS if files is None else (*PSK_CIPHERS, *CERTIFICATE_CIPHERS)
        context.set_cipher_list(":".join((*ciphers, _SHORT_TAGS)).encode())
        context.set_cookie_generate_callback(self._cookie)
        context.set_cookie_verify_callback(
            lambda connection, cookie: hmac.compare_digest(cookie, self._cookie(connection))
        )
        self._lib.SSL_CTX_set_psk_server_callback(context._context, self._keys)
        if files is not None:
            self._add_certificate(context, files)
        return context

    def _add_certificate(self, context: SSL.Context, files: tuple[Path, Path]) -> None:
        certificate, key = files
        try:
            context.use_certificate_chain_file(str(certificate))
            context.use_privatekey_file(str(key))
            context.check_privatekey()
        except (self.ssl.Error, OSError) as error:
            raise InvalidSetting(f"hono.tls.certificate: {certificate}: {error}") from error
        # Who a certificate stands for is decided after the handshake, which proves that its key is there.
        context.set_verify(self.ssl.VERIFY_PEER, lambda *_: True)

    def _cookie(self, connection: SSL.Connection) -> bytes:
        address = repr(connection.get_app_data()).encode()
        return hmac.digest(self._secret, address, hashlib.sha256)

    def _key_callback(self, find_key: Callable[[int, bytes], bytes | None]) -> Any:
        ffi = self._ffi

        def answer(pointer: Any, identity: Any, room: Any, size: int) -> int:
            key = find_key(int(ffi.cast("uintptr_t", pointer)), ffi.string(identity))
            if key is None or len(key) > size:
                return 0
            ffi.memmove(room, key, len(key))
            return len(key)

        kind = "unsigned int(SSL *, const char *, unsigned char *, unsigned int)"
        return ffi.callback(kind, answer, error=0)

    def new_connection(self) -> SSL.Connection:
        """Return one end of a conversation that nobody has begun yet."""
        connection: SSL.Connection = self.ssl.Connection(self._context, None)
        connection.set_accept_state()
        connection.set_ciphertext_mtu(MTU)
        return connection

    def pointer_of(self, connection: SSL.Connection) -> int:
        """Return what `find_key` is asked with."""
        return int(self._ffi.cast("uintptr_t", connection._ssl))
