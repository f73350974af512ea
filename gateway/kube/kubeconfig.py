"""Kubeconfig texts for the embedded API."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from gateway.kube.certs import Identity
from gateway.runtime.certificates import Pair

NAME = "twinspan"


def kubeconfig(
    endpoint: str,
    authority: bytes,
    *,
    client: Pair | None = None,
    token: str | None = None,
    user: str = "kubernetes-admin",
) -> str:
    """Write a kubeconfig.

    Shape:  `endpoint` is `host:port`; `authority` the server's CA as PEM; the user has a client certificate,
            a bearer token, or both.
    """
    credentials: dict[str, str] = {}
    if client is not None:
        credentials["client-certificate-data"] = _text(client.certificate)
        credentials["client-key-data"] = _text(client.key)
    if token is not None:
        credentials["token"] = token
    context = f"{user}@{NAME}"
    cluster = {"server": f"https://{endpoint}", "certificate-authority-data": _text(authority)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": context, "context": {"cluster": NAME, "user": user}}],
        "current-context": context,
        "preferences": {},
    }
    return yaml.safe_dump(config, sort_keys=False)


def admin_kubeconfig(identity: Identity, endpoint: str) -> str:
    """Write the administrator's kubeconfig (client certificate)."""
    return kubeconfig(endpoint, identity.authority.certificate, client=identity.admin)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, "utf-8")


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
