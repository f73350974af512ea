"""A small cloud written by hand: CA, joining over HTTPS, and the hub as a WebSocket over mTLS.

It answers what an edge needs (node, lease, membership, twins) and lets a test push messages, see what came,
and choose the outcome of uploads. It shares only the wire package with the edge.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, overload

from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import GatewayError
from gateway.wire.cloudedge.envelope import Envelope, Stamp, decode, encode
from gateway.wire.cloudedge.names import NODE_ID, REFUSAL, SPOOL, Operation, Source
from gateway.wire.cloudedge.routing import RouterUpload
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_cloud import (
    MembershipAsked,
    ResourceAsked,
    StateReported,
    ToCloud,
    TwinReported,
    read_to_cloud,
)
from gateway.wire.cloudedge.to_edge import (
    answer_membership,
    answer_object,
    answer_result,
    answer_twin,
    change_object,
    err_status,
)
from gateway.wire.cloudedge.twins import MemberDevice, MembershipList
from gateway.wire.cloudedge.uploads import EdgeUpload, answer_upload
from tests.integration.edge_support import until

SIGNING_KEY = b"only this cloud"


def stamp() -> Stamp:
    return Stamp(str(uuid.uuid4()), time.time_ns() // 1_000_000)


class Authority:
    """A CA that signs a server certificate for loopback and whatever a request asks for."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KubeEdge")])
        self.certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.der = self.certificate.public_bytes(serialization.Encoding.DER)
        self._ca_file = folder / "ca.pem"
        self._server_file = folder / "server.pem"
        self._ca_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self._server_file.write_bytes(self._server())

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def _server(self) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub of a test")])
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
                ),
                critical=False,
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ) + certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, request_der: bytes) -> bytes:
        request = x509.load_der_x509_csr(request_der)
        certificate = self._builder(request.subject, request.public_key()).sign(
            self._key, hashes.SHA256()
        )
        return certificate.public_bytes(serialization.Encoding.DER)

    def context(self, *, insist: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._server_file)
        context.load_verify_locations(self._ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if insist else ssl.CERT_OPTIONAL
        return context

    def token(self, expires_in: float = 3_600, key: bytes = SIGNING_KEY) -> str:
        head = _b64(b'{"alg":"HS256","typ":"JWT"}')
        body = _b64(json.dumps({"exp": int(time.time() + expires_in)}).encode())
        signature = _b64(hmac.new(key, f"{head}.{body}".encode(), hashlib.sha256).digest())
        return f"{hashlib.sha256(self.der).hexdigest()}.{head}.{body}.{signature}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class FakeCloud:
    """The cloud of one test."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.https = ""
        self.hub = ""
        self.got: list[tuple[Envelope, ToCloud]] = []
        self.nodes: dict[str, Any] = {}
        self.leases: dict[str, Any] = {}
        self.objects: dict[str, Any] = {}
        self.members: list[MemberDevice] = []
        self.has_spool = True
        self.outcome: Callable[[EdgeUpload], GatewayError | None] | None = lambda _item: None
        self.answers_twins = True
        self.socket: web.WebSocketResponse | None = None
        self.connections = 0
        self.refusal = ""
        self.is_ill = False
        self._version = 100

    # --- what came ------------------------------------------------------------------------------

    @property
    def for_router(self) -> list[RouterUpload]:
        return [message for _, message in self.got if isinstance(message, RouterUpload)]

    @property
    def uploads(self) -> list[EdgeUpload]:
        return [message for _, message in self.got if isinstance(message, EdgeUpload)]

    @property
    def reports(self) -> list[TwinReported]:
        return [message for _, message in self.got if isinstance(message, TwinReported)]

    @property
    def states(self) -> list[StateReported]:
        return [message for _, message in self.got if isinstance(message, StateReported)]

    def reported(self, name: str) -> list[str | None]:
        """All reported values of a property, in order of arrival."""
        out = []
        for report in self.reports:
            twin = (report.update.twin or {}).get(name)
            if twin is not None and twin.actual is not None:
                out.append(twin.actual.value)
        return out

    def acknowledged(self, envelope: Envelope) -> bool:
        return any(
            e.parent_id == envelope.msg_id and e.route.operation == Operation.RESPONSE
            for e, _ in self.got
        )

    # --- what goes down ---------------------------------------------------------------------------

    async def push(
        self,
        kind: str,
        name: str,
        document: dict[str, Any],
        operation: Operation = Operation.INSERT,
    ) -> Envelope:
        """Send an object of namespace `default` and wait for its acknowledgement."""
        self._version += 1
        meta = {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            **document.pop("metadata", {}),
        }
        envelope = change_object(
            stamp(),
            Subject("default", kind, name),
            operation,
            {"metadata": meta, **document},
            version=str(self._version),
            source=Source.DEVICE_CONTROLLER,
        )
        await self.send(envelope)
        await until(lambda: self.acknowledged(envelope))
        return envelope

    async def send(self, envelope: Envelope) -> None:
        await until(lambda: self.socket is not None)
        assert self.socket is not None
        await self.socket.send_str(encode(envelope).decode())

    async def cut(self) -> None:
        """End the connection as a dying cloud does."""
        if self.socket is not None:
            await self.socket.close()

    # --- HTTPS ------------------------------------------------------------------------------------

    def joining(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/ca.crt", self._ca)
        app.router.add_get("/edge.crt", self._edge)
        app.router.add_get("/node/{name}", self._node)
        return app

    async def _ca(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.authority.der)

    async def _node(self, request: web.Request) -> web.Response:
        """As KubeEdge's cloud answers; it signs for a second machine all the same."""
        if self.is_ill:
            return web.Response(status=500, text="etcdserver: request timed out")
        is_there = request.match_info["name"] in self.nodes
        text = "Node found" if is_there else "Node not found"
        return web.Response(status=200 if is_there else 404, text=text)

    async def _edge(self, request: web.Request) -> web.Response:
        jwt = request.headers["Authorization"].removeprefix("Bearer ")
        head, body, signature = jwt.split(".")
        expected = _b64(hmac.new(SIGNING_KEY, f"{head}.{body}".encode(), hashlib.sha256).digest())
        if signature != expected:
            return web.Response(status=401, text="bad token", headers={REFUSAL: "bad-token"})
        if self.refusal:
            return web.Response(status=409, text="no", headers={REFUSAL: self.refusal})
        return web.Response(body=self.authority.issue(await request.read()))

    # --- the hub ------------------------------------------------------------------------------------

    def listening(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{project}/{node}/events", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        names = [value for rdn in peer["subject"] for key, value in rdn if key == "commonName"]
        if names != [f"system:node:{request.headers[NODE_ID]}"]:
            return web.Response(status=403, headers={REFUSAL: "node-mismatch"})
        if self.refusal:
            return web.Response(status=403, headers={REFUSAL: self.refusal})
        socket = web.WebSocketResponse()
        if self.has_spool:
            socket.headers[SPOOL] = "1"
        await socket.prepare(request)
        self.connections += 1
        self.socket = socket
        try:
            async for frame in socket:
                if frame.type is WSMsgType.TEXT:
                    await self._take_frame(socket, frame.data)
        finally:
            if self.socket is socket:
                self.socket = None
        return socket

    async def _take_frame(self, socket: web.WebSocketResponse, frame: str) -> None:
        await self._take(socket, decode(frame))

    async def _take(self, socket: web.WebSocketResponse, envelope: Envelope) -> None:
        message = read_to_cloud(envelope)
        self.got.append((envelope, message))
        answer = self._answer(envelope, message)
        if answer is not None:
            await socket.send_str(encode(answer).decode())

    def _answer(self, asked: Envelope, message: ToCloud) -> Envelope | None:
        if isinstance(message, TwinReported | StateReported):
            return answer_twin(asked, stamp()) if self.answers_twins else None
        if isinstance(message, MembershipAsked):
            return answer_membership(asked, stamp(), MembershipList("", 0, self.members))
        if isinstance(message, EdgeUpload) and message.spool and self.outcome is not None:
            return answer_upload(asked, stamp(), self.outcome(message))
        if isinstance(message, ResourceAsked):
            return self._answer_resource(asked, message)
        return None

    def _answer_resource(self, asked: Envelope, message: ResourceAsked) -> Envelope | None:
        name, content = message.subject.name, json.loads(bytes(message.content))
        if message.subject.type == "node":
            self.nodes[name] = content
        elif message.subject.type == "nodepatch":
            self.nodes[name].update(json.loads(content))
        elif message.subject.type == "lease":
            if message.operation == Operation.QUERY and name not in self.leases:
                status: Any = {
                    "status": "Failure",
                    "reason": "NotFound",
                    "code": 404,
                    "message": "no",
                }
                return answer_result(asked, stamp(), None, status)
            if content is not None:
                self.leases[name] = content
            return answer_result(asked, stamp(), self.leases[name])
        else:
            found = self.objects.get(str(message.subject))
            missing: Any = {"status": "Failure", "reason": "NotFound", "code": 404, "message": "no"}
            return answer_object(asked, stamp(), found or err_status(missing))
        return answer_result(asked, stamp(), self.nodes[name])


@asynccontextmanager
async def serving(
    app: web.Application, context: ssl.SSLContext, port: int = 0
) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


C = TypeVar("C", bound=FakeCloud)


@overload
def a_cloud(folder: Path) -> AbstractAsyncContextManager[FakeCloud]: ...


@overload
def a_cloud(folder: Path, make: Callable[[Authority], C]) -> AbstractAsyncContextManager[C]: ...


@asynccontextmanager
async def a_cloud(folder: Path, make: Callable[[Authority], Any] = FakeCloud) -> AsyncIterator[Any]:
    """Run a fake cloud, or the kind that `make` makes, on two free ports."""
    authority = await asyncio.to_thread(Authority, folder)
    cloud = make(authority)
    async with (
        serving(cloud.joining(), authority.context(insist=False)) as https,
        serving(cloud.listening(), authority.context(insist=True)) as hub,
    ):
        cloud.https, cloud.hub = f"127.0.0.1:{https}", f"127.0.0.1:{hub}"
        yield cloud
