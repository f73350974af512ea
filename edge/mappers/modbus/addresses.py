"""Which line a Device is on, from its configData. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge.mappers.configdata import ConfigData
from gateway.errors import NotBuilt, Rejected

DEFAULT_PORT: Final = 502
PARITIES: Final = {"n": "N", "none": "N", "e": "E", "even": "E", "o": "O", "odd": "O"}
TCP, RTU, RTU_OVER_TCP = "TCP", "RTU", "RTUoverTCP"
MODES: Final = {
    "tcp": TCP,
    "rtu": RTU,
    "rtuovertcp": RTU_OVER_TCP,
    "rtu-over-tcp": RTU_OVER_TCP,
    "rtutcp": RTU_OVER_TCP,
    "tls": "TLS",
    "ascii": "ASCII",
    "udp": "UDP",
}


@dataclass(frozen=True, slots=True)
class TcpLine:
    """A connection that its units share; RTU frames instead of Modbus/TCP's where `is_rtu`."""

    host: str
    port: int
    is_rtu: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SerialLine:
    """A serial port and how it speaks. Units: `baud` bits a second."""

    path: str
    baud: int = 9_600
    data_bits: int = 8
    parity: str = "N"
    stop_bits: int = 1

    def __str__(self) -> str:
        return self.path


LineAddress = TcpLine | SerialLine


@dataclass(frozen=True, slots=True)
class UnitAddress:
    """A device: its line, its number there, and how long it may take. Units: `seconds`, 0 for the default."""

    line: LineAddress
    unit: int
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.line}/{self.unit}"


def unit_of(config: ConfigData) -> UnitAddress:
    """Read a Device's configData. Errors: Rejected, naming the key; NotBuilt for TLS, ASCII and UDP."""
    flat = _flat(config)
    unit = flat.integer("slaveID", "slaveId", "unitId", "unitID", "unit", default=1, high=255)
    seconds = flat.number("timeout", default=0.0)
    if not 0 <= seconds <= 8:
        raise flat.wrong("timeout", "seconds up to 8", flat.values.get("timeout"))
    return UnitAddress(_line(flat), unit, seconds)


def _flat(config: ConfigData) -> ConfigData:
    """Return the keys of v1alpha2's `tcp` and `com` objects beside the others."""
    nested = {**config.below("com").values, **config.below("tcp").values}
    return ConfigData(config.where, {**nested, **config.values})


def _line(config: ConfigData) -> LineAddress:
    mode = config.choice(MODES, "communicateMode", "mode", default=_own_mode(config))
    if mode in ("TLS", "ASCII", "UDP"):
        raise NotBuilt(f"{config.where}.communicateMode: {mode} is not built; TCP, RTU, RTUoverTCP")
    if mode == RTU and config.has("ip", "host") and not config.has("serialPort"):
        mode = RTU_OVER_TCP
    if mode != RTU:
        host = config.text("ip", "host", default=None)
        port = config.integer("port", default=DEFAULT_PORT, low=1, high=65_535)
        return TcpLine(host, port, is_rtu=mode == RTU_OVER_TCP)
    path = config.text("serialPort", "serial", default=None)
    if not path.startswith("/dev/"):
        raise Rejected(f"{config.where}.serialPort: expected a path below /dev, got {path[:60]!r}")
    return SerialLine(
        path,
        config.integer("baudRate", default=9_600, low=300, high=4_000_000),
        config.integer("dataBits", default=8, low=7, high=8),
        config.choice(PARITIES, "parity", default="N"),
        config.integer("stopBits", default=1, low=1, high=2),
    )


def _own_mode(config: ConfigData) -> str:
    return RTU if config.has("serialPort", "serial") else TCP
