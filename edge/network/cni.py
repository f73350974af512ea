"""A ready-made CNI configuration for one node: a bridge, its addresses, host ports, limits of bandwidth.

One file of ours in the runtime's folder; what is not ours is never written over, and one that comes before
ours by name, and so wins, is told. Pods of other nodes are not reached by it: each node has a subnet of its
own behind its own address. Blocking: for a command line. Source: CNI 1.0.0; the plugins' own documentation.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from edge.join import Check
from edge.network.runtimefiles import CNI_FOLDER, PLUGIN_FOLDERS, RuntimeFiles, read_runtime_files
from gateway.errors import BadRequest, Rejected

NETWORK = "twinspan"
"""Name of the network: says that a file is ours."""
FILE = "10-twinspan.conflist"
BRIDGE = "twinspan0"
SPACE = IPv4Network("10.88.0.0/16")
"""Of which each node takes 256 addresses, by its name."""
NEEDED, WELCOME = ("bridge", "host-local", "loopback"), ("portmap", "bandwidth")
NARROWEST, WIDEST = 29, 8
"""Prefix lengths of a Pods' subnet."""
USUAL_MTU = 1_500
SUFFIXES = (".conf", ".conflist", ".json")
MAX_FILE = 262_144


class CniRefused(Rejected):
    """The configuration is not written; the description says what helps."""

    status = 422
    code = "edge.network.cni"


@dataclass(frozen=True, slots=True, kw_only=True)
class CniRequest:
    """What is asked for; empty takes what is found.

    Shape:  `known` is the subnet that the cluster gave this node, if it did.
    """

    node: str
    pod_cidr: str = ""
    known: str = ""
    conf_dir: str = ""
    plugin_dir: str = ""
    runtime: RuntimeFiles | None = None
    """What is known of the runtime; None reads its files below `root`."""
    root: Path = Path("/")


@dataclass(frozen=True, slots=True)
class _Places:
    file: Path
    plugins: Path
    present: frozenset[str]
    why: str


def setup(request: CniRequest) -> Iterator[Check]:
    """Write the configuration unless it is there already, and yield what was found.

    Errors: CniRefused (plugins are missing, a file is not ours, no right to write); BadRequest for a subnet
            that cannot be.
    """
    places = _places(request, request.runtime or read_runtime_files(request.root))
    missing = [name for name in NEEDED if name not in places.present]
    if missing:
        raise CniRefused(
            f"CNI plugins are missing in {places.plugins}: {', '.join(missing)}",
            description="Install them: apt-get install containernetworking-plugins",
        )
    yield Check("CNI plugins", str(places.plugins))
    for name in (name for name in WELCOME if name not in places.present):
        what = "host ports" if name == "portmap" else "limits of bandwidth"
        yield Check(f"CNI plugin {name}", f"not there: {what} do not work", _INSTALL)
    before = _ours(places.file)
    subnet, why = _subnet(request, before)
    yield Check("Pods' subnet", f"{subnet}, {why}")
    document = conflist(subnet, places.present, _mtu(request.root))
    if before == document:
        yield Check("CNI configuration", f"{places.file} is as it should be ({places.why})")
    else:
        _write(places.file, document)
        said = "changed" if before is not None else "written"
        yield Check("CNI configuration", f"{places.file} {said} ({places.why})")
    stale = bridge_left(subnet, request.root)
    if stale is not None:
        yield Check("bridge", *stale)
    rivals = [path.name for path in _others(places.file) if path.name < places.file.name]
    if rivals:
        yield Check(
            "other CNI configurations",
            f"{', '.join(rivals)} in {places.file.parent} come first: the runtime takes {rivals[0]}",
            f"Move them away to use this one: mv {places.file.parent / rivals[0]} /root/",
        )


def bridge_left(subnet: IPv4Network, root: Path) -> tuple[str, str] | None:
    """Return what is wrong with the bridge that is there, and its mend; None where it fits."""
    there = _bridge_subnets(root)
    if not there or subnet in there:
        return None
    text = f"{BRIDGE} still has an address of {there[0]}: no new Pod of {subnet} starts"
    return (
        text,
        f"ip address flush dev {BRIDGE}; then delete the Pods of before, they come back anew",
    )


def _bridge_subnets(root: Path) -> list[IPv4Network]:
    return [net for device, net in _routes(root) if device == BRIDGE and net.prefixlen >= WIDEST]


_INSTALL = "Install it: apt-get install containernetworking-plugins"


def remove(request: CniRequest) -> Iterator[Check]:
    """Remove the configuration, and the bridge where nothing is on it any more.

    Errors: CniRefused for a file that is not ours.
    """
    places = _places(request, request.runtime or read_runtime_files(request.root))
    if _ours(places.file) is None:
        yield Check("CNI configuration", f"{places.file} is not there")
    else:
        with _told(places.file):
            places.file.unlink()
        yield Check("CNI configuration", f"{places.file} removed")
    yield _remove_bridge(request.root)


def _remove_bridge(root: Path) -> Check:
    ports = root / "sys/class/net" / BRIDGE / "brif"
    if not ports.is_dir():
        return Check("bridge", f"{BRIDGE} is not there")
    if any(ports.iterdir()):
        mend = f"Once its Pods are gone: ip link delete {BRIDGE}"
        return Check("bridge", f"{BRIDGE} has Pods on it and stays", mend)
    done = subprocess.run(  # noqa: S603  words of our own
        ["ip", "link", "delete", BRIDGE],  # noqa: S607  wherever it is
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    if done.returncode:
        return Check("bridge", done.stderr.strip()[:300], f"ip link delete {BRIDGE}")
    return Check("bridge", f"{BRIDGE} removed")


# --- where ------------------------------------------------------------------------------------------


def _places(request: CniRequest, files: RuntimeFiles) -> _Places:
    root = request.root
    folder, why = root / CNI_FOLDER, "the usual folder"
    if request.conf_dir:
        folder, why = Path(request.conf_dir), "as asked"
    elif files.conf_dir:
        folder, why = root / files.conf_dir.lstrip("/"), "as the runtime says"
        if not files.is_told:
            why = f"as {files.file} says"
    candidates = [Path(request.plugin_dir)] if request.plugin_dir else []
    candidates += [root / each.lstrip("/") for each in files.plugin_dirs]
    if not candidates:
        candidates = [root / each for each in PLUGIN_FOLDERS]
    best = max(candidates, key=lambda each: len(_plugins(each)))
    return _Places(folder / FILE, best, _plugins(best), why)


def _plugins(folder: Path) -> frozenset[str]:
    return frozenset(name for name in (*NEEDED, *WELCOME) if (folder / name).is_file())


def _others(file: Path) -> list[Path]:
    try:
        found = sorted(file.parent.iterdir())
    except OSError:
        return []
    return [each for each in found if each.suffix in SUFFIXES and each != file]


def _ours(file: Path) -> dict[str, Any] | None:
    """Return what our file holds, None without one. Errors: CniRefused for another's."""
    try:
        text = file.read_bytes()[:MAX_FILE]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniRefused(f"{file}: {error.strerror}", description=_sudo()) from error
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("name") != NETWORK:
        raise CniRefused(
            f"{file} is not one of ours and is not written over",
            description=f"Look at it, then move it away: mv {file} /root/",
        )
    return found


def _write(file: Path, document: dict[str, Any]) -> None:
    draft = file.with_name(f".{file.name}.new")
    with _told(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(document, indent=2) + "\n")
        draft.replace(file)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turn failures of the file system into ours."""
    try:
        yield
    except OSError as error:
        raise CniRefused(f"{file}: {error.strerror}", description=_sudo()) from error


def _sudo() -> str:
    return "Only root may write there: sudo twinspan edge setup-cni"


# --- what -------------------------------------------------------------------------------------------


def conflist(subnet: IPv4Network, present: Iterable[str], mtu: int) -> dict[str, Any]:
    """Return the configuration. Units: `mtu` bytes, 0 for the usual."""
    bridge: dict[str, Any] = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": str(subnet)}]]},
    }
    if mtu:
        bridge["mtu"] = mtu
    plugins = [bridge]
    if "portmap" in present:
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    if "bandwidth" in present:
        plugins.append({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    return {"cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins}


def _subnet(request: CniRequest, before: dict[str, Any] | None) -> tuple[IPv4Network, str]:
    """Return the Pods' subnet and where it comes from."""
    if request.pod_cidr:
        return read_subnet(request.pod_cidr), "as asked"
    if request.known:
        with suppress(BadRequest):
            return read_subnet(request.known), "as the cluster gave it to this node"
    kept = _subnet_in(before) if before else None
    if kept is not None:
        return kept, "as before"
    there = _bridge_subnets(request.root)
    if there:
        return there[0], f"as {BRIDGE} has it"
    taken = [net for device, net in _routes(request.root) if device != BRIDGE]
    return choose_subnet(request.node, taken), "chosen by this node's name"


def read_subnet(text: str) -> IPv4Network:
    """Read a subnet of Pods. Errors: BadRequest."""
    try:
        found = IPv4Network(text.strip())
    except ValueError as error:
        raise BadRequest(f"--pod-cidr: expected a subnet such as 10.88.7.0/24: {error}") from error
    if not WIDEST <= found.prefixlen <= NARROWEST:
        raise BadRequest(f"--pod-cidr: expected /{WIDEST} to /{NARROWEST}, got {found}")
    if found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified:
        raise BadRequest(f"--pod-cidr: no subnet for Pods: {found}")
    return found


def choose_subnet(node: str, taken: Iterable[IPv4Network]) -> IPv4Network:
    """Return a free subnet, the same for the same name. Errors: CniRefused when all are taken."""
    others = [net for net in taken if net.prefixlen > 0]
    first = hashlib.sha256(node.encode()).digest()[0]
    every = list(SPACE.subnets(new_prefix=24))
    for at in range(len(every)):
        found = every[(first + at) % len(every)]
        if not any(found.overlaps(net) for net in others):
            return found
    raise CniRefused(
        f"this machine's routes leave no subnet free in {SPACE}",
        description="Choose one: --pod-cidr 10.123.0.0/24",
    )


def _subnet_in(document: dict[str, Any]) -> IPv4Network | None:
    return next(iter(subnets_in(document)), None)


def subnets_in(document: object) -> Iterator[IPv4Network]:
    """Yield the subnets that a CNI configuration gives to Pods."""
    plugins = document.get("plugins", [document]) if isinstance(document, dict) else []
    for plugin in plugins if isinstance(plugins, list) else []:
        ipam = plugin.get("ipam") if isinstance(plugin, dict) else None
        if not isinstance(ipam, dict):
            continue
        ranges = ipam.get("ranges") or [[ipam]]
        for row in (row for rows in ranges for row in rows if isinstance(row, dict)):
            with suppress(ValueError, TypeError):
                yield IPv4Network(row.get("subnet", ""), strict=False)


def _routes(root: Path) -> Iterator[tuple[str, IPv4Network]]:
    """Yield device and destination of this machine's routes."""
    try:
        lines = (root / "proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return
    for words in (line.split() for line in lines):
        if len(words) > 7:
            address = ipaddress.IPv4Address(bytes.fromhex(words[1])[::-1])
            mask = ipaddress.IPv4Address(bytes.fromhex(words[7])[::-1])
            yield words[0], IPv4Network(f"{address}/{mask}", strict=False)


def _mtu(root: Path) -> int:
    """Return the MTU towards the world where it is not the usual, else 0."""
    devices = [device for device, net in _routes(root) if net.prefixlen == 0]
    for device in devices[:1]:
        with suppress(OSError, ValueError):
            found = int((root / "sys/class/net" / device / "mtu").read_text())
            return found if 576 <= found != USUAL_MTU else 0
    return 0


def configured_subnets(folder: Path) -> list[IPv4Network]:
    """Return the Pods' subnets of the configuration that the runtime takes: the first by name."""
    for file in _others(folder / ".none"):
        try:
            found = json.loads(file.read_bytes()[:MAX_FILE])
        except (OSError, ValueError):
            continue
        return list(subnets_in(found))
    return []
