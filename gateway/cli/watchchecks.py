"""`twinspan doctor` of what lets people look in: the console, Prometheus, collectors of traces and logs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final

from edge.reachability import Target, reached
from edge.verdicts import FAIL, OK, WARN, Verdict
from gateway.cli.exposure import is_loopback
from gateway.config import Settings
from gateway.errors import InvalidSetting
from gateway.observe.otlp_choices import GRPC, Destination, destination, is_on
from gateway.runtime.listener import parse_bind

SECONDS: Final = 3.0
MAX_ANSWER: Final = 8_388_608
STARTED: Final = "process_start_time_seconds"
"""The metric that tells processes apart: no two of one machine begin in the same moment."""
SAME_SECONDS: Final = 0.5
PROTOBUF: Final = "application/x-protobuf"
_STARTED: Final = re.compile(rf"^{STARTED}(?:{{[^}}]*}})? ([0-9.e+]+)", re.M)
LIBRARIES: Final = {
    True: ("opentelemetry.exporter.otlp.proto.grpc", "otlp-grpc"),
    False: ("opentelemetry.exporter.otlp.proto.http", "otlp"),
}
"""Whether over gRPC -> library and the extra that brings it."""
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def watch_checks(settings: Settings, endpoints: Mapping[str, str]) -> Iterator[Verdict]:
    """Look at them. Shape: `endpoints` of the process that runs on the data directory, by name."""
    ours = endpoints.get("ops.http", "")
    if settings.console.enabled:
        yield from _console(settings)
    if ours:
        yield _scraping(ours)
    if settings.console.prometheus:
        yield _prometheus(settings.console.prometheus, ours)
    for signal in ("traces", "logs"):
        otlp = getattr(settings.observe, signal).otlp
        if is_on(otlp, signal, os.environ):
            yield from _collector(settings, signal)


# --- the console ------------------------------------------------------------------------------------


def _console(settings: Settings) -> Iterator[Verdict]:
    if not resources.files("gateway.console").joinpath("web", "index.html").is_file():
        said = "its built files are not in this installation; the APIs work without them"
        mend = "pip install --force-reinstall twinspan (in a source tree: cd console; npm ci; npm run build)"
        yield Verdict("console", WARN, said, mend)
    bind = settings.ditto.http.bind
    try:
        host, _ = parse_bind(bind, "ditto.http.bind")
    except InvalidSetting:
        return  # told of the port
    if not is_loopback(host):
        said = f"ditto.http.bind {bind}: passwords and sessions cross the network in plain text"
        mend = "bind to 127.0.0.1:8080 and put a proxy with TLS in front (docs/console.md)"
        yield Verdict("console", WARN, said, mend)


# --- Prometheus -------------------------------------------------------------------------------------


def _scraping(ours: str) -> Verdict:
    """Say where metrics are, in the words of a Prometheus's configuration."""
    try:
        found = _STARTED.search(_get(f"http://{ours}/metrics"))
    except OSError as error:
        return Verdict("metrics", WARN, f"http://{ours}/metrics: {error}", "twinspan doctor again")
    if found is None:
        return Verdict("metrics", WARN, f"http://{ours}/metrics tells no {STARTED}")
    job = f"scrape_configs: [{{job_name: twinspan, static_configs: [{{targets: ['{ours}']}}]}}]"
    return Verdict("metrics", OK, f"http://{ours}/metrics; Prometheus: {job}")


def _prometheus(url: str, ours: str) -> Verdict:
    """Judge whether the Prometheus of the console's plots answers, and knows this process."""
    name = "console.prometheus"
    query = urllib.parse.urlencode({"query": STARTED})
    try:
        told = json.loads(_get(f"{url.rstrip('/')}/api/v1/query?{query}"))
        rows = told["data"]["result"]
        starts = [float(row["value"][1]) for row in rows]
    except (OSError, ValueError) as error:
        why = f"{url} does not answer as a Prometheus: {error}"
        return Verdict(name, FAIL, why, "start it, or --set console.prometheus=URL")
    except (KeyError, TypeError, IndexError):
        return Verdict(name, FAIL, f"{url} is no Prometheus", "--set console.prometheus=URL")
    if not ours:
        return Verdict(name, OK, f"{url} answers")
    own = _started(ours)
    if own is None or any(abs(start - own) < SAME_SECONDS for start in starts):
        return Verdict(
            name, OK, f"{url} answers" + ("" if own is None else ", and scrapes this process")
        )
    mend = f"add the target {ours} to its scrape_configs (deploy/monitoring/prometheus.yaml)"
    return Verdict(name, WARN, f"{url} answers, but does not scrape this process", mend)


def _started(ours: str) -> float | None:
    try:
        found = _STARTED.search(_get(f"http://{ours}/metrics"))
    except OSError:
        return None
    return None if found is None else float(found[1])


def _get(url: str) -> str:
    """Errors: OSError; ValueError for what is no URL."""
    with _direct.open(url, timeout=SECONDS) as answer:
        body: bytes = answer.read(MAX_ANSWER)
        return body.decode(errors="replace")


# --- collectors -------------------------------------------------------------------------------------


def _collector(settings: Settings, signal: str) -> Iterator[Verdict]:
    name = f"observe.{signal}.otlp"
    try:
        goes = destination(getattr(settings.observe, signal).otlp, signal, os.environ)
    except InvalidSetting as error:
        yield Verdict(name, FAIL, error.message, f"change {name} or the OTEL_ variable")
        return
    library, extra = LIBRARIES[goes.protocol == GRPC]
    if not _is_installed(library):
        said = f"{goes.protocol} needs {library}, which is not installed"
        yield Verdict(name, FAIL, said, f"pip install 'twinspan[{extra}]'")
    yield _over_grpc(name, goes) if goes.protocol == GRPC else _over_http(name, goes)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _over_grpc(name: str, goes: Destination) -> Verdict:
    parts = urllib.parse.urlsplit(goes.endpoint)
    target = Target(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 4317))
    why = reached([target])[target]
    if why:
        return Verdict(name, FAIL, f"{goes.endpoint}: {why}", _mend(name))
    return Verdict(name, OK, f"{goes.endpoint} takes connections (gRPC)")


def _over_http(name: str, goes: Destination) -> Verdict:
    """Send an export of nothing: it shows the path and the token to be right, too."""
    headers = {**goes.headers, "Content-Type": PROTOBUF}
    request = urllib.request.Request(goes.endpoint, b"", headers, method="POST")  # noqa: S310
    try:
        with _opener(goes).open(request, timeout=SECONDS) as answer:
            return Verdict(name, OK, f"{goes.endpoint} takes exports ({answer.status})")
    except urllib.error.HTTPError as error:
        said = f"{goes.endpoint} refuses exports: {error.code} {error.reason}"
        return Verdict(name, FAIL, said, f"look at {name}.endpoint and .headers")
    except (OSError, ValueError) as error:
        why: Any = getattr(error, "reason", error)
        return Verdict(name, FAIL, f"{goes.endpoint}: {why}", _mend(name))


def _opener(goes: Destination) -> urllib.request.OpenerDirector:
    """Errors: OSError for files of certificates that cannot be read."""
    trust = ssl.create_default_context(cafile=goes.ca_file or None)
    if goes.cert_file:
        trust.load_cert_chain(goes.cert_file, goes.key_file or None)
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
    )


def _mend(name: str) -> str:
    return f"start the collector, or --set {name}.endpoint=URL; exports wait, then are dropped"
