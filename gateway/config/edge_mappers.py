"""Settings of mappers that run in processes of their own beside EdgeCore."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Ble:
    """Bluetooth LE devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zigbee:
    """Zigbee devices behind a coordinator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modbus:
    """Modbus TCP and RTU devices."""

    timeout: float = 1.0
    """Seconds that a unit may take to answer, where its Device does not say (`timeout`)."""
    gap: int = 8
    """Registers between two properties that are read along to save a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUa:
    """OPC UA servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoapDevices:
    """Devices that are CoAP servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDevices:
    """Devices that are HTTP servers, or that call a webhook here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edgex:
    """Events of EdgeX Foundry's MQTT message bus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mappers:
    """Hardware mappers; each protocol runs in a process of its own, started with its first Device."""

    always: list[str] = field(default_factory=list)
    """Protocols whose process runs without a Device, too: needed to discover the first one."""
    disabled: list[str] = field(default_factory=list)
    """Protocols that EdgeCore has no driver for: their Devices wait for a mapper over DMI."""
    linger: float = 60.0
    """Seconds that a process stays after its last Device has gone."""
    ble: Ble = field(default_factory=Ble)
    zigbee: Zigbee = field(default_factory=Zigbee)
    modbus: Modbus = field(default_factory=Modbus)
    opcua: OpcUa = field(default_factory=OpcUa)
    coap: CoapDevices = field(default_factory=CoapDevices)
    http: HttpDevices = field(default_factory=HttpDevices)
    edgex: Edgex = field(default_factory=Edgex)
