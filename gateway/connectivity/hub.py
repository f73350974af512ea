"""All managed connections: kept in the store, opened and closed, asked about.

One owner writes; commands on connections run one after another. A connection that cannot be opened stays in
the list with its reason, and never keeps the others from starting.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from gateway.connectivity.endpoints import Northbound, fault_of
from gateway.connectivity.errors import invalid, not_found
from gateway.connectivity.journal import Category, Entry, Journal, Step
from gateway.connectivity.mappers.base import Outgoing
from gateway.connectivity.mappers.engines import configured
from gateway.connectivity.model import CLOSED, MASK, OPEN, Connection, masked_uri
from gateway.connectivity.runtime import Rooms, Runtime, Taps, event_tenants, now_text
from gateway.connectivity.store import ConnectionStore, Stored
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import Conflict, GatewayError, NotFound, Rejected, Undeliverable
from gateway.model.json import Json, JsonObject
from gateway.model.message import CommandResponse
from gateway.model.ports import CommandRouting, Done
from gateway.observe.metrics import Metrics
from gateway.runtime.backoff import Backoff
from gateway.twin.conditions import revision_tag

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 1_000
RETRY_FIRST, RETRY_CAP = 1.0, 600.0
"""Seconds between tries to open what could not be opened for a while."""
DEFAULTS: JsonObject = {
    "name": "",
    "uri": "",
    "sources": [],
    "targets": [],
    "clientCount": 1,
    "failoverEnabled": True,
    "validateCertificates": True,
    "processorPoolSize": 1,
    "specificConfig": {},
    "tags": [],
}
"""What a connection is shown with where its document says nothing."""
COMMAND_PREFIX = "connectivity.commands:"
_SECRETS = ("cert", "key", "password", "clientSecret", "secretKey", "sharedKey", "secret")


@dataclass(slots=True)
class Managed:
    """One connection with what is known of its life."""

    stored: Stored
    connection: Connection
    journal: Journal = field(default_factory=Journal)
    runtime: Runtime | None = None
    fault: str | None = None
    since: str = field(default_factory=now_text)
    backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_FIRST, RETRY_CAP))
    retry: asyncio.TimerHandle | None = None

    @property
    def recovery_status(self) -> str:
        if self.runtime is not None:
            return "succeeded"
        return "ongoing" if self.retry is not None else "unknown"

    @property
    def live_status(self) -> str:
        if self.runtime is not None:
            return "open"
        return "misconfigured" if self.fault else "closed"


class Connections:
    """Module, and the ResponseSink of all open connections."""

    name = "connectivity"

    def __init__(
        self,
        store: ConnectionStore,
        things: ThingsService,
        policies: PoliciesService,
        routing: CommandRouting,
        taps: Taps,
        northbound: Northbound,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._taps = taps
        self._northbound = northbound
        self._rooms = Rooms(
            things=things,
            policies=policies,
            routing=routing,
            taps=taps,
            metrics=metrics,
            begin=self._begin,
            divert=self._divert,
        )
        self._managed: dict[str, Managed] = {}
        self._lock = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Open what is to be open, and keep it so until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for stored in await self._store.all():
                    self._load(stored)
                ready()
                await asyncio.Event().wait()
        finally:
            for managed in self._managed.values():
                _stop(managed)
            self._tasks = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._tasks is None:
            work.close()
            raise Undeliverable("Connections are not served now.")
        return self._tasks.create_task(work)

    def _load(self, stored: Stored) -> None:
        try:
            connection = Connection.parse(stored.document, stored.connection_id)
        except GatewayError as error:
            self._load_unread(stored, error)
            return
        managed = self._managed[stored.connection_id] = Managed(stored, connection)
        if connection.is_open:
            self._open(managed)

    def _load_unread(self, stored: Stored, error: GatewayError) -> None:
        """Keep what rules of today refuse, so that its owner sees why and can mend it."""
        log.warning(
            "connection cannot be read",
            extra={"connection": stored.connection_id, "cause": error.message},
        )
        connection = Connection.unread(stored.document, stored.connection_id)
        managed = self._managed[stored.connection_id] = Managed(stored, connection)
        managed.journal.enable()
        managed.fault = _reason(error)
        _note(managed, "", managed.fault)

    # --- opening and closing --------------------------------------------------------------------

    def _open(self, managed: Managed) -> None:
        """Open a connection, or note why it cannot be."""
        _stop(managed)
        managed.since = now_text()
        managed.journal.enable()
        managed.fault = fault_of(managed.connection, self._northbound)
        if managed.fault is None:
            try:
                runtime = Runtime(managed.connection, self._rooms, managed.journal)
                runtime.open()
                managed.runtime = runtime
                managed.backoff.reset()
            except GatewayError as error:
                managed.fault = _reason(error)
                self._try_again(managed, error)
        _note(managed, "Connection was opened.", managed.fault)
        if managed.connection.clients > 1 and managed.runtime is not None:
            _note(managed, "It is served in this process, by one client.")
        log.info(
            "connection opened" if managed.runtime else "connection cannot be opened",
            extra={"connection": managed.connection.id, "fault": managed.fault},
        )

    def _try_again(self, managed: Managed, error: GatewayError) -> None:
        """Come back later for what others may give up, e.g. a label of acknowledgements."""
        if managed.connection.fails_over and isinstance(error, Conflict | Undeliverable):
            managed.retry = asyncio.get_running_loop().call_later(
                managed.backoff.next(), self._open, managed
            )

    def _divert(self, target: str, origin: str, index: int, answer: Outgoing) -> None:
        """Give the answer to a command of one connection's source to another connection.

        Errors: NotFound, where it is not open; those of `Runtime.take_diverted`.
        """
        managed = self._managed.get(target)
        if managed is None or managed.runtime is None:
            raise NotFound(f"The connection '{target[:100]}' is not open.")
        managed.runtime.take_diverted(origin, index, answer)

    # --- ResponseSink ---------------------------------------------------------------------------

    def owns(self, tenant: str, reply_id: str) -> bool:
        """True for reply addresses of an open connection."""
        return self._owner(tenant, reply_id) is not None

    def take(self, response: CommandResponse, done: Done) -> None:
        """Hand a device's answer on; it is accepted, its fate is in the connection's log."""
        owner = self._owner(response.tenant, response.reply_id)
        if owner is None:
            done(Rejected("no open connection owns this reply address", status=404))
            return
        owner.take_response(response)
        done(None)

    def _owner(self, tenant: str, reply_id: str) -> Runtime | None:
        for managed in self._managed.values():
            if managed.runtime is not None and managed.runtime.owns(tenant, reply_id):
                return managed.runtime
        return None

    # --- management -----------------------------------------------------------------------------

    def all(self) -> list[JsonObject]:
        """Every connection's document, secrets masked."""
        return [self._shown(managed) for _, managed in sorted(self._managed.items())]

    def get(self, connection_id: str) -> JsonObject:
        """One connection's document, secrets masked.

        Errors: NotFound `connectivity:connection.notfound`.
        """
        return self._shown(self._find(connection_id))

    def has(self, connection_id: str) -> bool:
        """True for a connection that is stored, open or not."""
        return connection_id in self._managed

    def tag(self, connection_id: str) -> str:
        """The entity tag of a connection. Errors as `get`."""
        return revision_tag(self._find(connection_id).stored.revision)

    async def create(self, document: Json, connection_id: str | None = None) -> JsonObject:
        """Store a new connection and open it where it says so.

        Errors: BadRequest `connectivity:*`, `placeholder:*`; Conflict
                `connectivity:connection.conflict`; NotBuilt for mappers that are not built.
        """
        if connection_id is None:
            if isinstance(document, dict) and "id" in document:
                raise invalid_id_given()
            connection_id = str(uuid.uuid4())
        async with self._lock:
            if connection_id in self._managed:
                raise Conflict(
                    f"A Connection with ID '{connection_id[:100]}' exists already.",
                    code="connectivity:connection.conflict",
                )
            if len(self._managed) >= MAX_CONNECTIONS:
                raise invalid(f"At most {MAX_CONNECTIONS} connections are kept.")
            return await self._put(document, connection_id)

    async def put(
        self, document: Json, connection_id: str, check: Callable[[], None] | None = None
    ) -> bool:
        """Store a connection under an id, new or again; True when it is new.

        Shape:  `check` is asked when it is its turn, and may refuse.
        Errors: as `create`; what `check` raises.
        """
        if isinstance(document, dict) and document.get("id") not in (None, connection_id):
            raise invalid_id_given()
        async with self._lock:
            if check is not None:
                check()
            is_new = connection_id not in self._managed
            if is_new and len(self._managed) >= MAX_CONNECTIONS:
                raise invalid(f"At most {MAX_CONNECTIONS} connections are kept.")
            await self._put(document, connection_id)
        return is_new

    async def _put(self, document: Json, connection_id: str) -> JsonObject:
        before = self._managed.get(connection_id)
        if before is not None and isinstance(document, dict):
            document = _with_old_password(document, before.connection)
        connection = Connection.parse(document, connection_id)
        configured(connection)  # mappers that cannot work are refused before anything is stored
        stored = await self._store.put(connection_id, connection.document)
        managed = self._managed[connection_id] = Managed(
            stored, connection, before.journal if before else Journal()
        )
        if before is not None:
            _stop(before)
            self._forget_cursors(before.connection, connection)
        if connection.is_open:
            self._open(managed)
        return self._shown(managed)

    async def delete(self, connection_id: str, check: Callable[[], None] | None = None) -> None:
        """Close and forget a connection; `check` as in `put`.

        Errors: NotFound; StoreUnavailable; what `check` raises.
        """
        async with self._lock:
            managed = self._find(connection_id)
            if check is not None:
                check()
            await self._store.delete(connection_id)
            del self._managed[connection_id]
            _stop(managed)
            self._forget_cursors(managed.connection, None)

    def _forget_cursors(self, before: Connection, after: Connection | None) -> None:
        """Events need not be kept any more for tenants that it no longer takes events of."""
        kept = event_tenants(after) if after else ()
        gone = [tenant for tenant in event_tenants(before) if tenant not in kept]
        if gone:
            self._taps.forget_tap(before.id, gone)

    async def command(self, connection_id: str, name: str) -> None:
        """Do what `openConnection`, `closeConnection` ... say.

        Errors: NotFound; BadRequest `connectivity:command.invalid`.
        """
        managed = self._find(connection_id)
        match name.strip().removeprefix(COMMAND_PREFIX):
            case "openConnection":
                await self._set_status(managed, OPEN)
            case "closeConnection":
                await self._set_status(managed, CLOSED)
            case "resetConnectionMetrics":
                managed.journal.reset_metrics()
            case "enableConnectionLogs":
                managed.journal.enable()
            case "resetConnectionLogs":
                managed.journal.reset_log()
            case _:
                raise Rejected(
                    f"The command '{name[:100]}' is not known.", code="connectivity:command.invalid"
                )

    async def _set_status(self, managed: Managed, status: str) -> None:
        async with self._lock:
            document: JsonObject = {**managed.connection.document, "connectionStatus": status}
            managed.connection = Connection.parse(document, managed.connection.id)
            managed.stored = await self._store.put(managed.connection.id, document)
            if status == OPEN:
                self._open(managed)
            else:
                _stop(managed)
                managed.fault = None
                managed.since = now_text()
                _note(managed, "Connection was closed.")

    def test(self, document: Json) -> str:
        """Say whether a connection could be opened; nothing is stored.

        Errors: as `create`; what would be `misconfigured` is BadRequest.
        """
        connection = Connection.parse(document, "test")
        configured(connection)
        fault = fault_of(connection, self._northbound)
        if fault is not None:
            raise invalid(fault)
        return "Connection was successfully tested."

    # --- what is known --------------------------------------------------------------------------

    def status(self, connection_id: str) -> JsonObject:
        """The status, as Ditto shows it."""
        managed = self._find(connection_id)
        live = managed.live_status
        recovery = managed.recovery_status
        detail = managed.fault or ("CONNECTED" if managed.runtime else "DISCONNECTED")
        shown: JsonObject = {
            "connectionId": connection_id,
            "connectionStatus": str(managed.connection.document["connectionStatus"]),
            "liveStatus": live,
            "recoveryStatus": recovery,
        }
        if managed.runtime is not None:
            shown["connectedSince"] = managed.runtime.since
        one: JsonObject = {
            "client": "twinspan",
            "status": live,
            "statusDetails": detail,
            "inStateSince": managed.since,
        }
        sources = [a for s in managed.connection.sources for a in s.addresses]
        targets = [t.address.text for t in managed.connection.targets]
        shown["clientStatus"] = [{"type": "client", "recoveryStatus": recovery, **one}]
        shown["sourceStatus"] = [{"type": "source", "address": a, **one} for a in sources]
        shown["targetStatus"] = [{"type": "target", "address": a, **one} for a in targets]
        shown["sshTunnelStatus"] = []
        return shown

    def metrics(self, connection_id: str) -> JsonObject:
        """The counts, as Ditto shows them."""
        return {"connectionId": connection_id, **self._find(connection_id).journal.metrics()}

    def logs(self, connection_id: str) -> JsonObject:
        """The log, as Ditto shows it."""
        return {"connectionId": connection_id, **self._find(connection_id).journal.logs()}

    def _find(self, connection_id: str) -> Managed:
        managed = self._managed.get(connection_id)
        if managed is None:
            raise not_found(connection_id)
        return managed

    @staticmethod
    def _shown(managed: Managed) -> JsonObject:
        stored = managed.stored
        shown = masked(managed.connection.document)
        assert isinstance(shown, dict)  # noqa: S101  masking keeps the shape
        return {
            **DEFAULTS,
            **shown,
            "_revision": stored.revision,
            "_created": stored.created,
            "_modified": stored.modified,
        }


def invalid_id_given() -> GatewayError:
    """An id where none, or another one, belongs."""
    return Rejected(
        "The Connection ID in the request body is not allowed, or not that of the path.",
        code="connectivity:id.notsettable",
        description="Leave it out.",
    )


def masked(value: Json, key: str = "") -> Json:
    """A document with its secrets hidden."""
    if isinstance(value, dict):
        return {name: masked(below, name) for name, below in value.items()}
    if isinstance(value, list):
        return [masked(below) for below in value]
    if isinstance(value, str):
        return MASK if key in _SECRETS else masked_uri(value) if key == "uri" else value
    return value


def _with_old_password(document: JsonObject, before: Connection) -> JsonObject:
    """A URI that comes back as it was shown keeps the password that was hidden."""
    if before.uri and document.get("uri") == masked_uri(before.uri):
        return {**document, "uri": before.uri}
    return document


def _reason(error: GatewayError) -> str:
    return f"{error.message} {error.description or ''}".strip()


def _stop(managed: Managed) -> None:
    if managed.retry is not None:
        managed.retry.cancel()
        managed.retry = None
    if managed.runtime is not None:
        managed.runtime.close()
        managed.runtime = None


def _note(managed: Managed, message: str, failure: str | None = None) -> None:
    managed.journal.note(
        Entry(category=Category.CONNECTION, step=Step.OTHER, message=message, failure=failure)
    )
