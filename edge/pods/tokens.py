"""Tokens of ServiceAccounts for Pods: bound to the Pod, kept in memory, renewed in time.

Source: Kubernetes, service account token volumes: a new one at 80 % of a token's life or after a day.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from edge.clock import now_ms
from edge.pods.podspec import Pod, TokenProjection
from edge.ports import EdgeApi
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, text, whole

log = logging.getLogger(__name__)

LIFE_USED: Final = 0.8
DAY: Final = 86_400.0
JITTER: Final = 10.0
AGAIN: Final = 30.0
"""Seconds until a renewal is tried again."""
Key: TypeAlias = tuple[str, str, str, str, int]


@dataclass(frozen=True, slots=True)
class Token:
    """Units: Unix seconds."""

    value: str = field(repr=False)
    ends: float
    renew: float
    came: float
    """A clock that stands before this was set back: what the times above mean is not known."""


class Tokens:
    """Tokens of the Pods of this node."""

    def __init__(self, api: EdgeApi, clock: Callable[[], float] = lambda: now_ms() / 1_000) -> None:
        self._api = api
        self._clock = clock
        self._kept: dict[Key, Token] = {}

    async def get(self, pod: Pod, wanted: TokenProjection) -> Token:
        """Return a token, the kept one while it is good and no newer one can be had.

        Errors: of `EdgeApi.token`; BadRequest for an answer that is none.
        """
        key = (pod.uid, account_of(pod), wanted.audience, wanted.path, wanted.expiration_seconds)
        kept = self._kept.get(key)
        now = self._clock()
        if kept is not None and kept.came <= now < kept.renew:
            return kept
        try:
            token = await self._ask(pod, wanted)
        except GatewayError as error:
            if kept is None or now >= kept.ends:
                raise
            log.info("a token is not renewed yet", extra={"pod": pod.key, "cause": error.message})
            token = Token(kept.value, kept.ends, now + AGAIN, now)
        self._kept[key] = token
        return token

    def forget(self, uid: str) -> None:
        """Drop the tokens of a Pod that has ended."""
        self._kept = {key: token for key, token in self._kept.items() if key[0] != uid}

    def renewal(self, uid: str) -> float | None:
        """Return when the next token of a Pod is to be renewed (Unix seconds), None without tokens."""
        return min((t.renew for key, t in self._kept.items() if key[0] == uid), default=None)

    async def _ask(self, pod: Pod, wanted: TokenProjection) -> Token:
        request = token_request(pod, wanted)
        answer = await self._api.token(pod.meta.namespace, account_of(pod), request)
        now = self._clock()
        value = text(part(answer, "status").get("token"))
        ends = _instant(text(part(answer, "status").get("expirationTimestamp")))
        life = whole(part(answer, "spec").get("expirationSeconds"), wanted.expiration_seconds)
        if not value:
            raise BadRequest("status.token: expected a token in a TokenRequest")
        came = min(ends - life, now)
        due = came + min(life * LIFE_USED, DAY) + random.uniform(0, JITTER)  # noqa: S311  jitter
        return Token(value, ends, max(due, now + AGAIN), now)


def token_request(pod: Pod, wanted: TokenProjection) -> JsonObject:
    """Return what is asked for: a token that ends with its Pod."""
    bound: JsonObject = {
        "kind": "Pod",
        "apiVersion": "v1",
        "name": pod.meta.name,
        "uid": pod.uid,
    }
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [wanted.audience] if wanted.audience else [],
            "expirationSeconds": wanted.expiration_seconds,
            "boundObjectRef": bound,
        },
    }


def account_of(pod: Pod) -> str:
    return pod.spec.service_account_name or "default"


def _instant(value: str) -> float:
    """Errors: BadRequest."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise BadRequest("status.expirationTimestamp: expected an instant") from None
    if found.tzinfo is None:
        raise BadRequest("status.expirationTimestamp: expected a time zone")
    return found.timestamp()
