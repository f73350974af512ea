"""Joining a cloud: check first and explain, then get a certificate for this node by its token.

The steps of KubeEdge's bootstrap: fetch the CA without trusting it, compare its hash with the one in the
token, send a certificate request with the token over TLS that trusts this CA alone, keep what comes back.
Blocking on purpose: it runs on a command line, or in a thread.

Source: KubeEdge reference, sections 4.2 to 4.4.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import msgspec

from edge.clock import now_ms
from edge.identity import Identity, NodeSettings
from gateway.errors import BadRequest, InvalidSetting, Rejected
from gateway.wire.cloudedge.names import HUB, REFUSAL, check_node_name, common_name

HTTPS_PORT = 10_002
HUB_PORT = 10_000
SECONDS = 30.0
MAX_BODY = 1024 * 1024
CLOCK_TOLERANCE = 300.0
"""Seconds that this clock may differ from the cloud's; certificates and tokens carry times."""
CLOCK_WARNING = 10.0
"""Seconds from which it is told: Leases live 40 s, and who renews them late or early looks lost."""
_SET_CLOCK = "Set the clock: timedatectl set-ntp true."


class JoinFailed(Rejected):
    """A check or step failed; the text says what, the description how to mend it."""

    code = "edge.join"


@dataclass(frozen=True, slots=True)
class Check:
    """One step that went well, for people; with a `mend` it is a warning, and that says what to do."""

    name: str
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """What somebody asks for.

    Shape:  `cloud` is `https://HOST[:PORT]` or `HOST[:PORT]`; `node` empty takes the host name; `hub` is
            `HOST:PORT` of the WebSocket listener, empty takes what the cloud says, and port 10000 of its
            host from a cloud that says nothing (KubeEdge's own); `replace` joins under the name of a node
            that exists.
    """

    cloud: str
    token: str
    node: str = ""
    hub: str = ""
    replace: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    """`sha256hex(CA)` and the JWT behind it."""

    ca_hash: str
    jwt: str
    expires: int

    @classmethod
    def parse(cls, text: str) -> _Token:
        ca_hash, _, jwt = text.strip().partition(".")
        if len(ca_hash) != 64 or jwt.count(".") != 2:
            raise JoinFailed(
                "token: expected <hash of the CA>.<JWT>, four parts with dots between them",
                description="Copy the whole line that `twinspan token` prints on the cloud.",
            )
        return cls(ca_hash.lower(), jwt, _expiry(jwt))


def _expiry(jwt: str) -> int:
    """Read `exp` without judging the signature: only the cloud can do that."""
    part = jwt.split(".")[1]
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise JoinFailed(f"token: its middle part cannot be read: {error}") from error
    expires = claims.get("exp") if isinstance(claims, dict) else None
    return expires if isinstance(expires, int) else 0


def join(
    request: JoinRequest, identity: Identity, tell: Callable[[Check], None] = lambda _check: None
) -> NodeSettings:
    """Check, then enrol this node; `tell` hears each step that went well.

    Errors: JoinFailed, naming the step and its mend. Nothing is written before every step went well.
    """
    token = _Token.parse(request.token)
    node = _node_name(request.node)
    tell(Check("node name", node))
    host, port = _address(request.cloud, HTTPS_PORT, "cloud address")
    if request.hub:
        _address(request.hub, HUB_PORT, "hub address")
    _reach(host, port, "CloudHub's HTTPS port")
    tell(Check("cloud reachable", f"{host}:{port}"))
    ca, said = _fetch_ca(host, port, token, tell)
    trust = _trust(ca)
    authorisation = {"Authorization": f"Bearer {token.jwt}"}
    in_use = _ask_name(host, port, trust, node, authorisation)
    is_known = request.replace or bool(said) or _was(identity, node)
    tell(_judge_name(node, in_use, is_known=is_known))
    hub_host, hub_port = _hub_address(request.hub, said, host)
    _reach(hub_host, hub_port, "CloudHub's WebSocket port")
    tell(Check("hub reachable", f"{hub_host}:{hub_port}"))
    key, request_der = _key_and_request(node)
    certificate = _fetch_certificate(host, port, trust, node, request_der, authorisation)
    tell(Check("certificate", f"issued to {common_name(node)}"))
    settings = NodeSettings(node, f"{hub_host}:{hub_port}", f"{host}:{port}")
    identity.save(
        settings,
        ca=ssl.DER_cert_to_PEM_cert(ca).encode(),
        certificate=ssl.DER_cert_to_PEM_cert(certificate).encode(),
        key=key,
    )
    tell(Check("saved", str(identity.folder)))
    return settings


def renew(identity: Identity, https_server: str = "") -> None:
    """Get a new certificate with the old one and keep it.

    Shape:  `https_server` is `host:port` where it is not the one of the join.
    Errors: JoinFailed; InvalidSetting when the old identity cannot be read.
    """
    joined = identity.load()
    host, port = _address(https_server or joined.https_server, HTTPS_PORT, "cloud address")
    key, request_der = _key_and_request(joined.node)
    context = identity.client_context()
    certificate = _fetch_certificate(host, port, context, joined.node, request_der, {})
    identity.renew(ssl.DER_cert_to_PEM_cert(certificate).encode(), key)


# --- checks ----------------------------------------------------------------------------------------


def _node_name(name: str) -> str:
    try:
        return check_node_name(name or socket.gethostname().lower())
    except BadRequest as error:
        raise JoinFailed(error.message, description="Choose one with --node-name.") from error


def _address(text: str, default_port: int, what: str) -> tuple[str, int]:
    parts = urlsplit(text if "//" in text else f"https://{text}")
    try:
        port = parts.port or default_port
    except ValueError:
        port = 0
    if not parts.hostname or not port or parts.scheme not in ("https", "wss"):
        raise JoinFailed(f"{what}: expected https://HOST:PORT, got {text!r}")
    return parts.hostname, port


def _hub_address(asked: str, said: str, host: str) -> tuple[str, int]:
    """Return where the hub is: as asked for, as the cloud says (`:PORT` is on `host`), else port 10000."""
    at_host = f"[{host}]" if ":" in host else host
    if not asked and said.startswith(":"):
        said = at_host + said
    return _address(asked or said or at_host, HUB_PORT, "hub address")


def _reach(host: str, port: int, what: str) -> None:
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        raise JoinFailed(
            f"{what} does not answer at {host}:{port}: {error}",
            description="Is the cloud running, listening beyond loopback, and the port open?",
        ) from error


def _fetch_ca(
    host: str, port: int, token: _Token, tell: Callable[[Check], None]
) -> tuple[bytes, str]:
    """Return the CA and where the cloud says its hub is."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE  # what comes is believed only if its hash is in the token
    response = _get(host, port, "/ca.crt", blind)
    _check_clock(response.date, token.expires, tell)
    if response.status != 200:
        raise JoinFailed(f"{host}:{port}/ca.crt answered {response.status}: is this a CloudHub?")
    found = hashlib.sha256(response.body).hexdigest()
    if found != token.ca_hash:
        raise JoinFailed(
            f"the cloud at {host}:{port} is not the one that made this token:"
            f" its CA is {found[:16]}..., the token's {token.ca_hash[:16]}...",
            description="Make a token on that cloud with `twinspan token`, or check the address.",
        )
    tell(Check("CA", f"sha256 {found[:16]}... as in the token"))
    return response.body, response.hub


def _ask_name(
    host: str, port: int, trust: ssl.SSLContext, node: str, authorisation: dict[str, str]
) -> bool | None:
    """True when the cluster has a node of that name; None when the cloud cannot say."""
    headers = {**authorisation, "NodeName": node}
    answer = _get(host, port, f"/node/{node}", trust, headers=headers)
    return {200: True, 404: False}.get(answer.status)


def _was(identity: Identity, node: str) -> bool:
    try:
        return identity.load().node == node
    except InvalidSetting:
        return False


def _judge_name(node: str, in_use: bool | None, *, is_known: bool) -> Check:
    """Judge a name: KubeEdge's cloud signs for a second machine too, and both would be one node.

    Shape:  `is_known` for a machine that is or replaces that node, and for a cloud of ours, which refuses the
            name of a node that lives.
    Errors: JoinFailed.
    """
    if in_use is None:
        mend = f"Make sure that no other machine is node {node}: kubectl get node {node}"
        return Check("node name in use", "the cloud cannot say", mend)
    if not in_use:
        return Check("node name in use", "no")
    if not is_known:
        raise JoinFailed(
            f"node {node} exists in that cluster already",
            description=(
                f"Choose --node-name, or: kubectl delete node {node}. If this machine takes the place of"
                " that node: --replace."
            ),
        )
    return Check("node name in use", f"yes: this machine becomes node {node}, which exists")


def _check_clock(date: str, expires: int, tell: Callable[[Check], None]) -> None:
    here = now_ms() / 1_000
    there = _date(date)
    if there is not None:
        if abs(here - there) > CLOCK_TOLERANCE:
            raise JoinFailed(
                f"this machine's clock differs from the cloud's by {here - there:+.0f} s",
                description=f"{_SET_CLOCK} Then try again.",
            )
        text = f"within {abs(here - there):.0f} s of the cloud's"
        tell(Check("clock", text, _SET_CLOCK if abs(here - there) > CLOCK_WARNING else ""))
    if expires and expires < here:
        raise JoinFailed(
            f"the token expired at {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M:%S} UTC",
            description="Make a new one on the cloud: twinspan token",
        )


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None


# --- the certificate ---------------------------------------------------------------------------------


def _key_and_request(node: str) -> tuple[bytes, bytes]:
    """Make a P-256 key (PEM) and a certificate request for this node (DER)."""
    from cryptography import x509  # heavy, and needed once in a node's life
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Hangzhou"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Zhejiang"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name(node)),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
        request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER),
    )


def _trust(ca: bytes) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise JoinFailed(f"the cloud's CA cannot be read: {error}") from error


def _fetch_certificate(
    host: str,
    port: int,
    context: ssl.SSLContext,
    node: str,
    request: bytes,
    authorisation: dict[str, str],
) -> bytes:
    """Ask for a certificate, by a token or by the certificate that `context` shows."""
    headers = {
        **authorisation,
        "NodeName": node,
        "ExtKeyUsages": "[2]",
        "Content-Length": str(len(request)),
    }
    response = _get(host, port, "/edge.crt", context, request, headers)
    if response.status != 200:
        why = response.refusal or response.body[:300].decode("utf-8", "replace").strip()
        raise JoinFailed(
            f"the cloud refused a certificate for {node}: {response.status} {why}",
            description=_MENDS.get(response.refusal, "Make a new token: twinspan token"),
        )
    _check_certificate(response.body, node)
    return response.body


_MENDS = {
    "too-often": "Wait as long as the cloud says, then join again.",
    "token-for-other-node": "The token was made with --node for another name; use that --node-name.",
    "node-exists": "Another machine is this node. Choose --node-name, or make the token with --replace.",
    "token-expired": "Make a new token on the cloud: twinspan token",
}


def _check_certificate(der: bytes, node: str) -> None:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise JoinFailed(f"the cloud's answer is not a certificate: {error}") from error
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [common_name(node)]:
        raise JoinFailed(f"the certificate is for {names}, expected {common_name(node)}")


# --- HTTP --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    body: bytes
    date: str
    refusal: str
    hub: str


def _get(
    host: str,
    port: int,
    path: str,
    context: ssl.SSLContext,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> _Response:
    """GET, with a body where KubeEdge wants one.

    Errors: JoinFailed.
    """
    connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
    try:
        connection.request("GET", path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read(MAX_BODY + 1)
    except ssl.SSLCertVerificationError as error:
        raise JoinFailed(
            f"the cloud's certificate does not fit {host}: {error.verify_message}",
            description="Start the cloud with --advertise " + host,
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise JoinFailed(
            f"https://{host}:{port}{path}: {error or type(error).__name__}",
            description="Is this CloudHub's HTTPS port (10002 unless it was changed)?",
        ) from error
    finally:
        connection.close()
    if len(data) > MAX_BODY:
        raise JoinFailed(f"https://{host}:{port}{path}: more than {MAX_BODY} bytes")
    return _Response(
        answer.status,
        data,
        answer.getheader("Date", ""),
        answer.getheader(REFUSAL, ""),
        answer.getheader(HUB, ""),
    )
