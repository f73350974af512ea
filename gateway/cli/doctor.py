"""`twinspan doctor`: what is wrong on this machine, one line each, with the command that mends it."""

from __future__ import annotations

import importlib
import json
import resource
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from edge.verdicts import Verdict
from gateway.cli.client import ENDPOINTS
from gateway.cli.options import output_option, settings_of, settings_options
from gateway.cli.output import print_rows
from gateway.config import Settings
from gateway.errors import InvalidSetting
from gateway.hono.adapters.coap_dtls import why_not
from gateway.runtime.listener import parse_bind

MIN_FREE_BYTES = 512 * 1024 * 1024
MIN_FILES = 4_096
SOON_DAYS = 30

DATAGRAM_BINDS = ("hono.coap.bind", "hono.coap.tls_bind")
BINDS = (
    "ditto.http.bind",
    "hono.registry.bind",
    "hono.http.bind",
    "hono.mqtt.bind",
    "hono.amqp.bind",
    "hono.northbound.bind",
    "hono.registry.tls_bind",
    "hono.http.tls_bind",
    "hono.mqtt.tls_bind",
    "hono.amqp.tls_bind",
    "hono.northbound.tls_bind",
    "kube.https.bind",
    "cloud.hub.wss.bind",
    "cloud.hub.https.bind",
    "cloud.stream.bind",
    "cloud.stream.tunnel_bind",
    "edge.mqtt.bind",
    "edge.metaserver.bind",
    "observe.http.bind",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Shape:  `state` ok, warn or fail; `mend` the command or step that helps, empty when all is well.
    """

    check: str
    state: str
    finding: str
    mend: str = ""


COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@settings_options
@output_option
def doctor(file: Path | None, sets: tuple[str, ...], data_dir: Path | None, output: str) -> None:
    """Check machine, settings, ports, disk, certificates and optional parts.

    Exit code 1 when something fails.
    """
    settings = settings_of(file, sets, data_dir)
    findings = [f for check in CHECKS for f in check(settings)]
    if output in ("table", "wide"):
        _print(findings)
    else:
        rows = [asdict(f) for f in findings]
        print_rows(rows, (), output, rows)
    sys.exit(int(any(f.state == "fail" for f in findings)))


def _print(findings: list[Finding]) -> None:
    for found in findings:
        state = click.style(f"{found.state:<4}", fg=COLOURS[found.state])
        mend = f"  -> {found.mend}" if found.mend else ""
        click.echo(f"{state}  {found.check}: {found.finding}{mend}")


def check_python(_settings: Settings) -> Iterator[Finding]:
    """Which Python, and whether the faster loop is there."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok", version)
    try:
        importlib.import_module("uvloop")
        yield Finding("event loop", "ok", "uvloop")
    except ImportError:
        yield Finding("event loop", "ok", "asyncio (no uvloop wheel for this platform)")


def check_files(_settings: Settings) -> Iterator[Finding]:
    """How many sockets this process may have open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= MIN_FILES
    yield Finding(
        "open files",
        "ok" if enough else "warn",
        f"limit {hard}",
        "" if enough else f"raise LimitNOFILE or ulimit -Hn to {MIN_FILES} or more",
    )


def check_data_dir(settings: Settings) -> Iterator[Finding]:
    """Whether state can be written, and how much room there is."""
    folder = settings.data_dir
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        probe = nearest / ".twinspan-doctor"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        yield Finding("data directory", "fail", f"{folder}: {error.strerror}", "give --data-dir")
        return
    free = shutil.disk_usage(nearest).free
    low = free < MIN_FREE_BYTES
    yield Finding(
        "data directory",
        "fail" if low else "ok",
        f"{folder}, {free // 1_048_576} MiB free",
        f"free at least {MIN_FREE_BYTES // 1_048_576} MiB" if low else "",
    )


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Whether each port is free, or ours."""
    ours = _running_endpoints(settings.data_dir)
    for setting in (*BINDS, *DATAGRAM_BINDS, *_on_request(settings)):
        kind = socket.SOCK_DGRAM if setting in DATAGRAM_BINDS else socket.SOCK_STREAM
        bind: object = settings
        for name in setting.split("."):
            bind = getattr(bind, name)
        try:
            host, port = parse_bind(str(bind), setting)
        except InvalidSetting as error:
            yield Finding("port", "fail", error.message)
            continue
        if f"{host}:{port}" in ours:
            yield Finding("port", "ok", f"{setting} {bind}: held by the running Twinspan")
        elif port and _is_taken(host, port, kind):
            yield Finding("port", "fail", f"{setting} {bind}: taken", f"--set {setting}={host}:0")
        else:
            yield Finding("port", "ok", f"{setting} {bind}: free")


def _on_request(settings: Settings) -> Iterator[str]:
    """The ports of adapters and services that are off by default."""
    if settings.cloud.admission.enabled:
        yield "cloud.admission.bind"
    for name, adapter in (("lora", settings.hono.lora), ("sigfox", settings.hono.sigfox)):
        if adapter.enabled:
            yield f"hono.{name}.bind"
            yield f"hono.{name}.tls_bind"


def check_running(settings: Settings) -> Iterator[Finding]:
    """Whether the process on this data directory is ready."""
    address = next(
        (a for n, a in _named_endpoints(settings.data_dir).items() if n == "ops.http"), None
    )
    if address is None:
        yield Finding("process", "warn", "not running on this data directory", "twinspan up")
        return
    try:
        with urllib.request.urlopen(f"http://{address}/readiness", timeout=3) as answer:
            yield Finding("process", "ok", f"ready ({answer.status})")
    except urllib.error.HTTPError as error:
        down = [c["name"] for c in json.load(error)["checks"] if c["status"] != "UP"]
        yield Finding("process", "fail", f"not ready: {', '.join(down)}", "look at its log")
    except OSError as error:
        yield Finding("process", "fail", f"{address} does not answer: {error}", "twinspan up")


def check_remote(settings: Settings) -> Iterator[Finding]:
    """Whether a remote Hono and a remote Ditto are there, and what waits for them."""
    address = _named_endpoints(settings.data_dir).get("ops.http")
    if address is None:
        return
    try:
        with urllib.request.urlopen(f"http://{address}/readiness", timeout=3) as answer:
            checks = json.load(answer)["checks"]
    except urllib.error.HTTPError as error:
        checks = json.load(error)["checks"]
    except OSError:
        return
    for facts in (check["data"] for check in checks if "remote" in check.get("data", {})):
        yield _remote_finding(facts) if "telemetry-waiting" in facts else _remote_ditto(facts)


def _remote_ditto(facts: dict[str, object]) -> Finding:
    if facts["connected"]:
        text = f"{facts['remote']} as {facts['subject']}: connected, {facts['things']} things"
        return Finding("remote ditto", "ok", text)
    return Finding(
        "remote ditto",
        "warn",
        f"{facts['remote']}: away ({facts['cause']}), {facts['things']} things known",
        "look at the remote, and at ditto.remote",
    )


def _remote_finding(facts: dict[str, object]) -> Finding:
    waiting = f"{facts['telemetry-waiting']} telemetry, {facts['event-waiting']} events wait"
    where = f"{facts['remote']} as {facts['username'] or 'its certificate says'}"
    refused = f"; refused last: {facts['last-refusal']}" if "last-refusal" in facts else ""
    if facts["connected"]:
        return Finding("remote hono", "ok", f"{where}: connected, {waiting}{refused}")
    return Finding(
        "remote hono",
        "warn",
        f"{where}: away ({facts.get('cause', 'not tried yet')}), {waiting}{refused}",
        "look at the remote, and at hono.remote",
    )


def check_certificates(settings: Settings) -> Iterator[Finding]:
    """When certificates below the data directory end."""
    from cryptography import x509

    for file in sorted(settings.data_dir.rglob("*.crt")):
        try:
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
        except (OSError, ValueError) as error:
            yield Finding("certificate", "fail", f"{file}: {error}", "remove it and start again")
            continue
        days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
        state = "fail" if days < 0 else "warn" if days < SOON_DAYS else "ok"
        mend = "" if state == "ok" else "remove it and start again; edges: twinspan edge join"
        yield Finding("certificate", state, f"{file.name}: {days} days left", mend)


def check_hub_files(settings: Settings) -> Iterator[Finding]:
    """Whether CloudCore would start with the certificates that its settings name."""
    from cloud.certfiles import read_ca, read_server

    hub, now = settings.cloud.hub, datetime.now(UTC)
    if not any((hub.ca_file, hub.ca_key_file, hub.cert_file, hub.key_file)):
        return
    try:
        ca = read_ca(hub, now)
        if ca is not None:  # else it is in the cluster
            read_server(hub, ca, settings.cloud.advertise, now)
    except InvalidSetting as error:
        yield Finding("cloud certificates", "fail", error.message, "name files that fit, or none")
        return
    yield Finding("cloud certificates", "ok", hub.ca_file or hub.cert_file)


def check_amqp(_settings: Settings) -> Iterator[Finding]:
    """What python-qpid-proton was built with; it is needed for foreign AMQP peers only."""
    try:
        from proton import SASL, SSL
    except ImportError:
        yield Finding(
            "amqp client",
            "ok",
            "python-qpid-proton is not installed (needed for foreign AMQP peers only)",
            "pip install 'twinspan[amqp]'",
        )
        return
    rebuild = (
        "apt-get install gcc libssl-dev libsasl2-dev pkg-config python3-dev &&"
        " pip install --force-reinstall --no-cache-dir python-qpid-proton"
    )
    tls = bool(SSL.present())
    yield Finding(
        "amqp client",
        "ok" if tls else "fail",
        f"python-qpid-proton, TLS {'yes' if tls else 'no'}, SASL"
        f" {'extended' if SASL.extended() else 'basic'}",
        "" if tls else rebuild,
    )


def check_coap(settings: Settings) -> Iterator[Finding]:
    """Whether devices can come in over CoAP, and how."""
    coap = settings.hono.coap
    if not coap.enabled:
        yield Finding("coap", "ok", "hono.coap.enabled is false")
        return
    try:
        missing = why_not(coap.tls)
    except InvalidSetting as error:
        yield Finding("coap", "fail", error.message)
        return
    if missing is None:
        yield Finding("coap", "ok", "DTLS with pre-shared keys and certificates")
    elif coap.authentication_required:
        yield Finding("coap", "warn", f"no device can come in: {missing}")
    else:
        yield Finding("coap", "ok", f"without credentials only: {missing}")


def check_workloads(settings: Settings) -> Iterator[Finding]:
    """Whether Pods can run here; asked of edge nodes, and of machines with a container runtime."""
    from edge.identity import Identity
    from edge.pods.sockets import find_endpoint
    from edge.workloadchecks import workload_checks

    workloads = settings.edge.workloads
    has_joined = Identity(settings.data_dir).settings.is_file()
    if not has_joined and workloads.enabled != "on" and find_endpoint(workloads.runtime) is None:
        return
    yield from _findings(workload_checks(settings.edge))


def check_hardware(settings: Settings) -> Iterator[Finding]:
    """Whether the mappers of this node can work; nothing is told where no Device needs one."""
    from edge import status
    from edge.hardwarechecks import Place, hardware_checks
    from edge.storeddevices import read_stored

    try:
        stored = read_stored(settings.data_dir)
    except InvalidSetting as error:
        yield Finding("devices", "warn", error.message, "run it as the edge's user (sudo)")
        return
    running: Any = status.ask(settings.data_dir) or {}
    place = Place(
        settings.edge.mappers,
        stored,
        settings.data_dir,
        running.get("mapper_processes") or (),
    )
    yield from _findings(hardware_checks(place))


def check_watching(settings: Settings) -> Iterator[Finding]:
    """Whether people can look in: console, Prometheus, collectors."""
    from gateway.cli.watchchecks import watch_checks

    yield from _findings(watch_checks(settings, _named_endpoints(settings.data_dir)))


def _findings(verdicts: Iterable[Verdict]) -> Iterator[Finding]:
    for verdict in verdicts:
        yield Finding(verdict.name, verdict.state, verdict.text, verdict.mend)


def check_clock(_settings: Settings) -> Iterator[Finding]:
    """Whether the clock can be true: certificates and tokens depend on it."""
    year = datetime.now(UTC).year
    plausible = year >= 2026
    yield Finding(
        "clock",
        "ok" if plausible else "fail",
        datetime.now(UTC).isoformat(timespec="seconds"),
        "" if plausible else "timedatectl set-ntp true",
    )


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    check_python,
    check_clock,
    check_files,
    check_data_dir,
    check_running,
    check_remote,
    check_ports,
    check_certificates,
    check_hub_files,
    check_amqp,
    check_coap,
    check_workloads,
    check_hardware,
    check_watching,
)


def _named_endpoints(data_dir: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((data_dir / ENDPOINTS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _running_endpoints(data_dir: Path) -> set[str]:
    return set(_named_endpoints(data_dir).values())


def _is_taken(host: str, port: int, kind: socket.SocketKind) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
