"""What volumes of files hold now: ConfigMaps, Secrets, fields of the Pod, tokens.

Source: Kubernetes, "Projected Volumes".
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from edge.pods.atomicwriter import File, Files
from edge.pods.objects import PodObjects
from edge.pods.podfields import Amounts, field_value, resource_value
from edge.pods.podspec import (
    ConfigMapVolume,
    DownwardFile,
    Pod,
    Projection,
    SecretVolume,
    TokenProjection,
    Volume,
)
from edge.pods.projections import (
    configmap_files,
    downward_files,
    merged,
    one_user,
    secret_files,
    token_file,
)
from edge.pods.tokens import Tokens
from gateway.errors import BadRequest, NotFound
from gateway.model.json import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What volumes ask of the node; read each time, the amounts as in its status."""

    name: str
    allocatable: Callable[[], Amounts]
    labels: Callable[[], Mapping[str, str]] = dict


def is_files(volume: Volume) -> bool:
    """True for volumes that this node fills, and that change while a Pod runs."""
    sources = (volume.config_map, volume.secret, volume.downward_api, volume.projected)
    return any(source is not None for source in sources)


class VolumeContents:
    """The files of volumes.

    Errors: (of all) what reading an object or a token says; BadRequest for content that makes no files.
    """

    def __init__(self, objects: PodObjects, tokens: Tokens, node: NodeFacts) -> None:
        self._objects = objects
        self._tokens = tokens
        self._node = node

    async def files(self, pod: Pod, volume: Volume) -> Files:
        if volume.config_map is not None:
            source = volume.config_map
            return merged([await self._configmap(pod, source, source.default_mode)])
        if volume.secret is not None:
            return merged([await self._secret(pod, volume.secret)])
        if volume.downward_api is not None:
            down = volume.downward_api
            return merged([self._downward(pod, down.items, down.default_mode)])
        projected = volume.projected
        assert projected is not None  # noqa: S101  for the type
        mode = projected.default_mode
        parts = await asyncio.gather(*(self._source(pod, e, mode) for e in projected.sources))
        return merged(parts)

    async def _source(self, pod: Pod, source: Projection, mode: int) -> dict[str, File]:
        if source.config_map is not None:
            return await self._configmap(pod, source.config_map, mode)
        if source.secret is not None:
            inner = source.secret
            same = SecretVolume(
                secret_name=inner.name,
                items=inner.items,
                optional=inner.optional,
                default_mode=mode,
            )
            return await self._secret(pod, same)
        if source.downward_api is not None:
            return self._downward(pod, source.downward_api.items, mode)
        if source.service_account_token is not None:
            return await self._token(pod, source.service_account_token, mode)
        raise BadRequest("a projected source of a kind that this node does not know")

    async def _configmap(self, pod: Pod, source: ConfigMapVolume, mode: int) -> dict[str, File]:
        is_optional = source.optional is True
        item = await _or_none(self._objects.configmap(pod.meta.namespace, source.name), is_optional)
        return configmap_files(item, source.items, mode, is_optional=is_optional)

    async def _secret(self, pod: Pod, source: SecretVolume) -> dict[str, File]:
        is_optional = source.optional is True
        item = await _or_none(
            self._objects.secret(pod.meta.namespace, source.secret_name), is_optional
        )
        return secret_files(item, source.items, source.default_mode, is_optional=is_optional)

    def _downward(self, pod: Pod, items: list[DownwardFile], mode: int) -> dict[str, File]:
        return downward_files(pod, items, mode, self._value)

    def _value(self, pod: Pod, file: DownwardFile) -> str:
        if file.resource_field_ref is not None:
            return resource_value(pod, None, file.resource_field_ref, self._node.allocatable())
        if file.field_ref is None:
            raise BadRequest(f"{file.path[:200]}: expected fieldRef or resourceFieldRef")
        return field_value(pod, file.field_ref)

    async def _token(self, pod: Pod, source: TokenProjection, mode: int) -> dict[str, File]:
        token = await self._tokens.get(pod, source)
        group = pod.spec.security_context.fs_group
        return {source.path: token_file(token.value, mode, one_user(pod), group)}


async def _or_none(reading: Awaitable[JsonObject], is_optional: bool) -> JsonObject | None:
    """None for an object that is not there, and need not be. Errors: all others."""
    try:
        return await reading
    except NotFound:
        if not is_optional:
            raise
        return None


def digest_of(files: Files) -> bytes:
    """Return what tells files from others."""
    found = hashlib.sha256()
    for path, file in sorted(files.items()):
        found.update(f"{path}\0{file.mode}\0{file.user}\0{len(file.data)}\0".encode())
        found.update(file.data)
    return found.digest()
