"""The status of a Pod as its node writes it. Pure: what the runtime has, what was told before, and the time.

Three ways to a status: `pod_status` while a Pod is worked on, `rejected` for one that never runs here,
`closed` when all of it has ended. None of them takes an end back. Source: Kubernetes core/v1 PodStatus, "Pod
Lifecycle"; behaviour of kubelet 1.36.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator

from edge.pods.containerstatuses import (
    RESTARTING,
    Facts,
    container_rows,
    could_restart_all,
    unknown_end,
)
from edge.pods.podconditions import FAILED, SUCCEEDED, conditions
from edge.pods.podplan import restarts_after
from edge.pods.podspec import Pod
from edge.pods.runtime import State
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.amounts import shortest
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, rows, text, whole
from gateway.wire.kube.pods import qos_class
from gateway.wire.kube.scheduling.needs import requests_of

PENDING, RUNNING = "Pending", "Running"
ENDED = (SUCCEEDED, FAILED)
CONTAINERS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


def pod_status(pod: Pod, facts: Facts, known: JsonObject | None = None) -> JsonObject:
    """Return a Pod's status now.

    Shape:  `known` is the newest status of this node, also from before a restart; without one the API's
            counts. A Pod becomes `Succeeded` or `Failed` only when nothing of it runs any more.
    """
    stored = part(pod.raw, "status")
    old = stored if known is None else known
    status: JsonObject = {}
    for key, found in zip(CONTAINERS, container_rows(pod, facts, old), strict=True):
        if found:
            status[key] = found
    if is_taken_back(pod, old, status):
        return old
    phase, reason, message = _end(pod, facts, old, stored, status)
    status["phase"] = phase
    status |= {"reason": reason} if reason else {}
    status |= {"message": message} if message else {}
    status["conditions"] = conditions(pod, facts, old, status, phase)
    kept = _kept(pod, facts.now, old)
    if facts.resize is not None and "allocatedResources" in old:
        kept["allocatedResources"] = old["allocatedResources"]  # what is asked was not given
    return status | _addresses(pod, facts, old) | kept


def rejected(pod: Pod, reason: str, message: str, now: float) -> JsonObject:
    """Return the status of a Pod that this node never runs."""
    stored = part(pod.raw, "status")
    status: JsonObject = {
        "phase": FAILED,
        "reason": reason,
        "message": f"Pod was rejected: {message}",
    }
    if rows(stored.get("conditions")):
        status["conditions"] = [*rows(stored.get("conditions"))]
    kept = _kept(pod, now, stored)
    kept.pop("allocatedResources", None)  # it was given nothing
    return status | kept


def closed(pod: Pod, status: JsonObject, now: float) -> JsonObject:
    """Return the last status of a Pod of which nothing is left: what nobody saw end counts as failed."""
    out: JsonObject = dict(status)
    init, plain = rows(status.get(CONTAINERS[0])), rows(status.get(CONTAINERS[1]))
    if _has_initialized(pod, init, plain):
        out[CONTAINERS[1]] = [_ended(row) for row in plain]
    begun = _begun(init)
    if init:
        out[CONTAINERS[0]] = [*(_ended(row) for row in init[:begun]), *init[begun:]]
    if not pod.is_static and out.get("phase") not in ENDED:
        out["phase"] = FAILED
    if out.get("phase") in ENDED:
        out["conditions"] = _unready(rows(status.get("conditions")), text(out["phase"]), now)
    return {key: value for key, value in out.items() if value != []}


# --- the phase --------------------------------------------------------------------------------


def _end(
    pod: Pod, facts: Facts, old: JsonObject, stored: JsonObject, status: JsonObject
) -> tuple[str, str, str]:
    """Return phase, reason and message: an end stays, and comes when nothing runs any more."""
    before = text(old.get("phase")) or PENDING
    ends = [each for each in (text(stored.get("phase")), before) if each in ENDED]
    phase = ends[0] if ends else _phase(pod, facts, status)
    why = ("", "")
    if phase == before:
        why = (
            text(old.get("reason")) or text(stored.get("reason")),
            text(old.get("message")) or text(stored.get("message")),
        )
    if facts.stop is not None and before not in ENDED:
        phase, why = FAILED, (facts.stop.reason, facts.stop.message)
    if phase in ENDED and before not in ENDED and _may_run(facts):
        phase = before
        why = (text(old.get("reason")), text(old.get("message")))
    return phase, *why


def _may_run(facts: Facts) -> bool:
    return any(each.state is State.RUNNING for each in facts.observed.containers)


def _phase(pod: Pod, facts: Facts, status: JsonObject) -> str:
    """Return the phase by the states of the containers alone."""
    init, plain = _Tally(), _Tally()
    by_name = {
        text(row.get("name")): row for key in CONTAINERS[:2] for row in rows(status.get(key))
    }
    for each in pod.spec.init_containers:
        row = by_name[each.name]
        init.update(_of_sidecar(row) if each.is_sidecar else _of_init(pod, row))
    for each in pod.spec.containers:
        plain.update(_of_plain(pod, by_name[each.name]))
    if init["hopeless"]:
        return FAILED
    is_begun = facts.observed.sandboxes and _has_begun(pod, facts)
    if init["pending"] or (init["sidecar pending"] and not is_begun):
        return PENDING
    if plain["waiting"] or init["waiting"]:
        return PENDING
    if plain["running"] or init["running"]:
        return RUNNING
    return _stopped(pod, facts, plain)


_Tally = Counter[str]


def _stopped(pod: Pod, facts: Facts, plain: Counter[str]) -> str:
    """All containers have ended."""
    if not plain["stopped"]:
        return PENDING
    is_final = facts.is_over and not pod.is_static
    if plain["restarting"] and not is_final:
        return RUNNING
    return SUCCEEDED if plain["stopped"] == plain["succeeded"] else FAILED


def _has_begun(pod: Pod, facts: Facts) -> bool:
    """True when the newest sandbox has one of the plain containers: it was initialized."""
    plain = {each.name for each in pod.spec.containers}
    box = facts.observed.sandboxes[0].id
    return any(e.name in plain and e.sandbox_id == box for e in facts.observed.containers)


def _last_code(row: JsonObject) -> int | None:
    """The exit code of a container that has ended, also when it waits to start again."""
    for state in (part(row, "state"), part(row, "lastState")):
        if "running" in state:
            return None
        if "terminated" in state:
            return whole(part(state, "terminated").get("exitCode"))
    return None


def _of_init(pod: Pod, row: JsonObject) -> Iterator[str]:
    code = _last_code(row)
    if code is None:
        yield "pending"
    elif code and not _restarts(pod, row, code):
        yield "hopeless"


def _of_sidecar(row: JsonObject) -> Iterator[str]:
    state = part(row, "state")
    if "running" in state:
        yield "running"
        if row.get("started") is not True:
            yield "sidecar pending"
    elif _last_code(row) is None:
        yield from ("sidecar pending", "waiting")


def _of_plain(pod: Pod, row: JsonObject) -> Iterator[str]:
    if "running" in part(row, "state"):
        yield "running"
        return
    code = _last_code(row)
    if code is None:
        yield "waiting"
        return
    yield "stopped"
    if _restarts(pod, row, code):
        yield "restarting"
    if code == 0 and "terminated" in part(row, "state"):
        yield "succeeded"


def _restarts(pod: Pod, row: JsonObject, code: int) -> bool:
    container = pod.container(text(row.get("name")))
    return container is not None and (_is_anew(row) or restarts_after(pod, container, code))


def _is_anew(row: JsonObject) -> bool:
    ends = (part(row, key, "terminated") for key in ("state", "lastState"))
    return any(end.get("reason") == RESTARTING for end in ends)


# --- what never goes back ---------------------------------------------------------------------


def is_taken_back(pod: Pod, old: JsonObject, status: JsonObject) -> bool:
    """True when a container that had ended for good would run again."""
    if could_restart_all(pod):
        return False
    for key in CONTAINERS[:2]:
        now = {row.get("name"): part(row, "state") for row in rows(status.get(key))}
        for row in rows(old.get(key)):
            container = pod.container(text(row.get("name")))
            ended = part(row, "state", "terminated")
            if not ended or container is None or container.name not in now:
                continue
            if "terminated" in now[container.name]:
                continue
            if not restarts_after(pod, container, whole(ended.get("exitCode"))):
                return True
    return False


def _has_initialized(pod: Pod, init: list[JsonObject], plain: list[JsonObject]) -> bool:
    """True when there is evidence that a plain container could start."""
    if not pod.spec.init_containers:
        return True
    if any("waiting" not in part(r, "state") or part(r, "lastState", "terminated") for r in plain):
        return True
    if not init:
        return False
    last, container = init[-1], pod.spec.init_containers[-1]
    if container.is_sidecar:
        return "running" in part(last, "state") and last.get("started") is True
    ends = (part(last, key, "terminated") for key in ("state", "lastState"))
    return any(end and not end.get("exitCode") for end in ends)


def _begun(init: list[JsonObject]) -> int:
    """How many init containers have begun; the first always counts."""
    begun = [
        at
        for at, row in enumerate(init, 1)
        if "waiting" not in part(row, "state") or part(row, "lastState", "terminated")
    ]
    return max(begun, default=1)


def _ended(row: JsonObject) -> Json:
    if "terminated" in part(row, "state"):
        return row
    out: JsonObject = {**row, "state": unknown_end(), "ready": False}
    return out | ({"started": False} if "started" in row else {})


def _unready(found: list[JsonObject], phase: str, now: float) -> list[Json]:
    why = "PodCompleted" if phase == SUCCEEDED else "PodFailed"
    return [
        {
            **_without_message(row),
            "status": "False",
            "reason": why,
            "lastTransitionTime": rfc3339(now),
        }
        if row.get("type") in ("Ready", "ContainersReady") and row.get("status") == "True"
        else row
        for row in found
    ]


def _without_message(row: JsonObject) -> JsonObject:
    return {key: value for key, value in row.items() if key != "message"}


# --- where it is, and what stays --------------------------------------------------------------


def _kept(pod: Pod, now: float, old: JsonObject) -> JsonObject:
    stored = part(pod.raw, "status")
    kept: JsonObject = {
        "qosClass": text(stored.get("qosClass")) or qos_class(part(pod.raw, "spec")),
        "startTime": text(old.get("startTime")) or text(stored.get("startTime")) or rfc3339(now),
    }
    generation = whole(part(pod.raw, "metadata").get("generation"))
    seen = max(generation, whole(old.get("observedGeneration")))
    kept |= {"observedGeneration": seen} if seen else {}
    return kept | _resources(pod)


def _resources(pod: Pod) -> JsonObject:
    """What the whole Pod asks of its node: told where it asks for something."""
    asked = requests_of(pod.raw)
    if not asked:
        return {}
    amounts: JsonObject = {
        key: _amount(key, value) for key, value in sorted(asked.items()) if value
    }
    return {"allocatedResources": amounts} if amounts else {}


def _amount(resource: str, value: int) -> str:
    if resource == "cpu":
        return shortest(f"{value}m")
    binary = f"{value // 1_024}Ki" if value % 1_024 == 0 and value else str(value)
    return shortest(binary)


def _addresses(pod: Pod, facts: Facts, old: JsonObject) -> JsonObject:
    out: JsonObject = {}
    hosts = _host_ips(facts, old)
    ips = hosts if pod.spec.host_network else _pod_ips(facts)
    if not ips:  # an ended sandbox tells none: where it was stays visible
        ips = [text(row.get("ip")) for row in rows(old.get("podIPs"))]
    for ips_, one, many in ((hosts, "hostIP", "hostIPs"), (ips, "podIP", "podIPs")):
        if ips_:
            out[one] = ips_[0]
            out[many] = [{"ip": ip} for ip in ips_]
    return out


def _host_ips(facts: Facts, old: JsonObject) -> list[str]:
    """Return the node's addresses; a machine that knows none of its own, offline, has those of before."""
    known = [text(row.get("ip")) for row in rows(old.get("hostIPs"))]
    if known and all(ip in _LOOPBACKS for ip in facts.host_ips):
        return known
    return list(facts.host_ips)


_LOOPBACKS = ("127.0.0.1", "::1")


def _pod_ips(facts: Facts) -> list[str]:
    """Return one address of the node's own family, then one of the other."""
    boxes = facts.observed.sandboxes
    found = [_parsed(ip) for ip in boxes[0].ips] if boxes and boxes[0].is_ready else []
    own = _parsed(facts.host_ips[0]) if facts.host_ips else None
    first = own.version if own else 4
    chosen = [
        next((ip for ip in found if ip is not None and ip.version == version), None)
        for version in (first, 10 - first)
    ]
    return [str(ip) for ip in chosen if ip is not None]


def _parsed(text_: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text_)
    except ValueError:
        return None
