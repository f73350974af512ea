"""Settings of mappers that run in processes of their own beside EdgeCore."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Ble:
    """Bluetooth LE devices."""

    adapter: str = "hci0"
    """Adapter of Devices that name none."""
    scan: str = "active"
    """`active` asks devices for names, `passive` only listens (BlueZ 5.56 with --experimental), `off`."""
    scan_seconds: float = 0.0
    """Seconds of scanning between pauses; 0 for no pauses."""
    scan_pause: float = 0.0
    """Seconds of a pause, in which nothing is heard."""
    min_rssi: int = -127
    """dBm; devices that are heard weaker are not, their Devices neither. -127 for all."""
    services: tuple[str, ...] = ()
    """UUIDs; where there are some, only devices that advertise one of them are heard."""
    repeats: bool = True
    """Hear advertisements again that say nothing new: needed to tell a silent device from a calm one."""
    pause_scan_to_connect: bool = False
    """Stop scanning while a connection is made: old adapters cannot do both."""
    max_connections: int = 7
    """Connections at the same time on each adapter; further Devices wait for a place."""
    max_seen: int = 1_000
    """Devices in the air that are kept in mind for each adapter."""
    max_offered: int = 200
    """Devices that are offered for discovery at the same time."""
    offer_names: tuple[str, ...] = ()
    """Patterns of names (`Thermo*`); where there are some, only such devices are offered for discovery."""
    stale_after: float = 60.0
    """Seconds after which a value that was heard or notified is uncertain; 0 for never."""
    lost_after: float = 300.0
    """Seconds after which a device that is only listened to is offline, and no more offered."""
    max_notifications: int = 200
    """Notifications a second of one characteristic; one that sends more is read instead for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zigbee:
    """Zigbee devices behind a coordinator."""

    radio: str = "deconz"
    """Kind of stick: deconz (ConBee, RaspBee), ezsp (Silicon Labs), znp (Texas Instruments)."""
    device: str = ""
    """The stick: a path (best one below /dev/serial/by-id) or socket://host:port."""
    baudrate: int = 0
    """Bits a second of a serial stick; 0 for what its kind usually has."""
    flow_control: str = ""
    """Of a serial stick: hardware, software, or empty for none."""
    form: bool = True
    """Whether an empty stick gets a network: the one of this node's backup, or a new one."""
    foreign: str = "refuse"
    """What to do with a stick of another network: refuse it, adopt its network, replace that by ours."""
    channel: int = 0
    """Channel of a new network, 11 to 26; 0 for the quietest of 11, 15, 20 and 25."""
    pan_id: int = 0
    """PAN id of a new network; 0 for a random one."""
    extended_pan_id: str = ""
    """Extended PAN id of a new network, 8 bytes with colons; empty for a random one."""
    key_file: str = ""
    """File with the key of a new network, 32 hexadecimal digits; empty for a random key."""
    transition: float = 0.4
    """Seconds in which lamps go to a new brightness or colour."""
    keep_writes: float = 86_400.0
    """Seconds that a value waits for a sleeping device."""
    mains_silence: float = 600.0
    """Seconds of silence after which a device on mains is asked for a sign of life."""
    battery_silence: float = 90_000.0
    """Seconds of silence after which a sleeping device counts as offline."""
    poll: float = 60.0
    """Seconds between reads of what a device on mains does not report by itself."""


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
class Webhook:
    """Where HTTP devices post to."""

    bind: str = ""
    """Address and port; without one nobody can post."""
    certificate: str = ""
    """Path of a PEM certificate; needed where `bind` is not on loopback."""
    key: str = ""
    """Path of its key."""
    max_body: int = 65_536
    """Bytes in one post; more is answered with 413."""
    max_rate: int = 50
    """Posts a second from one Device; more is answered with 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDevices:
    """Devices that are HTTP servers, or that call a webhook here."""

    webhook: Webhook = field(default_factory=Webhook)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edgex:
    """Events of EdgeX Foundry's MQTT message bus."""

    broker: str = ""
    """Address and port of the bus's broker."""
    base_topic: str = "edgex"
    """First part of its topics."""
    user: str = ""
    """Name to log in with, if any."""
    password_file: str = ""
    """Path of the file with its password."""
    tls: bool = False
    """Speak TLS, trusting the system's CAs; the next two imply it."""
    ca_file: str = ""
    """Path of PEM certificates to trust instead."""
    certificate: str = ""
    """Path of our own PEM certificate."""
    key: str = ""
    """Path of its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mappers:
    """Hardware mappers; each protocol runs in a process of its own, started with its first Device."""

    always: tuple[str, ...] = ()
    """Protocols whose process runs without a Device, too: needed to discover the first one."""
    disabled: tuple[str, ...] = ()
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
