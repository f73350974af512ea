"""CloudCore's keys and join token, kept in the cluster's Secrets in KubeEdge's form.

Secrets of namespace `kubeedge`, type Opaque, raw DER: `casecret` (`cadata`, `cakeydata`), `cloudcoresecret`
(`cloudcoredata`, `cloudcorekeydata`), `tokensecret` (`tokendata`). Whatever is there is used, so a cluster
that ran KubeEdge keeps its CA and its nodes their certificates. What is missing is made. Files that the
settings name come first, and into the Secrets.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloud.certfiles import read_ca as read_ca_files
from cloud.certfiles import read_server as read_server_files
from cloud.certificates import (
    KeyPair,
    make_ca,
    make_peer,
    make_server,
    server_fits,
    unnamed_hosts,
)
from cloud.tokens import ca_hash, make_token
from gateway.config.cloud import Cloud as CloudSettings
from gateway.errors import BadRequest, Conflict, GatewayError, InvalidSetting, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.status import AlreadyExists

log = logging.getLogger(__name__)

NAMESPACE = "kubeedge"
CA_SECRET = "casecret"  # noqa: S105  the name of a Secret
SERVER_SECRET = "cloudcoresecret"  # noqa: S105
TOKEN_SECRET = "tokensecret"  # noqa: S105
CA_KEYS = ("cadata", "cakeydata")
LEASES = "coordination.k8s.io/v1"
LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
LOOPBACK = ("localhost", "127.0.0.1", "::1")
RETRY_SECONDS = 30.0
PEER_LIFE = timedelta(days=1)
"""How long one certificate towards other CloudCores is used."""


class Identity:
    """Module: reads or makes the keys, then keeps the join token fresh.

    Other modules may use `ca`, `server` and the TLS contexts once it is ready.
    """

    name = "cloud.identity"

    def __init__(self, kube: KubeClient, settings: CloudSettings, data_dir: Path) -> None:
        self._kube = kube
        self._settings = settings
        self._folder = data_dir / "cloud"
        self._ca: KeyPair | None = None
        self._server: KeyPair | None = None
        self._token_ends = 0.0
        self._peer: ssl.SSLContext | None = None
        self._peer_made = datetime.min.replace(tzinfo=UTC)

    async def run(self, ready: Callable[[], None]) -> None:
        await ensure_namespace(self._kube, NAMESPACE)
        now = datetime.now(UTC)
        self._ca = await self._load_ca(now)
        self._server = await self._load_server(self._ca, now)
        await self._refresh_token()
        ready()
        while (
            True
        ):  # looked at often: the clock may be set, the machine may sleep, the API may be away
            half = self._settings.hub.token_hours * 1_800
            await asyncio.sleep(min(half, RETRY_SECONDS))
            if not time.time() < self._token_ends - half <= time.time() + half:
                await self._try_refresh()

    @property
    def ca(self) -> KeyPair:
        if self._ca is None:
            raise RuntimeError("the CA is used before cloud.identity is ready")
        return self._ca

    @property
    def server(self) -> KeyPair:
        if self._server is None:
            raise RuntimeError("the server's key is used before cloud.identity is ready")
        return self._server

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names and addresses in the server's certificate."""
        return (*LOOPBACK, *self._settings.advertise)

    def tls(self, verify: ssl.VerifyMode) -> ssl.SSLContext:
        """Make the TLS context of a listener; `verify` says what is asked of clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = verify
        context.load_verify_locations(cadata=self.ca.certificate_pem)
        context.load_cert_chain(self._write_pem("server.pem", self.server))
        return context

    def api_server_tls(self, client_ca: str) -> ssl.SSLContext:
        """Make the TLS context of a listener for API servers.

        Shape:  `client_ca` is the PEM file of those who may sign their certificates, "" for our CA; the
                other CloudCores of the cluster, with certificates of our CA, are let in too.
        Errors: InvalidSetting for a file that cannot be read.
        """
        if not client_ca:
            return self.tls(ssl.CERT_REQUIRED)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=client_ca)
        except OSError as error:
            raise InvalidSetting(f"cloud.stream.client_ca: {client_ca}: {error}") from error
        context.load_verify_locations(cadata=self.ca.certificate_pem)
        context.load_cert_chain(self._write_pem("server.pem", self.server))
        return context

    def peer_tls(self) -> ssl.SSLContext:
        """Return the TLS context for connections to other CloudCores of this cluster."""
        now = datetime.now(UTC)
        if self._peer is None or now - self._peer_made > PEER_LIFE:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(cadata=self.ca.certificate_pem)
            context.load_cert_chain(self._write_pem("peer.pem", make_peer(self.ca, now)))
            self._peer, self._peer_made = context, now
        return self._peer

    def _write_pem(self, name: str, pair: KeyPair) -> Path:
        """Python's ssl reads keys from files only: keep one, for the owner alone."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / name
        text = pair.key_pem + pair.certificate_pem.encode("ascii")
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        return path

    async def _load_ca(self, now: datetime) -> KeyPair:
        """The CA of the settings' files, else the cluster's, else a new one."""
        given = await asyncio.to_thread(read_ca_files, self._settings.hub, now)
        if given is None:
            return await load_or_make(self._kube, CA_SECRET, CA_KEYS, lambda: make_ca(now))
        kept = await load_or_make(self._kube, CA_SECRET, CA_KEYS, lambda: given)
        if kept != given:
            await put_secret(self._kube, CA_SECRET, pair_data(CA_KEYS, given))
        if kept.certificate != given.certificate:
            log.warning(
                "the CA was replaced: nodes that joined before must join again",
                extra={"ca": ca_fingerprint(given), "before": ca_fingerprint(kept)},
            )
        return given

    async def _load_server(self, ca: KeyPair, now: datetime) -> KeyPair:
        keys = ("cloudcoredata", "cloudcorekeydata")
        hosts = self._settings.advertise
        given = await asyncio.to_thread(read_server_files, self._settings.hub, ca, hosts, now)
        if given is not None:
            for host in unnamed_hosts(given, LOOPBACK):
                log.info("edges cannot connect by this name", extra={"host": host})
            await put_secret(self._kube, SERVER_SECRET, pair_data(keys, given))
            return given
        kept = await load_or_make(
            self._kube, SERVER_SECRET, keys, lambda: make_server(ca, self.hosts, now)
        )
        if server_fits(ca, kept, self.hosts, now):
            return kept
        fresh = make_server(ca, self.hosts, now)
        await put_secret(self._kube, SERVER_SECRET, pair_data(keys, fresh))
        log.info("server certificate renewed", extra={"hosts": ",".join(self.hosts)})
        return fresh

    async def _refresh_token(self) -> None:
        expires = int(time.time() + self._settings.hub.token_hours * 3_600)
        token = make_token(self.ca.certificate, self.ca.key, expires=expires)
        await put_secret(self._kube, TOKEN_SECRET, {"tokendata": token.encode("ascii")})
        self._token_ends = float(expires)

    async def _try_refresh(self) -> None:
        try:
            await self._refresh_token()
        except GatewayError as error:
            log.warning("join token not renewed", extra={"cause": error.message})


async def ensure_namespace(kube: KubeClient, name: str) -> None:
    """Create a Namespace when it is missing."""
    body: JsonObject = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    try:
        await kube.get("v1", "namespaces", None, name)
    except NotFound:
        try:
            await kube.create("v1", "namespaces", None, body)
        except AlreadyExists:
            return


async def load_or_make(
    kube: KubeClient, name: str, keys: Sequence[str], make: Callable[[], KeyPair]
) -> KeyPair:
    """Read a key pair from a Secret; make and store it when the Secret is missing.

    Errors: BadRequest for a Secret that does not hold it.
    """
    try:
        return _pair_of(await kube.get("v1", "secrets", NAMESPACE, name), name, keys)
    except NotFound:
        fresh = make()
    try:
        await kube.create("v1", "secrets", NAMESPACE, _secret(name, pair_data(keys, fresh)))
    except AlreadyExists:  # another CloudCore was first: its keys count
        return _pair_of(await kube.get("v1", "secrets", NAMESPACE, name), name, keys)
    log.info("keys made", extra={"secret": name})
    return fresh


def pair_data(keys: Sequence[str], pair: KeyPair) -> dict[str, bytes]:
    """Lay a key pair out as a Secret's data."""
    return {keys[0]: pair.certificate, keys[1]: pair.key}


async def put_secret(kube: KubeClient, name: str, data: Mapping[str, bytes]) -> None:
    """Create a Secret or replace its data."""
    body = _secret(name, data)
    try:
        await kube.create("v1", "secrets", NAMESPACE, body)
    except AlreadyExists:
        await kube.patch("v1", "secrets", NAMESPACE, name, {"data": body["data"]})


async def read_ca(kube: KubeClient) -> KeyPair:
    """Read the CA as another process sees it (`twinspan token`). Errors: NotFound when none is kept."""
    secret = await kube.get("v1", "secrets", NAMESPACE, CA_SECRET)
    return _pair_of(secret, CA_SECRET, CA_KEYS)


async def create_join_token(
    kube: KubeClient,
    *,
    now: float,
    ttl: float = 86_400.0,
    node: str | None = None,
    replace: bool = False,
) -> str:
    """Make a join token from the cluster's CA (`twinspan token`).

    Units:  `now` Unix seconds, `ttl` seconds.
    Errors: Conflict for the name of a Ready node without `replace`; BadRequest for an impossible name;
            NotFound when CloudCore has never run on this cluster.
    """
    ca = await read_ca(kube)
    if node is not None and not replace and await is_node_ready(kube, node, now):
        raise Conflict(
            f"node {node} exists and is Ready",
            description="Use another name, or --replace if the new machine takes its place.",
        )
    return make_token(ca.certificate, ca.key, expires=int(now + ttl), node=node, replace=replace)


async def is_node_ready(kube: KubeClient, name: str, now: float) -> bool:
    """True when the Node's Ready condition is True and its lease, if it has one, is fresh."""
    try:
        node = await kube.get("v1", "nodes", None, name)
    except NotFound:
        return False
    if ready_condition(node) != "True":
        return False
    try:
        lease = await kube.get(LEASES, "leases", LEASE_NAMESPACE, name)
    except NotFound:
        return True
    return is_lease_fresh(lease, now)


def is_lease_fresh(lease: JsonObject, now: float) -> bool:
    """True when the lease was renewed within its duration (40 s where it names none)."""
    spec = lease.get("spec")
    if not isinstance(spec, dict):
        return False
    renewed = parse_rfc3339(spec.get("renewTime"))
    seconds = spec.get("leaseDurationSeconds")
    duration = seconds if isinstance(seconds, int) else LEASE_SECONDS
    return renewed is not None and now - renewed <= duration


def ready_condition(node: JsonObject) -> str:
    """Return the status of a Node's Ready condition, "" for none."""
    status = node.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    for condition in conditions if isinstance(conditions, list) else []:
        if isinstance(condition, dict) and condition.get("type") == "Ready":
            return str(condition.get("status"))
    return ""


def ca_fingerprint(ca: KeyPair) -> str:
    """Return SHA-256 of the CA as the join token carries it."""
    return ca_hash(ca.certificate)


def _secret(name: str, data: Mapping[str, bytes]) -> JsonObject:
    encoded: dict[str, Json] = {k: base64.b64encode(v).decode("ascii") for k, v in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": "Opaque",
        "data": encoded,
    }


def _pair_of(secret: JsonObject, name: str, keys: Sequence[str]) -> KeyPair:
    data = secret.get("data")
    try:
        values = (
            [base64.b64decode(str(data[key])) for key in keys] if isinstance(data, dict) else []
        )
    except (KeyError, binascii.Error):
        values = []
    if len(values) != len(keys):
        raise BadRequest(f"secret {NAMESPACE}/{name}: expected the keys {', '.join(keys)}")
    return KeyPair(*values)
