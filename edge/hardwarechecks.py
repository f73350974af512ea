"""Whether the mappers of this node can work: libraries, ports, rights, who answers, secrets, who serves what.

Looked at is what is used: protocols of Devices on this node's disk, and those of `edge.mappers.always`.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edge.devicerooms import MAPPER_FOLDER
from edge.identity import FOLDER
from edge.mappers import secretfiles
from edge.mappers.configdata import ConfigData
from edge.mappers.family import FAMILIES
from edge.mappers.modbus.addresses import SerialLine, unit_of
from edge.mappers.process import family_name
from edge.mappers.zigbee.plan import RADIOS
from edge.reachability import MAX_TARGETS, Target, reached
from edge.serialchecks import by_id, serial_verdict, usb_of
from edge.storeddevices import Stored
from edge.verdicts import FAIL, OK, WARN, Verdict
from gateway.config.edge_mappers import Mappers
from gateway.errors import GatewayError, InvalidSetting
from gateway.runtime.listener import parse_bind
from gateway.wire.cloudedge.devices import DeviceView

LIBRARIES: Final[Mapping[str, tuple[str, str]]] = {
    "ble": ("bleak", "ble"),
    "modbus": ("pymodbus", "modbus"),
    "opcua": ("asyncua", "opcua"),
    "coap": ("aiocoap", "coap"),
}
"""Family -> library and the extra that brings it; Zigbee's depends on the stick."""
SECRETS: Final = ("passwordFile", "tokenFile", "headersFile")
MAX_LINES: Final = 20
"""Devices of one family with a fault of their own that are named."""
OFTEN: Final = 3
"""Ends of a process in ten minutes from which on it is told."""
PORTS: Final = {"http": 80, "https": 443, "opc.tcp": 4840, "coap": 5683, "socket": 0}


@dataclass(frozen=True, slots=True)
class Place:
    """Where is looked.

    Shape:  `processes` is `mapper_processes` of the EdgeCore that runs on `data_dir`; `root` the machine's.
    """

    settings: Mappers
    stored: Stored
    data_dir: Path
    processes: Sequence[Mapping[str, Any]] = ()
    root: Path = field(default=Path("/"))

    @property
    def pids(self) -> Collection[int]:
        """The process ids of mappers here."""
        return {each["pid"] for each in self.processes if each.get("pid")}

    def secrets(self, family: str) -> Path:
        return self.data_dir / FOLDER / MAPPER_FOLDER / family / secretfiles.FOLDER


Devices = Sequence[DeviceView]


def hardware_checks(place: Place) -> Iterator[Verdict]:
    """Look at what the Devices of this node need. Nothing is told where none need any."""
    yield from _served_by(place)
    for family, devices in _used(place).items():
        yield from _library(family, place.settings)
        yield from CHECKS[family](family, devices, place)
        yield from _secrets(family, devices, place)
    for process in place.processes:
        yield from _process(process)


def _used(place: Place) -> dict[str, list[DeviceView]]:
    """Return the families that have work on this node, with their Devices."""
    used: dict[str, list[DeviceView]] = {}
    for protocol in place.settings.always:
        if protocol in FAMILIES:
            used.setdefault(family_name(FAMILIES[protocol]), [])
    for view in place.stored.devices:
        is_ours = view.protocol in FAMILIES and view.protocol not in place.settings.disabled
        if is_ours and view.protocol not in place.stored.mappers:
            used.setdefault(family_name(FAMILIES[view.protocol]), []).append(view)
    return used


# --- who serves a protocol --------------------------------------------------------------------------


def _served_by(place: Place) -> Iterator[Verdict]:
    """Judge protocols with two servers, and with none."""
    disabled, mappers = place.settings.disabled, place.stored.mappers
    in_use = sorted({view.protocol for view in place.stored.devices if view.protocol in FAMILIES})
    for protocol in in_use:
        if protocol in disabled and protocol not in mappers:
            said = f"{protocol}: left to a mapper over DMI, and none has registered"
            yield Verdict("mappers", WARN, said, "start the mapper; see: twinspan edge status")
        elif protocol in mappers and protocol not in disabled:
            said = f"{protocol}: served by {mappers[protocol]} over DMI, by EdgeCore's driver without it"
            mend = f"--set 'edge.mappers.disabled=[\"{protocol}\"]' leaves it to the mapper alone"
            yield Verdict("mappers", WARN, said, mend)
    for protocol in sorted({*place.settings.always} & {*disabled}):
        said = f"{protocol} is in edge.mappers.always and in edge.mappers.disabled"
        yield Verdict("mappers", WARN, said, "take it out of one of them")


def _process(process: Mapping[str, Any]) -> Iterator[Verdict]:
    """Judge a mapper's process by what EdgeCore says of it."""
    name, ends = str(process.get("name")), int(process.get("ended_lately", 0))
    if process.get("broken"):
        mend = "change what it says; it is tried again every 30 seconds"
        yield Verdict(f"mapper {name}", FAIL, str(process["broken"]), mend)
    elif ends >= OFTEN:
        said = f"its process has ended {ends} times in the last ten minutes"
        yield Verdict(f"mapper {name}", FAIL, said, "journalctl -u twinspan-edge | grep mapper")


# --- libraries --------------------------------------------------------------------------------------


def _library(family: str, settings: Mappers) -> Iterator[Verdict]:
    modules, extra = _needed(family, settings)
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        said = f"{', '.join(missing)} not installed: its Devices are not served"
        yield Verdict(family, FAIL, said, f"pip install 'twinspan[{extra}]'")
    elif modules:
        yield Verdict(family, OK, f"{', '.join(modules)} installed")


def _needed(family: str, settings: Mappers) -> tuple[tuple[str, ...], str]:
    """Return a family's libraries and the extra that brings them."""
    if family == "zigbee":
        module, extra = RADIOS.get(settings.zigbee.radio, RADIOS["deconz"])
        return ("zigpy", module.partition(".")[0]), extra
    module, extra = LIBRARIES.get(family, ("", ""))
    return (module,) if module else (), extra


# --- what each family needs -------------------------------------------------------------------------


def _bluetooth(family: str, devices: Devices, place: Place) -> Iterator[Verdict]:
    if importlib.util.find_spec("dbus_fast") is None:
        return  # comes with bleak: said already
    from edge.bluetoothchecks import adapter_verdict  # needs the extra

    adapters = {str((view.protocol_config or {}).get("adapter") or "") for view in devices} or {""}
    named = {each or place.settings.ble.adapter for each in adapters}
    for adapter in sorted(named):
        yield adapter_verdict(family, adapter)


def _zigbee(family: str, _devices: Devices, place: Place) -> Iterator[Verdict]:
    settings = place.settings.zigbee
    if not settings.device:
        links = [link for link, _ in by_id(place.root)][:5]
        where = ", ".join(links) or "/dev/serial/by-id/..."
        mend = f"--set edge.mappers.zigbee.device={where}"
        yield Verdict(family, FAIL, "edge.mappers.zigbee.device is not set", mend)
    elif "://" in settings.device:
        yield from _answers(family, {"the stick": _of_url(settings.device)})
    else:
        verdict = serial_verdict(family, settings.device, place.root, place.pids)
        yield verdict
        yield from _radio(family, settings.device, place) if verdict.state != FAIL else ()
    yield from _private(family, [Path(settings.key_file)] if settings.key_file else [])


def _radio(family: str, device: str, place: Place) -> Iterator[Verdict]:
    """Judge whether the stick is of the kind that settings say."""
    real = (place.root / device.lstrip("/")).resolve()
    usb, said = usb_of(real, place.root), place.settings.zigbee.radio
    if usb is not None and usb.radio not in ("", said):
        text = f"{usb.names or usb.numbers} looks like a stick of the kind {usb.radio}, not {said}"
        yield Verdict(family, WARN, text, f"--set edge.mappers.zigbee.radio={usb.radio}")


def _modbus(family: str, devices: Devices, place: Place) -> Iterator[Verdict]:
    targets: dict[str, Target | None] = {}
    ports: dict[str, str] = {}
    for view in devices:
        try:
            line = unit_of(ConfigData("configData", view.protocol_config or {})).line
        except GatewayError as error:
            yield _unfit(family, view, error)
            continue
        if isinstance(line, SerialLine):
            ports[line.path] = str(view.key)
        else:
            targets[str(view.key)] = Target(line.host, line.port)
    for path in ports:
        yield serial_verdict(family, path, place.root, place.pids)
    yield from _answers(family, targets)


def _unfit(family: str, view: DeviceView, error: GatewayError) -> Verdict:
    mend = f"kubectl edit device {view.meta.name} -n {view.meta.namespace}"
    return Verdict(family, FAIL, f"{view.key}: {error.message}", mend)


def _urls(family: str, devices: Devices, _place: Place) -> Iterator[Verdict]:
    """Judge servers that Devices name by a URL."""
    found = {str(view.key): _of_url(_url(view)) for view in devices if _url(view)}
    yield from _answers(family, found)


def _url(view: DeviceView) -> str:
    config = view.protocol_config or {}
    return str(config.get("url") or config.get("endpoint") or config.get("commandUrl") or "")


def _http(family: str, devices: Devices, place: Place) -> Iterator[Verdict]:
    webhook = place.settings.http.webhook
    heard = [view for view in devices if (view.protocol_config or {}).get("mode") == "webhook"]
    if heard and not webhook.bind:
        said = f"{heard[0].key} posts to the webhook, which is off"
        yield Verdict(family, FAIL, said, "--set edge.mappers.http.webhook.bind=127.0.0.1:8099")
    elif webhook.bind:
        yield _webhook(family, webhook.bind, has_tls=bool(webhook.certificate))
        yield from _private(family, [Path(webhook.key)] if webhook.key else [])
    yield from _urls(family, [view for view in devices if view not in heard], place)


def _webhook(family: str, bind: str, *, has_tls: bool) -> Verdict:
    name = "edge.mappers.http.webhook"
    try:
        host, _ = parse_bind(bind, f"{name}.bind")
    except InvalidSetting as error:
        return Verdict(family, FAIL, error.message, f"--set {name}.bind=127.0.0.1:8099")
    if has_tls or _is_loopback(host):
        return Verdict(family, OK, f"webhook at {bind}")
    mend = f"set {name}.certificate and .key, or bind to 127.0.0.1 behind a proxy with TLS"
    return Verdict(family, FAIL, f"the webhook at {bind} would hear tokens in plain text", mend)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _edgex(family: str, devices: Devices, place: Place) -> Iterator[Verdict]:
    settings = place.settings.edgex
    files = [Path(each) for each in (settings.password_file, settings.key) if each]
    yield from _private(family, files)
    try:
        broker = Target(*parse_bind(settings.broker, "edge.mappers.edgex.broker"))
    except InvalidSetting as error:
        yield Verdict(family, FAIL, error.message, "--set edge.mappers.edgex.broker=HOST:1883")
    else:
        yield from _answers(family, {"the message bus": broker})
    yield from _urls(family, devices, place)


Check = Callable[[str, Devices, Place], Iterator[Verdict]]
CHECKS: Final[Mapping[str, Check]] = {
    "ble": _bluetooth,
    "zigbee": _zigbee,
    "modbus": _modbus,
    "opcua": _urls,
    "coap": _urls,
    "http": _http,
    "edgex": _edgex,
}


# --- who answers ------------------------------------------------------------------------------------


def _of_url(url: str) -> Target | None:
    """Return who a URL names, None for a URL that names nobody: its Device has a fault that says so."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if not parts.hostname or not port:
        return None
    return Target(parts.hostname, port, is_coap=parts.scheme == "coap")


def _answers(family: str, asked: Mapping[str, Target | None]) -> Iterator[Verdict]:
    """Judge who does not answer, an address a line, and count those who do."""
    users: dict[Target, list[str]] = {}
    for who, target in asked.items():
        if target is None:
            mend = "twinspan edge status names what is wrong with it"
            yield Verdict(family, FAIL, f"{who}: names no address", mend)
        else:
            users.setdefault(target, []).append(who)
    found = reached(users)
    silent = {target: why for target, why in found.items() if why}
    for target, why in list(silent.items())[:MAX_LINES]:
        more = f" and {len(users[target]) - 1} more" if len(users[target]) > 1 else ""
        said = f"{target} ({users[target][0]}{more}): {why}"
        yield Verdict(family, WARN, said, f"is it on, and is there a way: ping {target.host}")
    if len(silent) > MAX_LINES:
        yield Verdict(family, WARN, f"{len(silent) - MAX_LINES} further addresses do not answer")
    if len(found) > len(silent):
        rest = f", {len(users) - len(found)} not asked" if len(users) > MAX_TARGETS else ""
        text = f"{len(found) - len(silent)} of {len(found)} addresses answer{rest}"
        yield Verdict(family, OK, text)


# --- secrets ----------------------------------------------------------------------------------------


def _secrets(family: str, devices: Devices, place: Place) -> Iterator[Verdict]:
    """Judge the files that Devices name, each once."""
    folder = place.secrets(family)
    values = ((view.protocol_config or {}).get(key) for view in devices for key in SECRETS)
    names = dict.fromkeys(str(value) for value in values if value)
    keys = ((view.protocol_config or {}).get("privateKey") for view in devices)
    paths = dict.fromkeys(str(value) for value in keys if value)
    plain = [folder / name for name in names if "/" not in name]  # a path is refused: a fault
    yield from _private(family, [*plain, *map(Path, paths)])


def _private(family: str, files: Sequence[Path]) -> Iterator[Verdict]:
    for file in files:
        try:
            mode = file.stat().st_mode & 0o777
        except PermissionError:
            yield Verdict(
                family, WARN, f"{file}: no right to look at it", "run it as the edge's user"
            )
        except OSError:
            mend = f"install -D -m 600 /dev/stdin {file} (then type it, and end with Ctrl-D)"
            yield Verdict(family, FAIL, f"{file} is not there", mend)
        else:
            if mode & 0o077:
                said = f"{file}: others of this machine may use it (mode {mode:04o})"
                yield Verdict(family, WARN, said, f"chmod 600 {file}")
