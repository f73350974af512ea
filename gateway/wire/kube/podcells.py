"""What `kubectl get pods` prints of a Pod. Source: Kubernetes "Pod Lifecycle"; kubectl's reference."""

from __future__ import annotations

from gateway.model.json import Json, JsonObject

NONE = "<none>"


def ready_count(item: JsonObject) -> str:
    """`1/2`: containers that are ready, of all."""
    ready = sum(each.get("ready") is True for each in _objects(_status(item), "containerStatuses"))
    return f"{ready}/{len(_objects(_table(item.get('spec')), 'containers'))}"


def restarts(item: JsonObject) -> int:
    counts = (each.get("restartCount") for each in _objects(_status(item), "containerStatuses"))
    return sum(count for count in counts if isinstance(count, int))


def status_word(item: JsonObject) -> str:
    """The phase, or the one reason that says more: why a container waits or ended, why the Pod goes."""
    status = _status(item)
    if _table(item.get("metadata")).get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    word = status.get("reason") or status.get("phase") or "Unknown"
    return _init_word(item) or _container_word(status) or str(word)


def _init_word(item: JsonObject) -> str:
    every = _objects(_status(item), "initContainerStatuses")
    for at, each in enumerate(every):
        state = _table(each.get("state"))
        ended, waiting = _table(state.get("terminated")), _table(state.get("waiting"))
        if ended and ended.get("exitCode") == 0:
            continue
        if ended:
            return f"Init:{_end_word(ended)}"
        reason = waiting.get("reason")
        if reason and reason != "PodInitializing":
            return f"Init:{reason}"
        total = len(_objects(_table(item.get("spec")), "initContainers"))
        return f"Init:{at}/{max(total, len(every))}"
    return ""


def _container_word(status: JsonObject) -> str:
    word, is_running = "", False
    for each in reversed(_objects(status, "containerStatuses")):
        state = _table(each.get("state"))
        waiting, ended = _table(state.get("waiting")), _table(state.get("terminated"))
        if waiting.get("reason"):
            word = str(waiting["reason"])
        elif ended:
            word = _end_word(ended)
        elif each.get("ready") is True and "running" in state:
            is_running = True
    return "Running" if word == "Completed" and is_running else word


def _end_word(ended: JsonObject) -> str:
    if ended.get("reason"):
        return str(ended["reason"])
    if ended.get("signal"):
        return f"Signal:{ended['signal']}"
    return f"ExitCode:{ended.get('exitCode', 0)}"


def wide_cells(item: JsonObject) -> list[Json]:
    """IP, node, nominated node, readiness gates."""
    status, spec = _status(item), _table(item.get("spec"))
    return [
        str(status.get("podIP") or NONE),
        str(spec.get("nodeName") or NONE),
        str(status.get("nominatedNodeName") or NONE),
        _gates(spec, status),
    ]


def _gates(spec: JsonObject, status: JsonObject) -> str:
    gates = [gate.get("conditionType") for gate in _objects(spec, "readinessGates")]
    if not gates:
        return NONE
    true = {c.get("type") for c in _objects(status, "conditions") if c.get("status") == "True"}
    return f"{sum(gate in true for gate in gates)}/{len(gates)}"


def _status(item: JsonObject) -> JsonObject:
    return _table(item.get("status"))


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(item: JsonObject, key: str) -> list[JsonObject]:
    value = item.get(key)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
