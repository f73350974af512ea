"""Which server and which nodes a Device means, from its configData. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from edge.mappers.configdata import ConfigData
from gateway.errors import Rejected

POLICIES: Final = {
    "": "",
    "none": "",
    "basic256sha256": "Basic256Sha256",
    "aes128sha256rsaoaep": "Aes128Sha256RsaOaep",
    "aes128_sha256_rsaoaep": "Aes128Sha256RsaOaep",
    "aes256sha256rsapss": "Aes256Sha256RsaPss",
    "aes256_sha256_rsapss": "Aes256Sha256RsaPss",
}
MODES: Final = {
    "none": "None_",
    "sign": "Sign",
    "signandencrypt": "SignAndEncrypt",
    "sign&encrypt": "SignAndEncrypt",
}
MAX_PATH: Final = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A server and how to log in there.

    Shape:  `policy` "" for no security; `certificate`, `private_key`, `server_certificate` paths, "" for our
            own and for the one seen first. Units: `seconds` for an answer.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    policy: str = ""
    mode: str = "None_"
    certificate: str = ""
    private_key: str = ""
    server_certificate: str = ""
    seconds: float = 4.0

    @property
    def name(self) -> str:
        """A name for files about this server."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node by id or by its way from the Objects folder.

    Shape:  `uri` of the namespace, "" where `text` has its index (`ns=2;s=...`) or it is namespace 0.
    """

    text: str = ""
    uri: str = ""
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.path:
            return "/".join(self.path)
        return f"nsu={self.uri};{self.text}" if self.uri else self.text


def server_of(config: ConfigData, password: str) -> Server:
    """Read a Device's configData; `password` is that of its passwordFile.

    Errors: Rejected, naming the key.
    """
    url = config.text("url", "endpoint", default=None)
    _check_url(url, config)
    policy = config.choice(POLICIES, "securityPolicy", default="")
    own_mode = "SignAndEncrypt" if policy else "None_"
    mode = config.choice(MODES, "securityMode", default=own_mode)
    if bool(policy) != (mode != "None_"):
        raise Rejected(f"{config.where}: securityPolicy and securityMode are both None or none is")
    seconds = config.number("timeout", default=4.0)
    if not 0.05 <= seconds <= 8:
        raise config.wrong("timeout", "seconds up to 8", config.values.get("timeout"))
    server = Server(
        url,
        config.text("userName", "username", "user"),
        password or config.text("password"),
        policy,
        mode,
        config.text("certificate"),
        config.text("privateKey"),
        config.text("serverCertificate"),
        seconds,
    )
    if bool(server.certificate) != bool(server.private_key):
        raise Rejected(f"{config.where}: certificate and privateKey belong together")
    if server.password and not server.policy and not config.flag("allowPlainPassword"):
        _check_plain(url, config)
    return server


def _check_url(url: str, config: ConfigData) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme == "opc.tcp" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        is_good = False
    if not is_good:
        raise config.wrong("url", "opc.tcp://host:port/path", url.rpartition("@")[2])
    if "@" in parts.netloc:
        raise Rejected(f"{config.where}.url: user and password belong in keys of their own")


def _check_plain(url: str, config: ConfigData) -> None:
    host = urlsplit(url).hostname or ""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local:
        raise Rejected(
            f"{config.where}: a password needs a securityPolicy (or allowPlainPassword: true)"
        )


def node_of(config: ConfigData) -> NodeName:
    """Read a visitor's configData. Errors: Rejected, naming the key."""
    text = config.text("nodeID", "nodeId", "node")
    if text:
        return _node(text, config)
    path = tuple(step for step in config.text("browsePath").split("/") if step)
    if not path:
        raise Rejected(f"{config.where}.nodeID is missing")
    if len(path) > MAX_PATH:
        raise Rejected(f"{config.where}.browsePath: at most {MAX_PATH} steps")
    return NodeName(path=path)


def _node(text: str, config: ConfigData) -> NodeName:
    uri = ""
    if text.startswith("nsu="):
        uri, _, text = text[4:].partition(";")
        if not uri:
            raise config.wrong("nodeID", "nsu=<namespace>;s=<name>", text)
    rest = text
    if rest.startswith("ns=") and not uri:
        index, _, rest = rest[3:].partition(";")
        if not index.isdigit() or int(index) > 65_535:
            raise config.wrong("nodeID", "ns=<number>;s=<name>", text)
    kind, equals, identifier = rest.partition("=")
    if kind not in ("s", "i", "g", "b") or not equals or not identifier:
        raise config.wrong("nodeID", "nsu=...;s=..., ns=2;s=... or i=2258", text)
    if kind == "i" and not (identifier.isdigit() and int(identifier) < 2**32):
        raise config.wrong("nodeID", "a number after i=", text)
    return NodeName(text, uri)
