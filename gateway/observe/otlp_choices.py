"""Where OTLP goes and how: our settings first, then OpenTelemetry's environment variables, then defaults.

A variable of one signal (`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) goes before the one for all. A signal's
endpoint is
taken as it is; to a base address over HTTP `/v1/traces` or `/v1/logs` is added.
Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter" and "Environment Variables".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from gateway.config.observe import Otlp, Traces
from gateway.errors import InvalidSetting

HTTP, GRPC = "http/protobuf", "grpc"
PROTOCOLS: Final = (HTTP, GRPC)
COMPRESSIONS: Final = ("none", "gzip")
BASES: Final = {HTTP: "http://127.0.0.1:4318", GRPC: "http://127.0.0.1:4317"}
SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
    "rate_limiting",
)
SERVICE: Final = "twinspan"
DEFAULT_TIMEOUT: Final = 5.0
MAX_ATTRIBUTES: Final = 128

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One collector for one signal.

    Units:  `timeout` in seconds for one export with all its tries.
    """

    endpoint: str
    protocol: str = HTTP
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    compression: str = "none"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    max_queue: int = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which new traces are sampled; None for no rate."""

    ratio: float = 1.0
    per_second: int | None = None
    follows: bool = True


def is_on(settings: Otlp, signal: str, environment: Environment) -> bool:
    """True when a signal (`traces`, `logs`) is exported."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return (
        settings.enabled or environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip() == "otlp"
    )


def destination(settings: Otlp, signal: str, environment: Environment) -> Destination:
    """Return where a signal goes. Errors: InvalidSetting, naming setting or variable."""
    where = f"observe.{signal}.otlp"

    def told(name: str) -> str:
        return (
            environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", "").strip()
            or environment.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()
        )

    protocol = _one_of(
        settings.protocol or told("PROTOCOL") or HTTP, PROTOCOLS, f"{where}.protocol"
    )
    compression = settings.compression or told("COMPRESSION") or "none"
    return Destination(
        endpoint=_endpoint(settings, signal, protocol, environment),
        protocol=protocol,
        headers={**_pairs(told("HEADERS"), "OTEL_EXPORTER_OTLP_HEADERS"), **settings.headers},
        timeout=settings.timeout or _milliseconds(told("TIMEOUT")) or DEFAULT_TIMEOUT,
        compression=_one_of(compression, COMPRESSIONS, f"{where}.compression"),
        ca_file=settings.ca_file or told("CERTIFICATE"),
        cert_file=settings.cert_file or told("CLIENT_CERTIFICATE"),
        key_file=settings.key_file or told("CLIENT_KEY"),
        max_queue=settings.max_queue,
    )


def _endpoint(settings: Otlp, signal: str, protocol: str, environment: Environment) -> str:
    own = environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip()
    if not settings.endpoint and own:
        return _address(own)
    base = settings.endpoint or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    base = _address(base or BASES[protocol]).rstrip("/")
    return base if protocol == GRPC else f"{base}/v1/{signal}"


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise InvalidSetting("OTLP endpoint: expected http://host:port or https://host:port")
    return text


def resource(
    settings: Mapping[str, str], environment: Environment, own: Mapping[str, str]
) -> dict[str, str]:
    """Return who we are to a collector: `own` first, then OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME,
    settings.

    Errors: InvalidSetting for a variable that is no list of pairs.
    """
    found = {"service.name": SERVICE, **own}
    name = "OTEL_RESOURCE_ATTRIBUTES"
    found.update(_pairs(environment.get(name, ""), name))
    if service := environment.get("OTEL_SERVICE_NAME", "").strip():
        found["service.name"] = service
    found.update(settings)
    return found


def sampling(settings: Traces, environment: Environment) -> Sampling:
    """Return which new traces are sampled. Errors: InvalidSetting."""
    if settings.sampler:
        return _sampling(settings.sampler, settings.ratio, "observe.traces.sampler")
    told = environment.get("OTEL_TRACES_SAMPLER", "").strip()
    if not told:
        return Sampling(ratio=settings.ratio)
    argument = environment.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    return _sampling(told, _number(argument, "OTEL_TRACES_SAMPLER_ARG"), "OTEL_TRACES_SAMPLER")


def _sampling(name: str, argument: float, where: str) -> Sampling:
    _one_of(name, SAMPLERS, where)
    if name == "rate_limiting":
        return Sampling(per_second=max(1, int(argument)))
    if not 0.0 <= argument <= 1.0:
        raise InvalidSetting(f"{where}: a ratio is from 0.0 to 1.0, got {argument:g}")
    ratios = {"on": 1.0, "off": 0.0, "traceidratio": argument}
    return Sampling(ratio=ratios[name.rpartition("_")[2]], follows=name.startswith("parentbased"))


def _number(text: str, name: str) -> float:
    try:
        number = float(text or 1.0)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidSetting(f"{name}: expected a number, got {text[:64]!r}")
    return number


def _milliseconds(text: str) -> float:
    return _number(text, "OTEL_EXPORTER_OTLP_TIMEOUT") / 1_000 if text else 0.0


def _pairs(text: str, name: str) -> dict[str, str]:
    """Read `a=b,c=d`, percent-encoded."""
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InvalidSetting(f"{name}: expected key=value,key=value")
        found[unquote(key.strip())] = unquote(value.strip())
    if len(found) > MAX_ATTRIBUTES:
        raise InvalidSetting(f"{name}: at most {MAX_ATTRIBUTES} pairs")
    return found


def _one_of(value: str, known: tuple[str, ...], where: str) -> str:
    if value not in known:
        raise InvalidSetting(f"{where}: expected one of {', '.join(known)}, got {value[:64]!r}")
    return value
