"""Kubeconfigs for the embedded API: made, and put into one that is there."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, cast

import yaml

from gateway.errors import InvalidSetting
from gateway.kube.certs import Identity
from gateway.model.json import Json, JsonObject
from gateway.runtime.certificates import Pair

NAME = "twinspan"
_PARTS = ("clusters", "users", "contexts")


def document(
    server: str,
    authority: bytes,
    *,
    client: Pair | None = None,
    token: str | None = None,
    user: str = "kubernetes-admin",
    cluster: str = NAME,
    context: str = "",
    namespace: str = "",
) -> JsonObject:
    """Return a kubeconfig of one user.

    Shape:  `server` is a URL, or `host:port`; `authority` the server's CA as PEM; the user has a client
            certificate, a bearer token, or both; `context` is by default `user@cluster`.
    """
    credentials: JsonObject = {}
    if client is not None:
        credentials["client-certificate-data"] = _text(client.certificate)
        credentials["client-key-data"] = _text(client.key)
    if token is not None:
        credentials["token"] = token
    url = server if "://" in server else f"https://{server}"
    name = context or f"{user}@{cluster}"
    place: JsonObject = {"cluster": cluster, "user": user}
    if namespace:
        place["namespace"] = namespace
    reached: JsonObject = {"server": url, "certificate-authority-data": _text(authority)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": reached}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": name, "context": place}],
        "current-context": name,
        "preferences": {},
    }


def kubeconfig(
    endpoint: str,
    authority: bytes,
    *,
    client: Pair | None = None,
    token: str | None = None,
    user: str = "kubernetes-admin",
) -> str:
    """Write a kubeconfig, as `document` makes it."""
    return text_of(document(endpoint, authority, client=client, token=token, user=user))


def text_of(config: JsonObject) -> str:
    """Write a kubeconfig as YAML."""
    return yaml.safe_dump(config, sort_keys=False)


def admin_kubeconfig(identity: Identity, endpoint: str) -> str:
    """Write the administrator's kubeconfig (client certificate)."""
    return kubeconfig(endpoint, identity.authority.certificate, client=identity.admin)


def merged(held: JsonObject, added: JsonObject) -> JsonObject:
    """Return a kubeconfig with another's entries: those of the same names are replaced, the others stay.

    The added one's context becomes the current one.
    """
    result: JsonObject = {"apiVersion": "v1", "kind": "Config", **held}
    for part in _PARTS:
        new = _entries(added.get(part))
        names = {entry.get("name") for entry in new}
        kept = [entry for entry in _entries(held.get(part)) if entry.get("name") not in names]
        result[part] = [*kept, *new]
    result["current-context"] = added.get("current-context")
    return result


def read_config(path: Path) -> JsonObject:
    """Read a kubeconfig; an empty one where there is no file. Errors: InvalidSetting."""
    try:
        found: Any = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSetting(f"{path}: cannot be read as a kubeconfig: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or any(
        not isinstance(found.get(part) or [], list) for part in _PARTS
    ):
        raise InvalidSetting(f"{path}: expected a kubeconfig")
    return cast("JsonObject", found)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)


def _entries(value: Json) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
