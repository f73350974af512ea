"""One kind of LoRaWAN network server: where it posts, how its messages read, how it takes commands.

Source: Hono, LoRaWAN adapter, Command & Control.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass

from gateway.hono.adapters.lora_values import Meta, find
from gateway.model.json import JsonObject

JSON = "application/json"
_PORT = re.compile(r"[+-]?[0-9]{1,9}")

Body = Callable[[str, bytes, int | None], JsonObject]
"""(device, payload, port) of a command as the network server's JSON."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """One message of a device.

    Shape:  `device` is its EUI, hex in upper case; `meta` None where the server tells nothing.
    """

    device: str
    payload: bytes
    meta: JsonObject | None


def plain_body(_device: str, data: bytes, _port: int | None) -> JsonObject:
    """A command for servers that are told nothing but the bytes."""
    return {"payload": data.hex().upper()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One kind of network server.

    Shape:  a path that ends in `/*` stands for all below it; `accept` is what its API for commands answers
            with, empty where it is not asked for.
    """

    name: str
    paths: tuple[str, ...]
    is_uplink: Callable[[JsonObject], bool]
    device: Callable[[JsonObject], str]
    payload: Callable[[JsonObject], bytes]
    meta: Meta | None = None
    content_type: str = JSON
    body: Body = plain_body
    accept: str = ""

    def uplink(self, message: JsonObject) -> Uplink | None:
        """Read a message; None for one that is no uplink.

        Errors: MalformedUplink.
        """
        if not self.is_uplink(message):
            return None
        meta = None if self.meta is None else self.meta.read(message)
        return Uplink(self.device(message), self.payload(message), meta)


def port_of(command_name: str) -> int | None:
    """Return the port that a command's name asks for; None where the name is no number."""
    return int(command_name) if _PORT.fullmatch(command_name) else None


# --- what is an uplink --------------------------------------------------------------------------------


def always(_message: JsonObject) -> bool:
    """Whatever it holds."""
    return True


def has(name: str) -> Callable[[JsonObject], bool]:
    """With this member, whatever its value."""
    return lambda message: name in message


def member_is(path: str, *values: str) -> Callable[[JsonObject], bool]:
    """With one of these values at a path."""
    return lambda message: find(message, path) in values


# --- commands -----------------------------------------------------------------------------------------


def _with_port(body: JsonObject, name: str, port: int | None) -> JsonObject:
    return body if port is None else {**body, name: port}


def chirpstack_body(_device: str, data: bytes, port: int | None) -> JsonObject:
    item: JsonObject = {"confirmed": False, "data": base64.b64encode(data).decode()}
    return {"deviceQueueItem": _with_port(item, "fPort", port)}


def loriot_body(device: str, data: bytes, port: int | None) -> JsonObject:
    body: JsonObject = {"cmd": "tx", "confirmed": False, "data": data.hex().upper(), "EUI": device}
    return _with_port(body, "port", port)


def firefly_body(_device: str, data: bytes, port: int | None) -> JsonObject:
    body: JsonObject = {"payload": data.hex().upper(), "encoding": "base16", "confirmed": False}
    return _with_port(body, "port", port)


def things_stack_body(_device: str, data: bytes, port: int | None) -> JsonObject:
    return {
        "decoded_payload": data.hex().upper(),
        "confirmed": False,
        "priority": "normal",
        "f_port": 2 if port is None else port,
    }
