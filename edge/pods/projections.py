"""From objects to the files of a volume: ConfigMap, Secret, downwardAPI and projected volumes. Pure.

Source: Kubernetes, "Projected Volumes"; texts as the kubelet of 1.36 says them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edge.pods.atomicwriter import File, check_files
from edge.pods.podspec import DownwardFile, KeyToPath, Pod
from gateway.errors import BadRequest, NotFound
from gateway.model.json import JsonObject

MAX_BYTES: Final = 16 << 20
"""Of all files of one volume."""
TOKEN_MODE: Final = 0o600

Valued = Callable[[Pod, DownwardFile], str]
"""Reads the value of a downwardAPI file. Errors: BadRequest."""


def configmap_files(
    item: JsonObject | None, items: Sequence[KeyToPath], mode: int, *, is_optional: bool
) -> dict[str, File]:
    """Return the files of a ConfigMap; None is one that is not there, and need not be.

    Errors: NotFound for a key; BadRequest for content that is none.
    """
    data = {
        **{key: value.encode() for key, value in _texts(item, "data").items()},
        **{key: _decoded(key, value) for key, value in _texts(item, "binaryData").items()},
    }
    missing = "configmap references non-existent config key: {}"
    return _chosen(data, items, mode, missing, is_optional=is_optional)


def secret_files(
    item: JsonObject | None, items: Sequence[KeyToPath], mode: int, *, is_optional: bool
) -> dict[str, File]:
    """Return the files of a Secret. Errors: as `configmap_files`."""
    data = {key: _decoded(key, value) for key, value in _texts(item, "data").items()}
    missing = "references non-existent secret key: {}"
    return _chosen(data, items, mode, missing, is_optional=is_optional)


def _chosen(
    data: Mapping[str, bytes],
    items: Sequence[KeyToPath],
    mode: int,
    missing: str,
    *,
    is_optional: bool,
) -> dict[str, File]:
    if not items:
        return {key: File(content, mode) for key, content in data.items()}
    found = {}
    for item in items:
        content = data.get(item.key)
        if content is not None:
            found[item.path] = File(content, mode if item.mode is None else item.mode)
        elif not is_optional:
            raise NotFound(missing.format(item.key))
    return found


def _texts(item: JsonObject | None, key: str) -> dict[str, str]:
    """Errors: BadRequest, without the content."""
    table = None if item is None else item.get(key)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise BadRequest(f"{key}: expected a table of texts")
    found: dict[str, str] = {}
    for name, value in table.items():
        if not isinstance(value, str):
            raise BadRequest(f"{key}.{name[:200]}: expected a text")
        found[name] = value
    return found


def _decoded(key: str, value: str) -> bytes:
    """Errors: BadRequest, without the content."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{key[:200]}: expected base64") from None


def downward_files(
    pod: Pod, items: Sequence[DownwardFile], mode: int, value: Valued
) -> dict[str, File]:
    """Return files with fields of a Pod. Errors: BadRequest."""
    return {
        item.path: File(value(pod, item).encode(), mode if item.mode is None else item.mode)
        for item in items
    }


def token_file(token: str, mode: int, user: int | None, group: int | None) -> File:
    """Return a token's file: of a Pod with one user or a group it is for that one alone."""
    is_owned = user is not None or group is not None
    return File(token.encode(), TOKEN_MODE if is_owned else mode, user)


def merged(parts: Sequence[Mapping[str, File]]) -> dict[str, File]:
    """Return the files of all sources, later ones win. Errors: BadRequest for paths and too much content."""
    files: dict[str, File] = {}
    for part in parts:
        files.update(check_files(part))
    total = sum(len(file.data) for file in files.values())
    if total > MAX_BYTES:
        raise BadRequest(f"a volume's files may have {MAX_BYTES} bytes, these have {total}")
    return check_files(files)


def one_user(pod: Pod) -> int | None:
    """Return the user that all containers of a Pod run as, None where they differ or none is said."""
    own = pod.spec.security_context.run_as_user
    users = {
        own
        if each.security_context is None or each.security_context.run_as_user is None
        else each.security_context.run_as_user
        for each in pod.containers()
    }
    return users.pop() if len(users) == 1 else None


def nested_folders(pod: Pod, volume: str) -> list[str]:
    """Return folders that a volume must have because a container mounts another volume inside of it.

    Shape:  paths within the volume. A read-only volume cannot get them later.
    """
    found: set[str] = set()
    for container in pod.containers():
        for base in container.volume_mounts:
            if base.name == volume and not base.sub_path and not base.sub_path_expr:
                top = base.mount_path.rstrip("/") + "/"
                found.update(
                    other.mount_path.rstrip("/")[len(top) :]
                    for other in container.volume_mounts
                    if other is not base and other.mount_path.startswith(top)
                )
    return sorted(path for path in found if path and ".." not in path.split("/"))
