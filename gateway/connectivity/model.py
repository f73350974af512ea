"""A managed connection as a value: read once from its document, every template parsed, every rule checked.

The document is what users write for Ditto; members that Twinspan has no use for (failover, certificates,
client count ...) are kept and given back as they are. Source: Ditto, connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from gateway.connectivity.errors import invalid
from gateway.ditto.subscriptions import Subscription
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject
from gateway.model.members import Members
from gateway.wire.ditto.headers import LABEL_HINT, is_label
from gateway.wire.ditto.placeholders import Expression, Template

CONNECTION_ID = re.compile(r"[a-zA-Z0-9\-_:]{1,100}")
MAX_LINKS = 4
"""Sources, and targets, of one connection."""
MAX_MAPPERS = 10
MASK = "*****"
TYPES = frozenset(("amqp-091", "amqp-10", "mqtt", "mqtt-5", "kafka", "http-push", "hono"))
OPEN, CLOSED = "open", "closed"
ANSWERS = frozenset(("response", "error", "nack"))
"""Kinds of answers; `nack` is one with acknowledgements that failed."""
DEFAULT_ANSWERS = frozenset(("response", "error"))

_ENTITY = frozenset(("thing", "entity", "policy", "feature"))
_INPUT = frozenset(("header", "source"))
_SOURCE_HEADERS = _ENTITY | frozenset(
    ("header", "source", "topic", "resource", "connection", "time", "request")
)
_TARGET_HEADERS = _SOURCE_HEADERS - {"source"}
"""What comes from one source may go to targets that know nothing of it."""


@dataclass(frozen=True, slots=True)
class Enforcement:
    """Whom a source may speak for: one of `filters`, resolved for the mapped signal, must equal `input`."""

    input: Template
    filters: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class ReplyTarget:
    """Where a source's responses go."""

    enabled: bool
    address: Template | None
    headers: Mapping[str, Template]
    expected: frozenset[str]


@dataclass(frozen=True, slots=True)
class AckRequests:
    """Acknowledgements that every signal of a source asks for, where the filter resolves to something."""

    includes: tuple[str, ...]
    filter: Template | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where signals come in."""

    addresses: tuple[str, ...]
    authorization: tuple[Template, ...]
    enforcement: Enforcement | None = None
    headers: Mapping[str, Template] = field(default_factory=dict)
    mappers: tuple[str, ...] = ("Ditto",)
    reply: ReplyTarget | None = None
    acknowledgements: AckRequests | None = None
    declared: tuple[str, ...] = ()
    """Labels that what comes in here may acknowledge."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What a target is told of: a kind of signal, narrowed by a subscription."""

    kind: str
    subscription: Subscription
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where signals go out."""

    address: Template
    topics: tuple[Topic, ...]
    headers: Mapping[str, Template] = field(default_factory=dict)
    mappers: tuple[str, ...] = ("Ditto",)
    issued: str | None = None
    """The label that publishing acknowledges."""


@dataclass(frozen=True, slots=True)
class MapperDefinition:
    """A payload mapper with its options; it runs only when all its conditions hold."""

    engine: str
    options: JsonObject
    incoming: tuple[Expression, ...] = ()
    outgoing: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversion:
    """Whether a connection sends answers by way of others, and whose answers it takes.

    Shape:  `authorized` are the connections whose answers a target of diversions takes.
    """

    is_source: bool = False
    keeps_answers: bool = False
    is_target: bool = False
    authorized: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, own: Mapping[str, str]) -> Diversion:
        """Read `specificConfig`."""
        listed = own.get("authorized-connections-as-sources", "").split(",")
        return cls(
            is_source=own.get("is-diversion-source", "").lower() == "true",
            keeps_answers=own.get("preserve-normal-response-via-source", "").lower() == "true",
            is_target=own.get("is-diversion-target", "").lower() == "true",
            authorized=frozenset(one.strip() for one in listed if one.strip()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One connection.

    Shape:  `document` as it was given, with `id`; `tenant` the Hono tenant that a connection of type `hono`
            speaks for; `fails_over` asks to try again what could not be opened; `clients` how many clients
            its owner wants.
    """

    id: str
    type: str
    is_open: bool
    document: JsonObject
    uri: str = ""
    tenant: str = ""
    sources: tuple[Source, ...] = ()
    targets: tuple[Target, ...] = ()
    mappers: Mapping[str, MapperDefinition] = field(default_factory=dict)
    diversion: Diversion = field(default_factory=Diversion)
    fails_over: bool = True
    clients: int = 1

    @classmethod
    def unread(cls, value: JsonObject, connection_id: str) -> Connection:
        """One whose document is on disk but cannot be read any more: it does nothing and can be mended."""
        status = value.get("connectionStatus")
        document = {**value, "id": connection_id, "connectionStatus": status or CLOSED}
        kind = str(value.get("connectionType", ""))
        return cls(id=connection_id, type=kind, is_open=False, document=document)

    @property
    def originator(self) -> str:
        """What marks its own signals, so that it does not get them back."""
        return f"connection:{self.id}"

    @property
    def labels(self) -> tuple[str, ...]:
        """All acknowledgement labels that are its own."""
        issued = tuple(target.issued for target in self.targets if target.issued)
        return (*(label for source in self.sources for label in source.declared), *issued)

    @classmethod
    def parse(cls, value: Json, connection_id: str) -> Connection:
        """Read a document.

        Errors: BadRequest `connectivity:connection.id.invalid`, `...id.notsettable`,
                `...connection.configuration.invalid`, `...connection.uri.invalid`, `placeholder:...`.
        """
        if CONNECTION_ID.fullmatch(connection_id) is None:
            raise BadRequest(
                f"The connection ID '{connection_id[:100]}' is not valid.",
                code="connectivity:connection.id.invalid",
                description="It has 1 to 100 of the characters a-z, A-Z, 0-9, '-', '_' and ':'.",
            )
        try:
            return _connection(Members(value), value, connection_id)
        except BadRequest as error:
            raise _as_configuration(error) from error


def _as_configuration(error: GatewayError) -> GatewayError:
    """What the reader of JSON objects found, under the code of connections; own codes stay."""
    return invalid(error.message) if ":" not in error.code else error


def _connection(members: Members, value: Json, connection_id: str) -> Connection:
    assert isinstance(value, dict)  # noqa: S101  Members takes nothing else
    kind = members.required_text("connectionType")
    if kind not in TYPES:
        raise members.fail("connectionType", f"one of {', '.join(sorted(TYPES))}, got {kind!r}")
    status = members.text("connectionStatus") or OPEN
    if status not in (OPEN, CLOSED):
        raise members.fail("connectionStatus", f"open or closed, got {status!r}")
    own = {k: str(v) for k, v in (members.object("specificConfig") or {}).items()}
    mappers = dict(_mapper_definitions(members))
    sources = tuple(_source(one, connection_id) for one in _links(members, "sources"))
    diversion = Diversion.parse(own)
    targets = tuple(
        _target(one, connection_id, diversion.is_target) for one in _links(members, "targets")
    )
    if not sources and not targets:
        raise invalid("A connection needs at least one source or target.")
    return Connection(
        id=connection_id,
        type=kind,
        is_open=status == OPEN,
        document={**value, "id": connection_id, "connectionStatus": status},
        uri=_uri(members.text("uri") or "", kind),
        tenant=own.get("honoTenantId", connection_id) if kind == "hono" else "",
        sources=sources,
        targets=targets,
        mappers=mappers,
        diversion=diversion,
        fails_over=members.flag("failoverEnabled", True),
        clients=members.integer("clientCount", 1, 1),
    )


def _uri(text: str, kind: str) -> str:
    if kind == "hono":
        return text
    try:
        parts = urlsplit(text)
        reachable = bool(parts.scheme and parts.hostname and parts.port)
    except ValueError:
        reachable = False
    if not reachable:
        raise BadRequest(
            f"The URI '{masked_uri(text)[:200]}' is not valid.",
            code="connectivity:connection.uri.invalid",
            description="It is <scheme>://[<user>:<password>@]<host>:<port>[/<path>].",
        )
    return text


def masked_uri(text: str) -> str:
    """An URI with its password hidden."""
    return re.sub(r"(//[^/:@]*:)[^@]*@", rf"\g<1>{MASK}@", text)


def _links(members: Members, name: str) -> Iterator[Members]:
    for at, one in enumerate(members.each(name)):
        if at >= MAX_LINKS:
            raise invalid(f"{name}: at most {MAX_LINKS} are allowed.")
        yield one


# --- sources -----------------------------------------------------------------------------------


def _source(members: Members, connection_id: str) -> Source:
    addresses = members.texts("addresses")
    if not addresses:
        raise members.fail("addresses", "a non-empty array")
    return Source(
        addresses=addresses,
        authorization=_authorization(members, _SOURCE_HEADERS),
        enforcement=_enforcement(members.members("enforcement")),
        headers=_headers(members, _SOURCE_HEADERS),
        mappers=_mapper_names(members),
        reply=_reply(members.members("replyTarget")),
        acknowledgements=_ack_requests(members.members("acknowledgementRequests")),
        declared=tuple(_label(one, connection_id) for one in members.texts("declaredAcks")),
    )


def _ack_requests(members: Members | None) -> AckRequests | None:
    if members is None:
        return None
    includes = members.texts("includes")
    for label in includes:
        if not is_label(label):
            raise members.fail("includes", LABEL_HINT)
    text = members.text("filter")
    return AckRequests(includes, _filter(text) if text else None) if includes else None


def _filter(text: str) -> Template:
    """An expression with or without its braces."""
    return Template.parse(text if "{{" in text else f"{{{{ {text} }}}}")


def _label(text: str, connection_id: str) -> str:
    """A label of a connection: it begins with the connection's id.

    Errors: BadRequest `connectivity:connection.configuration.invalid`.
    """
    label = Template.parse(text, frozenset(("connection",))).resolve(
        {"connection": {"id": connection_id}.get}
    )
    if label is None or not is_label(label) or not label.startswith(f"{connection_id}:"):
        raise invalid(
            f"The acknowledgement label '{text[:200]}' is not valid: it begins with the connection's"
            f" ID and a colon. {LABEL_HINT}"
        )
    return label


def _authorization(members: Members, prefixes: frozenset[str]) -> tuple[Template, ...]:
    subjects = members.texts("authorizationContext")
    if not subjects:
        raise members.fail("authorizationContext", "a non-empty array of subjects")
    return tuple(Template.parse(subject, prefixes) for subject in subjects)


def _enforcement(members: Members | None) -> Enforcement | None:
    if members is None:
        return None
    wanted = members.text("input")
    filters = members.texts("filters")
    if not wanted or not filters:
        return None
    return Enforcement(
        Template.parse(wanted, _INPUT), tuple(Template.parse(one, _ENTITY) for one in filters)
    )


def _headers(members: Members, prefixes: frozenset[str]) -> dict[str, Template]:
    given = members.object("headerMapping") or {}
    return {name: Template.parse(str(text), prefixes) for name, text in given.items()}


def _reply(members: Members | None) -> ReplyTarget | None:
    if members is None:
        return None
    address = members.text("address")
    expected = frozenset(members.texts("expectedResponseTypes")) or DEFAULT_ANSWERS
    if not expected <= ANSWERS:
        raise members.fail("expectedResponseTypes", f"of {', '.join(sorted(ANSWERS))}")
    return ReplyTarget(
        enabled=members.flag("enabled", False),
        address=Template.parse(address, _TARGET_HEADERS) if address else None,
        headers=_headers(members, _TARGET_HEADERS),
        expected=expected,
    )


# --- targets -----------------------------------------------------------------------------------

TWIN_EVENTS = "_/_/things/twin/events"
LIVE_MESSAGES = "_/_/things/live/messages"
LIVE_COMMANDS = "_/_/things/live/commands"
LIVE_EVENTS = "_/_/things/live/events"
POLICY_ANNOUNCEMENTS = "_/_/policies/announcements"
CONNECTION_ANNOUNCEMENTS = "_/_/connections/announcements"
TOPICS = (
    TWIN_EVENTS,
    LIVE_MESSAGES,
    LIVE_COMMANDS,
    LIVE_EVENTS,
    POLICY_ANNOUNCEMENTS,
    CONNECTION_ANNOUNCEMENTS,
)


def _target(members: Members, connection_id: str, is_diversion: bool) -> Target:
    scope = {"connection": {"id": connection_id}.get}
    subjects = tuple(
        subject
        for template in _authorization(members, frozenset(scope))
        if (subject := template.resolve(scope))
    )
    topics, issued = members.texts("topics"), members.text("issuedAcknowledgementLabel")
    if not topics and not is_diversion:
        raise members.fail("topics", "a non-empty array of topics")
    return Target(
        address=Template.parse(members.required_text("address"), _TARGET_HEADERS),
        topics=tuple(_topic(text, subjects) for text in topics),
        headers=_headers(members, _TARGET_HEADERS),
        mappers=_mapper_names(members),
        issued=_label(issued, connection_id) if issued else None,
    )


def _topic(text: str, subjects: tuple[str, ...]) -> Topic:
    kind, _, query = text.partition("?")
    if kind not in TOPICS:
        raise BadRequest(
            f"The topic '{text[:200]}' is not valid.",
            code="connectivity:topic.invalid",
            description=f"Topics: {', '.join(TOPICS)}.",
        )
    parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=10))
    return Topic(kind, Subscription.parse(subjects, parameters), text)


# --- mappers -----------------------------------------------------------------------------------


def _mapper_names(members: Members) -> tuple[str, ...]:
    names = members.texts("payloadMapping") or ("Ditto",)
    if len(names) > MAX_MAPPERS:
        raise members.fail("payloadMapping", f"at most {MAX_MAPPERS} mappers")
    return names


def _mapper_definitions(members: Members) -> Iterator[tuple[str, MapperDefinition]]:
    for name, value in (members.object("mappingDefinitions") or {}).items():
        one = Members(value, f"mappingDefinitions.{name}")
        yield (
            name,
            MapperDefinition(
                one.required_text("mappingEngine"),
                one.object("options") or {},
                _conditions(one, "incomingConditions"),
                _conditions(one, "outgoingConditions"),
            ),
        )


def _conditions(members: Members, name: str) -> tuple[Expression, ...]:
    given = (members.object(name) or {}).values()
    return tuple(Expression.parse(str(text), _SOURCE_HEADERS) for text in given)
