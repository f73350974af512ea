"""Who asks MetaServer, and what they may.

- `kubeedge`: everything is open, as KubeEdge's is without its feature gate.
- `strict`: anonymous clients read all but Secrets; ServiceAccounts do more by their rights; the admin token
  that `twinspan edge kubeconfig` makes may do everything.
- `rbac`: anonymous clients see plain paths only; ServiceAccounts do what they have rights for.

A ServiceAccount's token is judged by the cloud (TokenReview), or known because this edge got it from there;
a good verdict is kept on disk, and counts without a cloud until the token ends.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from edge.applications import failure_of
from edge.metarequests import METHODS, Call, Passed
from edge.metarights import may
from edge.ports import CloudApi
from edge.store import EdgeStore, MetaObject
from gateway.errors import (
    Forbidden,
    GatewayError,
    InvalidSetting,
    Unauthenticated,
    Undeliverable,
)
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.applications import ApiKey, Verb, make_application

log = logging.getLogger(__name__)

MODES = ("strict", "rbac", "kubeedge")
TOKEN_FILE = "metaserver.token"  # noqa: S105  a name, not a secret
VERDICT = "tokenverdict"
"""Type of the rows that say whose a token is; their keys are hashes."""
ACCESS = "serviceaccountaccess"
FRESH_SECONDS = 300.0
"""For which a verdict counts before the cloud is asked again."""
MAX_TOKEN = 16_384
MAX_FRESH = 1_000
_CLUSTER = (".svc", ".svc.cluster.local", ".localhost")
READS = frozenset({"get", "list", "watch"})
REVIEWS = ApiKey("authentication.k8s.io", "v1", "tokenreviews")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    is_admin: bool = False

    @property
    def is_anonymous(self) -> bool:
        return self == ANONYMOUS


ANONYMOUS = Caller("system:anonymous")
ADMIN = Caller("edge-admin", is_admin=True)


class _Verdict(Struct, frozen=True):
    user: str
    ends: float


class _Claims(Struct, frozen=True):
    exp: float = 0.0


_verdicts = msgspec.json.Decoder(_Verdict)
_claims = msgspec.json.Decoder(_Claims)


class MetaAuth:
    """Judges callers. Errors of construction: InvalidSetting for an unknown mode."""

    def __init__(
        self, mode: str, folder: Path, store: EdgeStore, cloud: CloudApi, node: str
    ) -> None:
        if mode not in MODES:
            raise InvalidSetting(
                f"edge.metaserver.auth: expected one of {', '.join(MODES)}, got {mode!r}"
            )
        self._mode = mode
        self._token_file = folder / TOKEN_FILE
        self._store = store
        self._cloud = cloud
        self._node = node
        self._fresh: dict[str, tuple[Caller, float]] = {}

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Return who asks. Errors: Unauthenticated; Undeliverable when nobody can judge a token now."""
        said = headers.get("authorization")
        if said is None:
            check_host(headers.get("host", ""))
        if self._mode == "kubeedge":
            return ADMIN
        if said is None:
            return ANONYMOUS
        scheme, _, token = said.partition(" ")
        if scheme.lower() != "bearer" or not token.strip() or len(token) > MAX_TOKEN:
            raise Unauthenticated("Unauthorized")
        token = token.strip()
        if self._is_admin(token):
            return ADMIN
        return await self._account(token)

    def _is_admin(self, token: str) -> bool:
        try:
            known = self._token_file.read_bytes().strip()
        except OSError:
            return False
        return bool(known) and hmac.compare_digest(known, token.encode("utf-8", "replace"))

    async def _account(self, token: str) -> Caller:
        digest = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        fresh = self._fresh.get(digest)
        if fresh is not None and fresh[1] > time.monotonic():
            return fresh[0]
        try:
            user = await self._review(token)
        except Undeliverable:
            user = await self._remembered(digest)
        except Unauthenticated:  # what was good before counts no more, with or without a cloud
            self._fresh.pop(digest, None)
            self._store.delete_meta(digest, "", _logged)
            raise
        else:
            self.remember(token, user)
        return self._freshen(digest, user, _end_of(token))

    def _freshen(self, digest: str, user: str, ends: float) -> Caller:
        if len(self._fresh) >= MAX_FRESH:
            self._fresh.clear()
        caller, left = Caller(user), ends - time.time() if ends else FRESH_SECONDS
        self._fresh[digest] = caller, time.monotonic() + min(left, FRESH_SECONDS)
        return caller

    async def _review(self, token: str) -> str:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        asked = make_application(
            self._node, REVIEWS, Verb.CREATE, option={}, body=msgspec.json.encode(body)
        )
        answer = await self._cloud.apply(asked)
        failure = failure_of(answer)
        if failure is not None:
            log.debug("no verdict about a token", extra={"cause": failure.message})
            raise Undeliverable("the cloud cannot judge this token now")
        return _user_of(msgspec.json.decode(answer.response_bytes()))

    async def _remembered(self, digest: str) -> str:
        entry = await self._store.meta(digest)
        if entry is not None and entry.type == VERDICT:
            verdict = _verdicts.decode(entry.value)
            if verdict.ends > time.time():
                return verdict.user
        raise Unauthenticated(
            "Unauthorized",
            description="The cloud is away, and this token was not seen here before.",
        )

    def remember(self, token: str, user: str) -> None:
        """Note whose a token is, as the cloud said; those without an end are not kept, ended ones go."""
        ends = _end_of(token)
        if not ends:
            return
        digest = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        text = msgspec.json.encode(_Verdict(user, ends)).decode()
        self._store.put_meta(MetaObject(digest, VERDICT, text), _logged)
        self._store.drop_ended(VERDICT, time.time())

    # --- rights -------------------------------------------------------------------------------

    async def require(self, caller: Caller, call: Call | Passed) -> None:
        """Errors: Forbidden; Unauthenticated for an anonymous client that a name might help."""
        if caller.is_admin or self._is_open(call):
            return
        if not caller.is_anonymous and await self._has_right(caller, call):
            return
        raise _refusal(caller, call)

    def _is_open(self, call: Call | Passed) -> bool:
        if isinstance(call, Passed):
            return True
        if self._mode != "strict" or call.verb not in READS:
            return False
        return call.plural != "secrets" and call.subresource in ("", METHODS)

    async def _has_right(self, caller: Caller, call: Call | Passed) -> bool:
        entries = await self._store.meta_of_type(ACCESS)
        return may(caller.name, call, (msgspec.json.decode(e.value) for e in entries))


def check_host(host: str) -> None:
    """Refuse names that others may let lead to this machine: a page in a browser here must not read us.

    Errors: Forbidden for a name with a dot that is no address and not the cluster's own.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").rstrip(".").lower()
    if "." not in name or name.endswith(_CLUSTER):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise Forbidden(
            f"anonymous requests must name this machine by address, not as {name[:100]!r}"
        ) from None


def _user_of(review: JsonObject) -> str:
    """Read a TokenReview's verdict. Errors: Unauthenticated."""
    status = review.get("status")
    user = status.get("user") if isinstance(status, dict) else None
    if not isinstance(status, dict) or status.get("authenticated") is not True:
        raise Unauthenticated("Unauthorized")
    name = user.get("username") if isinstance(user, dict) else None
    if not isinstance(name, str) or not name:
        raise Unauthenticated("Unauthorized")
    return name


def _end_of(token: str) -> float:
    """Return when a JWT ends, seconds since 1970; 0 where it does not say. Not a proof of anything."""
    parts = token.split(".")
    if len(parts) != 3:
        return 0.0
    try:
        body = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return _claims.decode(body).exp
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return 0.0


def _refusal(caller: Caller, call: Call | Passed) -> GatewayError:
    if isinstance(call, Passed):
        return Forbidden(f'forbidden: User "{caller.name}" cannot get path "{call.path}"')
    plural = f"{call.plural}.{call.group}" if call.group else call.plural
    where = f'in the namespace "{call.namespace}"' if call.namespace else "at the cluster scope"
    resource = f"{call.plural}/{call.subresource}" if call.subresource else call.plural
    return Forbidden(
        f'{plural} is forbidden: User "{caller.name}" cannot {call.verb} resource "{resource}"'
        f' in API group "{call.group}" {where}',
        details={"name": call.name, "group": call.group, "kind": call.plural},
    )


def _logged(result: bool | GatewayError | None) -> None:
    if isinstance(result, GatewayError):
        log.warning("a verdict about a token is not on disk", extra={"cause": result.message})
