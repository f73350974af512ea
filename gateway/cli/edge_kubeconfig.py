"""`twinspan edge kubeconfig`: administration of an edge's own API, with or without a cloud."""

from __future__ import annotations

import json
import secrets

from edge.identity import Identity
from edge.metaauth import TOKEN_FILE
from edge.metaserver import ENDPOINT, TLS_FOLDER
from gateway.config import Settings
from gateway.kube.kubeconfig import kubeconfig
from gateway.runtime.certificates import ensure_server, write_private
from gateway.runtime.listener import ENDPOINTS_FILE

HOSTS = ("127.0.0.1", "::1", "localhost")


def edge_kubeconfig(settings: Settings) -> str:
    """Return the kubeconfig's text; makes token and certificate where there are none.

    Errors: InvalidSetting for a node that has not joined.
    """
    identity = Identity(settings.data_dir)
    node, folder = identity.load().node, identity.folder
    ensure_server(folder / TLS_FOLDER, f"{node} metaserver", node, HOSTS)
    token = folder / TOKEN_FILE
    if not token.is_file():
        write_private(token, secrets.token_urlsafe(32).encode())
    return kubeconfig(
        address_of(settings),
        (folder / TLS_FOLDER / "ca.crt").read_bytes(),
        token=token.read_text("utf-8").strip(),
        user=f"{node}-admin",
    )


def address_of(settings: Settings) -> str:
    """Return where MetaServer listens, else where it would."""
    try:
        bound = json.loads((settings.data_dir / ENDPOINTS_FILE).read_text("utf-8"))
        return str(bound[ENDPOINT])
    except (OSError, ValueError, KeyError, TypeError):
        return settings.edge.metaserver.bind
