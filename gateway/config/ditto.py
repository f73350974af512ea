"""Settings of the Ditto-compatible service."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.remote_things import RemoteThings
from gateway.config.wot import Wot


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIdIssuer:
    """One OpenID Connect provider whose tokens are taken."""

    name: str
    """What its subjects begin with, e.g. `keycloak` for `keycloak:alice`."""
    issuer: str
    """The `iss` of tokens, compared without scheme and last slash; http:// asks for keys in plain text."""
    auth_subjects: tuple[str, ...] = ("{{ jwt:sub }}",)
    """Templates of the subjects that a token stands for."""
    jwks_uri: str = ""
    """Where the keys are; empty asks `<issuer>/.well-known/openid-configuration`."""
    audience: str = ""
    """The `aud` that tokens must carry; empty takes any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """Many commands in one request, `/api/2/bulk`."""

    max_line: int = 262_144
    """Bytes of one command."""
    in_flight: int = 256
    """Commands of one request that are under way; no more are read meanwhile."""
    pending: int = 4_194_304
    """Bytes of one request's commands under way and answers not sent yet."""
    max_array: int = 1_000
    """Commands in a JSON array; of lines there may be any number."""
    max_array_bytes: int = 1_048_576
    """Bytes of a JSON array."""
    max_requests: int = 16
    """Bulk requests at a time; more are answered with 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DittoHttp:
    """HTTP API, WebSocket and SSE."""

    bind: str = "127.0.0.1:8080"
    """host:port; port 0 takes a free one."""
    users_file: str = ""
    """File with more users, `name:bcrypt-hash` per line; empty for none."""
    pre_authentication: bool = False
    """True trusts the header x-ditto-pre-authenticated of a reverse proxy in front."""
    openid: tuple[OpenIdIssuer, ...] = ()
    """OpenID Connect providers."""
    max_body: int = 262_144
    """Bytes in one request body; larger ones are answered with 413."""
    cors_origins: tuple[str, ...] = ()
    """Origins that browsers may call from; empty allows none, `*` all."""
    bulk: Bulk = field(default_factory=Bulk)


@dataclass(frozen=True, slots=True, kw_only=True)
class DittoWebSocket:
    """Streaming sessions."""

    outbound_buffer: int = 200
    """Signals that wait for one session; one more ends it."""
    ping_seconds: float = 30.0
    """Seconds between the server's pings."""
    max_frame: int = 262_144
    """Bytes in one received frame."""
    max_rate: float = 0.0
    """Messages per second that one WebSocket session may send; more are refused (429). 0 sets no limit."""
    max_sessions: int = 10_000
    """Open WebSocket and SSE sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Things:
    """The things service."""

    max_thing: int = 102_400
    """Bytes of a thing's JSON."""
    max_policy: int = 102_400
    """Bytes of a policy's JSON."""
    cache: int = 50_000
    """Things kept in memory."""
    historical_headers: tuple[str, ...] = ()
    """Headers of a change that `historical-headers` tells, e.g. `ditto-originator`, `correlation-id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How much of the past is kept: revisions, and what streams of past events tell."""

    retention: float = 604_800.0
    """Seconds back to which past states of things can be read; 0 keeps the newest alone."""
    revisions: int = 0
    """Newest revisions of a thing that are kept at most; 0 for any number."""
    policy_retention: float = 2_592_000.0
    """Seconds back to which past states of policies can be read."""
    policy_revisions: int = 0
    """Newest revisions of a policy that are kept at most; 0 for any number."""
    interval: float = 600.0
    """Seconds between two times that what is older is dropped; it goes in small steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRoot:
    """Policies whose implicit entries count in every policy of a namespace."""

    namespace: str
    """A namespace, `<prefix>.*` for those below it, or `*` for all."""
    policies: tuple[str, ...]
    """Policy IDs; one that does not exist is skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreationRule:
    """Who may, or may not, create what."""

    resource_types: tuple[str, ...] = ()
    """`thing`, `policy`; empty takes both."""
    namespaces: tuple[str, ...] = ()
    """Patterns with `*` and `?`; empty takes all."""
    auth_subjects: tuple[str, ...] = ()
    """Patterns of authorization subjects with `*` and `?`; empty takes all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRule:
    """Which namespaces callers may touch at all, where its conditions hold."""

    conditions: tuple[str, ...] = ()
    """Templates that all have a value, e.g. `{{ jwt:iss | fn:filter('like','https://acme.org*') }}`."""
    resource_types: tuple[str, ...] = ()
    """`thing`, `policy`; empty takes both."""
    allowed_namespaces: tuple[str, ...] = ()
    """Patterns with `*` and `?`; empty allows all."""
    blocked_namespaces: tuple[str, ...] = ()
    """Patterns of what is blocked even where it is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """Creation of things and policies: some rule of `grant` fits, and none of `revoke`."""

    grant: tuple[CreationRule, ...] = (CreationRule(),)
    """What is allowed; the default allows everything."""
    revoke: tuple[CreationRule, ...] = ()
    """What is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policies service."""

    expiry_grain: float = 3_600.0
    """Seconds; the expiry of subjects is rounded up to a multiple of it; 0 keeps it as given."""
    announcement_grain: float = 60.0
    """Seconds; the time before expiry at which it is announced is rounded up to a multiple of it."""
    announcement_spread: float = 300.0
    """Seconds; announcements come up to this much earlier, at random, where a subject sets nothing else."""
    announcement_grace: float = 14_400.0
    """Seconds after expiry during which an announcement that nobody acknowledged is repeated."""
    announce_when_deleted: bool = True
    """False announces nothing when a subject is deleted."""
    historical_headers: tuple[str, ...] = ()
    """Headers of a change that `historical-headers` tells: `ditto-originator`, `correlation-id`."""
    lockout_prevention: bool = True
    """False lets policies be without anyone who may change them."""
    token_subject: str = "integration:{{ policy-entry:label }}:{{ jwt:aud }}"  # noqa: S105
    """Template of the subject that activateTokenIntegration adds."""
    namespace_roots: tuple[NamespaceRoot, ...] = ()
    """Root policies by namespace; of overlapping patterns the closest comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Things that belong to Kubernetes Devices."""

    subjects: tuple[str, ...] = ()
    """Authorization subjects of the entry OPERATORS in `<ns>:twinspan-devices`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ditto:
    """The Ditto-compatible service."""

    mode: str = "embedded"
    """`embedded` runs the service here; `remote` keeps the things of Devices in a Ditto elsewhere."""
    remote: RemoteThings = field(default_factory=RemoteThings)
    http: DittoHttp = field(default_factory=DittoHttp)
    websocket: DittoWebSocket = field(default_factory=DittoWebSocket)
    things: Things = field(default_factory=Things)
    policies: Policies = field(default_factory=Policies)
    history: History = field(default_factory=History)
    creation: Creation = field(default_factory=Creation)
    namespace_access: tuple[NamespaceRule, ...] = ()
    """Who may touch which namespaces over HTTP, WebSocket and SSE; without rules everybody all."""
    devices: Devices = field(default_factory=Devices)
    wot: Wot = field(default_factory=Wot)
