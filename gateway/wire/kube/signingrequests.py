"""CertificateSigningRequests when they are written, and what becomes of old ones. Pure.

Source: Kubernetes certificates.k8s.io/v1 and its server's messages.
"""

from __future__ import annotations

import re

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.names import invalid_value, quoted, required
from gateway.wire.kube.requestfiles import LEGACY, read_request
from gateway.wire.kube.status import Cause

APPROVED, DENIED, FAILED = "Approved", "Denied", "Failed"
USAGES = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign",
    "data encipherment", "decipher only", "digital signature", "email protection", "encipher only",
    "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment",
    "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping",
)  # fmt: skip
HOUR, DAY = 3_600.0, 86_400.0
SHORTEST = 600
_SIGNER = re.compile(r"[a-z0-9][-a-z0-9]*(\.[a-z0-9][-a-z0-9]*)+/[-a-z0-9.]+")


def prepare(item: JsonObject, old: JsonObject | None) -> None:
    """Nothing of the spec changes after the creation, and nobody brings a status."""
    if old is not None:
        item["spec"] = old.get("spec")
    else:
        item["status"] = {}


def faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """Say what is wrong with a request."""
    spec = _table(item.get("spec"))
    found = _request_faults(spec)
    usages = spec.get("usages")
    listed: list[Json] = usages if isinstance(usages, list) else []
    if not listed:
        found.append(required("spec.usages"))
    for at, usage in enumerate(listed):
        found += _usage_faults(usage, f"spec.usages[{at}]", listed[:at])
    found += _signer_faults(str(spec.get("signerName") or ""))
    seconds = spec.get("expirationSeconds")
    if isinstance(seconds, int) and seconds < SHORTEST:
        why = "may not specify a duration less than 600 seconds (10 minutes)"
        found.append(invalid_value("spec.expirationSeconds", seconds, why))
    return found + _condition_faults(item)


def _request_faults(spec: JsonObject) -> list[Cause]:
    try:
        read_request(spec.get("request"))
    except ValueError as error:
        return [invalid_value("spec.request", spec.get("request"), str(error))]
    return []


def _usage_faults(usage: Json, field: str, before: list[Json]) -> list[Cause]:
    if usage not in USAGES:
        known = ", ".join(quoted(each) for each in USAGES)
        text = f"Unsupported value: {quoted(usage)}: supported values: {known}"
        return [Cause("FieldValueNotSupported", text, field)]
    if usage in before:
        return [Cause("FieldValueDuplicate", f"Duplicate value: {quoted(usage)}", field)]
    return []


def _signer_faults(signer: str) -> list[Cause]:
    if signer == LEGACY:
        why = "the legacy signerName is not allowed via this API version"
        return [invalid_value("spec.signerName", signer, why)]
    if not signer:
        return [required("spec.signerName")]
    if not _SIGNER.fullmatch(signer):
        why = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        return [invalid_value("spec.signerName", signer, why)]
    return []


def _condition_faults(item: JsonObject) -> list[Cause]:
    found: list[Cause] = []
    seen: set[Json] = set()
    for at, condition in enumerate(conditions(item)):
        field, kind = f"status.conditions[{at}]", condition.get("type")
        if not kind:
            found.append(required(f"{field}.type"))
        if condition.get("status") != "True" and kind in (APPROVED, DENIED, FAILED):
            text = f'Unsupported value: {quoted(condition.get("status"))}: supported values: "True"'
            found.append(Cause("FieldValueNotSupported", text, f"{field}.status"))
        if kind in (APPROVED, DENIED) and {APPROVED, DENIED} - {kind} & seen:
            why = "Approved and Denied conditions are mutually exclusive"
            found.append(invalid_value("status.conditions", kind, why))
        if kind in seen:
            text = f"Duplicate value: {quoted(kind)}"
            found.append(Cause("FieldValueDuplicate", text, f"{field}.type"))
        seen.add(kind)
    return found


# --- what has become of one -----------------------------------------------------------------------


def conditions(item: JsonObject) -> list[JsonObject]:
    """Return the conditions of a request."""
    found = _table(item.get("status")).get("conditions")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def has(item: JsonObject, kind: str) -> bool:
    """True when a condition of this type is there."""
    return any(
        each.get("type") == kind and each.get("status", "True") == "True"
        for each in conditions(item)
    )


def is_issued(item: JsonObject) -> bool:
    """True when its certificate is there."""
    return bool(_table(item.get("status")).get("certificate"))


def old_at(item: JsonObject) -> float | None:
    """Return when a request may be forgotten (Unix time): an hour after it ended, a day after it was made.

    None: what it says of times cannot be read.
    """
    made = parse_rfc3339(_table(item.get("metadata")).get("creationTimestamp"))
    ends = [] if made is None or conditions(item) else [made + DAY]
    for condition in conditions(item):
        kind, stamp = condition.get("type"), parse_rfc3339(condition.get("lastUpdateTime"))
        when = made if stamp is None else stamp
        if when is None:
            continue
        if kind in (DENIED, FAILED) or (kind == APPROVED and is_issued(item)):
            ends.append(when + HOUR)
        elif kind == APPROVED:
            ends.append(when + DAY)
    return min(ends, default=None)


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}
