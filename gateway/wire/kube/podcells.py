"""What `kubectl get pods` prints of a Pod. Source: Kubernetes "Pod Lifecycle"; kubectl's reference."""

from __future__ import annotations

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import age, parse_rfc3339
from gateway.wire.kube.parts import part, rows, text, whole

NONE = "<none>"
_ENDED = ("Succeeded", "Failed")


def ready_count(item: JsonObject) -> str:
    """`1/2`: containers that are ready, of all that stay."""
    status, sidecars = part(item, "status"), _sidecars(item)
    total = len(rows(part(item, "spec").get("containers"))) + len(sidecars)
    ready = sum(
        each.get("name") in sidecars and each.get("started") is True and each.get("ready") is True
        for each in rows(status.get("initContainerStatuses"))
    )
    if not _init_word(item) or _is_initialized(status):
        ready += sum(_is_up(each) for each in rows(status.get("containerStatuses")))
    return f"{ready}/{total}"


def _sidecars(item: JsonObject) -> set[Json]:
    """Names of the init containers that go on running."""
    return {
        each.get("name")
        for each in rows(part(item, "spec").get("initContainers"))
        if each.get("restartPolicy") == "Always"
    }


def _is_up(each: JsonObject) -> bool:
    return each.get("ready") is True and "running" in part(each, "state")


def _is_initialized(status: JsonObject) -> bool:
    return any(
        row.get("type") == "Initialized" and row.get("status") == "True"
        for row in rows(status.get("conditions"))
    )


def restarts(item: JsonObject, now: float) -> str:
    """`3 (10s ago)`: how often containers were started again, and when last."""
    status, sidecars = part(item, "status"), _sidecars(item)
    starting = rows(status.get("initContainerStatuses"))
    counted = starting
    if not _init_word(item) or _is_initialized(status):
        lasting = [each for each in starting if each.get("name") in sidecars]
        counted = [*lasting, *rows(status.get("containerStatuses"))]
    total = sum(whole(each.get("restartCount")) for each in counted)
    ends = [
        parse_rfc3339(part(each, "lastState", "terminated").get("finishedAt")) for each in counted
    ]
    last = max((end for end in ends if end is not None), default=None)
    return f"{total} ({age(now - last)} ago)" if total and last is not None else str(total)


def status_word(item: JsonObject) -> str:
    """The phase, or the one reason that says more: why a container waits or ended, why the Pod goes."""
    status = part(item, "status")
    if part(item, "metadata").get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in _ENDED:
            return "Terminating"
    word = _init_word(item)
    if word and not _is_initialized(status):
        return word
    return _container_word(status, word or _phase_word(status))


def _phase_word(status: JsonObject) -> str:
    if any(
        row.get("type") == "PodScheduled" and row.get("reason") == "SchedulingGated"
        for row in rows(status.get("conditions"))
    ):
        return "SchedulingGated"
    return text(status.get("reason")) or text(status.get("phase"))


def _init_word(item: JsonObject) -> str:
    """Why a Pod has not come to its containers; empty when nothing holds it."""
    sidecars = _sidecars(item)
    for at, each in enumerate(rows(part(item, "status").get("initContainerStatuses"))):
        state = part(each, "state")
        ended, reason = part(state, "terminated"), text(part(state, "waiting").get("reason"))
        if "terminated" in state and not ended.get("exitCode"):
            continue
        if each.get("name") in sidecars and each.get("started") is True:
            continue
        if "terminated" in state:
            return f"Init:{_end_word(ended)}"
        if reason and reason != "PodInitializing":
            return f"Init:{reason}"
        return f"Init:{at}/{len(rows(part(item, 'spec').get('initContainers')))}"
    return ""


def _container_word(status: JsonObject, phase: str) -> str:
    word, error, is_running = phase, "", False
    for each in reversed(rows(status.get("containerStatuses"))):
        state = part(each, "state")
        reason = text(part(state, "waiting").get("reason"))
        if reason:
            word = reason
        elif "terminated" in state:
            ended = part(state, "terminated")
            word = _end_word(ended)
            error = word if ended.get("exitCode") else error
        elif _is_up(each):
            is_running = True
    if word != "Completed":
        return word
    if is_running and _is_ready(status):
        return "Running"
    return error or ("NotReady" if is_running else word)


def _is_ready(status: JsonObject) -> bool:
    return any(
        row.get("type") == "Ready" and row.get("status") == "True"
        for row in rows(status.get("conditions"))
    )


def _end_word(ended: JsonObject) -> str:
    if ended.get("reason"):
        return str(ended["reason"])
    if ended.get("signal"):
        return f"Signal:{ended['signal']}"
    return f"ExitCode:{ended.get('exitCode', 0)}"


def wide_cells(item: JsonObject) -> list[Json]:
    """IP, node, nominated node, readiness gates."""
    status, spec = part(item, "status"), part(item, "spec")
    return [
        _address(status) or NONE,
        str(spec.get("nodeName") or NONE),
        str(status.get("nominatedNodeName") or NONE),
        _gates(spec, status),
    ]


def _address(status: JsonObject) -> str:
    several = rows(status.get("podIPs"))
    return text(several[0].get("ip") if several else status.get("podIP"))


def _gates(spec: JsonObject, status: JsonObject) -> str:
    gates = [gate.get("conditionType") for gate in rows(spec.get("readinessGates"))]
    if not gates:
        return NONE
    true = {c.get("type") for c in rows(status.get("conditions")) if c.get("status") == "True"}
    return f"{sum(gate in true for gate in gates)}/{len(gates)}"
