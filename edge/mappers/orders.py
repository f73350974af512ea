"""What families of mappers can be told to do, in words for people: known without a mapper that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edge.mappers.family import FAMILIES
from gateway.errors import NotFound


@dataclass(frozen=True, slots=True)
class OrderHelp:
    """One order.

    Shape:  `keys` maps each argument to what it means; `example` has the arguments of one that works.
    """

    name: str
    what: str
    keys: Mapping[str, str]
    example: str


ORDERS: Final[Mapping[str, Sequence[OrderHelp]]] = {
    "bluetooth": (
        OrderHelp(
            "probe",
            "Connect to a device and offer it with the characteristics that it has.",
            {
                "address": "the device's address",
                "adapter": "which adapter connects; default: the setting's",
            },
            "address=A4:C1:38:00:00:01",
        ),
    ),
    "zigbee": (
        OrderHelp(
            "permit-join",
            "Let devices join the network for a while.",
            {"seconds": "how long, 0 to 254; default 60; 0 ends it"},
            "seconds=60",
        ),
        OrderHelp(
            "remove",
            "Make a device leave the network.",
            {"ieee": "the device's IEEE address"},
            "ieee=00:12:4b:00:00:00:00:01",
        ),
    ),
    "modbus": (
        OrderHelp(
            "scan",
            "Ask the units of a line whether they are there, and offer those that answer.",
            {
                "ip, port": "a line over TCP; default port 502",
                "serialPort, baudRate, dataBits, parity, stopBits": "a serial line",
                "communicateMode": "TCP, RTU or RTUoverTCP; default by the keys above",
                "units": "numbers such as 1-10,20; default 1-247",
                "timeout": "seconds for an answer; default edge.mappers.modbus.timeout",
            },
            "ip=192.0.2.10 units=1-10",
        ),
    ),
    "opcua": (
        OrderHelp(
            "browse",
            "Look for variables of a server and offer it with them.",
            {
                "url": "opc.tcp://host:port/path",
                "nodeID, browsePath": "where to begin; default: the Objects folder",
                "userName, passwordFile": "a log-in; the file's name in hardware/opcua/secrets",
                "securityPolicy, securityMode": "as in a Device's configData; default None",
                "certificate, privateKey, serverCertificate": "paths of files; default: our own",
            },
            "url=opc.tcp://192.0.2.20:4840",
        ),
    ),
    "coap": (
        OrderHelp(
            "discover",
            "Ask a server for its resources and offer it with them.",
            {"url": "coap://host[:port]", "timeout": "seconds for the answer; default 8"},
            "url=coap://192.0.2.40",
        ),
    ),
    "http": (),
    "edgex": (),
}
"""By the first protocol name of each family."""


def orders_of(protocol: str) -> Sequence[OrderHelp]:
    """Return the orders of a protocol's family. Errors: NotFound, naming the protocols."""
    maker = FAMILIES.get(protocol)
    if maker is None:
        raise NotFound(f"no mapper {protocol}; there are {', '.join(FAMILIES)}")
    return next(orders for name, orders in ORDERS.items() if FAMILIES[name] == maker)


def described(protocol: str) -> str:
    """Return what people read of a protocol's orders. Errors: NotFound."""
    orders = orders_of(protocol)
    return "\n".join(_lines(protocol, orders) or [f"{protocol} takes no orders."])


def _lines(protocol: str, orders: Sequence[OrderHelp]) -> list[str]:
    lines: list[str] = []
    for order in orders:
        lines += [*([""] if lines else []), f"{protocol} {order.name}", f"    {order.what}"]
        for keys, meaning in order.keys.items():
            lines += [f"    {keys}", f"        {meaning}"]
        lines.append(f"    Example: twinspan edge order {protocol} {order.name} {order.example}")
    return lines
