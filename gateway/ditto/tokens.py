"""JSON Web Tokens of OpenID Connect providers: who issued one, is it genuine, whom does it stand for.

Keys are asked from the provider, kept for an hour, and asked again (at most every ten seconds) when a token
names a key that is not among them. Source: Ditto, OpenID Connect; RFC 7519; OpenID Connect Discovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import jwt
import msgspec

from gateway.config.ditto import OpenIdIssuer
from gateway.errors import BadRequest, GatewayError, Unauthenticated, Undeliverable
from gateway.model.json import Json, parse_pointer
from gateway.wire.ditto.placeholders import Template

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
MAX_TOKEN = 16_384
MAX_DOCUMENT = 262_144
LEEWAY_SECONDS = 10
KEYS_SECONDS = 3_600.0
RETRY_SECONDS = 10.0
FETCH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a token stands for, and until when (seconds since the epoch); what it says, checked."""

    subjects: tuple[str, ...]
    expires: float
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Provider:
    settings: OpenIdIssuer
    templates: tuple[Template, ...]
    keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    asked: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def _bare(issuer: str) -> str:
    """`https://accounts.acme.org/` -> `accounts.acme.org`: issuers are compared in this form."""
    return issuer.removeprefix("https://").removeprefix("http://").rstrip("/")


class Tokens:
    """Verifies tokens of the providers in the settings; `close` it at the end."""

    def __init__(self, issuers: Sequence[OpenIdIssuer]) -> None:
        self._providers = {_bare(one.issuer): _provider(one) for one in issuers}
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def verify(self, token: str) -> Bearer:
        """Check signature, times, issuer and audience.

        Errors: BadRequest `jwt:invalid` for what is no token; Unauthenticated
                `gateway:jwt.issuer.notsupported` or `gateway:authentication.failed`; Undeliverable
                `gateway:publickey.provider.unavailable`.
        """
        header, claims = _unverified(token)
        provider = self._providers.get(_bare(str(claims.get("iss", ""))))
        if provider is None:
            raise Unauthenticated(
                f"The JWT issuer '{str(claims.get('iss'))[:200]}' is not supported.",
                code="gateway:jwt.issuer.notsupported",
                description="Check if the JWT is correct.",
            )
        key = await self._key(provider, str(header.get("kid", "")))
        genuine = _decode(token, key, provider.settings.audience)
        return Bearer(_subjects(provider, genuine), float(genuine["exp"]), genuine)

    async def _key(self, provider: _Provider, kid: str) -> jwt.PyJWK:
        now = asyncio.get_running_loop().time()
        async with provider.lock:
            age = now - provider.asked
            if age > KEYS_SECONDS or (kid not in provider.keys and age > RETRY_SECONDS):
                provider.keys = await self._ask(provider.settings)
                provider.asked = now
        found = provider.keys.get(kid)
        if found is None and len(provider.keys) == 1 and not kid:
            return next(iter(provider.keys.values()))
        if found is None:
            raise _failed(f"The issuer has no key with id '{kid[:100]}'.")
        return found

    async def _ask(self, settings: OpenIdIssuer) -> dict[str, jwt.PyJWK]:
        try:
            uri = settings.jwks_uri or await self._discover(settings)
            document = await self._fetch(uri)
            keys = jwt.PyJWKSet.from_dict(cast(dict[str, Any], document)).keys
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, jwt.PyJWTError) as error:
            raise Undeliverable(
                f"The keys of issuer '{settings.issuer}' could not be read.",
                code="gateway:publickey.provider.unavailable",
                description=f"{type(error).__name__}. Try again later.",
            ) from error
        return {key.key_id or "": key for key in keys if (key.algorithm_name or "") in ALGORITHMS}

    async def _discover(self, settings: OpenIdIssuer) -> str:
        base = settings.issuer if "://" in settings.issuer else f"https://{settings.issuer}"
        document = await self._fetch(f"{base.rstrip('/')}/.well-known/openid-configuration")
        uri = document.get("jwks_uri") if isinstance(document, dict) else None
        return str(uri or "")

    async def _fetch(self, uri: str) -> Json:
        if self._client is None:
            timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
            self._client = aiohttp.ClientSession(timeout=timeout, trust_env=True)
        body = bytearray()
        async with self._client.get(uri, raise_for_status=True) as response:
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_DOCUMENT:
                    raise ValueError("document too large")
        return cast(Json, msgspec.json.decode(body))


def _provider(settings: OpenIdIssuer) -> _Provider:
    allowed = frozenset(("jwt",))
    return _Provider(settings, tuple(Template.parse(t, allowed) for t in settings.auth_subjects))


def _unverified(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    try:
        if len(token) > MAX_TOKEN:
            raise jwt.DecodeError("too long")
        header = jwt.get_unverified_header(token)
        return header, jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise BadRequest(
            "The JWT is invalid.",
            code="jwt:invalid",
            status=401,
            description=f"It could not be parsed: {error}.",
        ) from error


def _decode(token: str, key: jwt.PyJWK, audience: str) -> Mapping[str, Any]:
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=audience or None,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss"], "verify_aud": bool(audience)},
        )
    except jwt.PyJWTError as error:
        raise _failed(f"The JWT could not be verified: {error}.") from error
    return claims


def _failed(reason: str) -> GatewayError:
    return Unauthenticated(
        "The JWT could not be verified.",
        code="gateway:authentication.failed",
        description=reason,
    )


def _subjects(provider: _Provider, claims: Mapping[str, Any]) -> tuple[str, ...]:
    scope = {"jwt": lambda name: claim(claims, name)}
    found = (text for template in provider.templates for text in template.resolve_all(scope))
    subjects = tuple(dict.fromkeys(f"{provider.settings.name}:{text}" for text in found if text))
    if not subjects:
        raise _failed("None of the configured subjects is in the token.")
    return subjects


def claim(claims: Mapping[str, Any], name: str) -> Sequence[str] | None:
    """A claim by pointer; an array gives several values, an object is its JSON (for `fn:format`)."""
    value: Any = claims
    for segment in parse_pointer(name):
        value = value.get(segment) if isinstance(value, dict) else None
    if isinstance(value, list):
        return [text for item in value if (text := _claim_text(item)) is not None]
    text = _claim_text(value)
    return None if text is None else [text]


def _claim_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if isinstance(value, int | dict) else None
