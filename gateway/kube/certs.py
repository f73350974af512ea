"""The API server's own certificate authority: made on first start, kept in the data directory.

Files (keys with mode 0600): `ca.crt`, `ca.key`, `server.crt`, `server.key`, `admin.crt`, `admin.key`,
`admin.token`, `accounts.pem`. The server's certificate is made anew when it is near its end or lacks a host
name.
"""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.kube.signing import make_key
from gateway.runtime.certificates import (
    Pair,
    is_usable,
    issue,
    kept,
    make_authority,
    save,
    write_private,
)

STANDARD_HOSTS = (
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "10.96.0.1",
)
NO_TIME_CHECK = ssl.VerifyFlags(0x200000)
"""Who shows a certificate that ended is told so (401), not cut off: the authenticator looks at its time."""
ADMIN_USER, ADMIN_GROUP = "kubernetes-admin", "system:masters"


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that the API server shows or hands out."""

    folder: Path
    authority: Pair
    server: Pair
    admin: Pair
    token: str
    account_key: bytes
    """Signs tokens of ServiceAccounts: EC P-256, as PEM."""

    def server_context(self) -> ssl.SSLContext:
        """TLS that asks for client certificates of our authority and accepts none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        context.load_verify_locations(cadata=self.authority.certificate.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= NO_TIME_CHECK
        context.set_alpn_protocols(["http/1.1"])
        return context


def ensure_identity(folder: Path, hosts: Iterable[str] = ()) -> Identity:
    """Read the identity in `folder`, making what is missing or worn out.

    Shape:  `hosts` are further names and addresses for the server's certificate.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = tuple(dict.fromkeys((*STANDARD_HOSTS, socket.gethostname(), *hosts)))
    authority = kept(folder, "ca") or save(folder, "ca", make_authority("twinspan-kubernetes"))
    server = kept(folder, "server")
    if server is None or not is_usable(server, names):
        server = save(folder, "server", issue(authority, "kube-apiserver", hosts=names))
    admin = kept(folder, "admin")
    if admin is None or not is_usable(admin, ()):
        admin = save(folder, "admin", issue(authority, ADMIN_USER, groups=(ADMIN_GROUP,)))
    token, key = _token(folder / "admin.token"), _account_key(folder)
    return Identity(folder, authority, server, admin, token, key)


def _account_key(folder: Path) -> bytes:
    path = folder / "accounts.pem"
    if not path.exists():
        write_private(path, make_key())
    (folder / "accounts.key").unlink(missing_ok=True)  # of former versions: its tokens are refused
    return path.read_bytes()


def _token(path: Path) -> str:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode())
    return path.read_text("ascii").strip()
