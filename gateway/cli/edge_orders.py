"""Gives an order to a mapper of this node, through its MetaServer."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from http.client import HTTPException, HTTPSConnection
from urllib.parse import quote

from edge.identity import Identity
from edge.metaauth import TOKEN_FILE
from edge.metaorders import path_of
from edge.metaserver import TLS_FOLDER
from gateway.cli.edge_kubeconfig import address_of, edge_kubeconfig
from gateway.config import Settings
from gateway.errors import GatewayError, Undeliverable

SECONDS = 90.0
MAX_ANSWER = 1024 * 1024


def give_order(
    settings: Settings, protocol: str, order: str, arguments: Mapping[str, str]
) -> object:
    """Return what the mapper answers.

    Errors: InvalidSetting for a node that has not joined; Undeliverable when none answers; the order's.
    """
    edge_kubeconfig(settings)  # makes the token and the certificate where there are none
    folder = Identity(settings.data_dir).folder
    token = (folder / TOKEN_FILE).read_text("utf-8").strip()
    trust = ssl.create_default_context(cafile=str(folder / TLS_FOLDER / "ca.crt"))
    host, _, port = address_of(settings).rpartition(":")
    link = HTTPSConnection(host.strip("[]"), int(port), timeout=SECONDS, context=trust)
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    try:
        body = json.dumps(dict(arguments))
        link.request("POST", path_of(quote(protocol, ""), quote(order, "")), body, headers)
        answer = link.getresponse()
        found = json.loads(answer.read(MAX_ANSWER))
    except (OSError, HTTPException, ValueError) as error:
        raise Undeliverable(f"no MetaServer answers at {address_of(settings)}: {error}") from error
    finally:
        link.close()
    if answer.status >= 400:
        message = found.get("message") if isinstance(found, dict) else None
        raise GatewayError(str(message or answer.reason), status=answer.status)
    return found
