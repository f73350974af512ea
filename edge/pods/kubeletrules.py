"""What the kubelet's API asks for and whom it means: pure rules, with the kubelet's texts and codes.

Source: kubelet 1.36 `server.go`, `kubelet_pods.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edge.pods.podspec import Pod
from edge.pods.ports import Observed, Running
from edge.pods.runtime import ContainerState, RuntimeFault, RuntimeNotFound, Sandbox, State
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text

MAX_WORDS, MAX_COMMAND = 1_000, 131_072
"""Words, and bytes, of a command."""
MAX_PORTS = 100
_STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
_WAITS: Final = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}
Query = Mapping[str, Sequence[str]]


class Refused(GatewayError):
    """The kubelet's answer to what it does not do, as it says it."""

    code = "edge.kubelet.refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# --- logs -----------------------------------------------------------------------------------------


def log_container(pod: str, name: str, status: JsonObject, *, previous: bool) -> str:
    """Return the id (`containerd://...`) of the container whose log is meant. Errors: BadRequest."""
    found = _status_of(name, status)
    where = f'container "{name}" in pod "{pod}"'
    if found is None:
        raise BadRequest(f"{where} is not available")
    state, last = part(found, "state"), part(found, "lastState", "terminated")
    last_id, ended = text(last.get("containerID")), state.get("terminated")
    if previous:
        if not last_id:
            raise BadRequest(f"previous terminated {where} not found")
        return last_id
    if state.get("running") is not None:
        return text(found.get("containerID"))
    if isinstance(ended, dict) or last:
        own = text(ended.get("containerID")) if isinstance(ended, dict) else ""
        if not (own or last_id):
            raise BadRequest(f"{where} is terminated")
        return own or last_id
    waiting = state.get("waiting")
    if isinstance(waiting, dict):
        reason = text(waiting.get("reason"))
        raise BadRequest(f"{where} is waiting to start: {_WAITS.get(reason, reason)}")
    raise BadRequest(f"{where} is waiting to start - no logs yet")


def _status_of(name: str, status: JsonObject) -> JsonObject | None:
    found = (row for key in _STATUSES for row in rows(status.get(key)))
    return next((row for row in found if row.get("name") == name), None)


def bare_id(container_id: str) -> str:
    """Return the runtime's own id of `containerd://...`."""
    return container_id.rpartition("://")[2]


# --- streams --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Streams:
    """Which streams exec or attach carry."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


def read_streams(query: Query) -> Streams:
    """Errors: BadRequest when there is none."""
    stdin, stdout, stderr, tty = (
        query.get(key, ("",))[0] == "1" for key in ("input", "output", "error", "tty")
    )
    stderr = stderr and not tty  # a terminal has one output
    if not (stdin or stdout or stderr):
        raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    return Streams(stdin, stdout, stderr, tty)


def read_command(words: Sequence[str]) -> tuple[str, ...]:
    """Errors: BadRequest for none, or one that is too long."""
    if len(words) > MAX_WORDS or sum(len(word) for word in words) > MAX_COMMAND:
        raise BadRequest(f"a command of at most {MAX_WORDS} words and {MAX_COMMAND} bytes is taken")
    if not any(words):
        raise BadRequest("you must specify at least one command for the container")
    return tuple(words)


def read_ports(query: Query) -> tuple[int, ...]:
    """Return the ports of a port-forward that names them (WebSockets do). Errors: BadRequest."""
    told = [
        text
        for value in (*query.get("ports", ()), *query.get("port", ()))
        for text in value.split(",")
    ]
    if len(told) > MAX_PORTS:
        raise BadRequest(f"at most {MAX_PORTS} ports")
    for text_ in told:
        if not (text_.isascii() and text_.isdigit() and 0 < int(text_) < 65_536):
            raise BadRequest(f'unable to parse "{text_[:20]}" as a port')
    return tuple(map(int, told))


def running_container(found: Running, uid: str, name: str) -> ContainerState:
    """Return the container that runs. Errors: Refused."""
    for each in found.observed.all_of(name) if is_meant(found.pod, uid) else ():
        if each.state is State.RUNNING:
            return each
    raise Refused(500, f'container not found ("{name}")')


def ready_sandbox(found: Running) -> Sandbox:
    """Return the sandbox that stands. Errors: Refused."""
    for each in found.observed.sandboxes:
        if each.is_ready:
            return each
    namespace, name = found.pod.key
    raise Refused(500, f'pod not found ("{name}_{namespace}")')


def is_meant(pod: Pod, uid: str) -> bool:
    """True when a path's uid is the Pod's; that of a static Pod's mirror is not known here."""
    return not uid or uid == pod.uid or pod.is_static


def refusal_of(fault: RuntimeFault) -> Refused:
    """Return what is answered when the runtime does not give a stream."""
    return Refused(404 if isinstance(fault, RuntimeNotFound) else 500, fault.message)


# --- lists ----------------------------------------------------------------------------------------


def pod_list(items: list[Json]) -> JsonObject:
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}


def as_asked(found: Running) -> JsonObject:
    """Return a Pod as it should be, with its status as it is."""
    bare = {key: value for key, value in found.pod.raw.items() if key not in ("kind", "apiVersion")}
    return {**bare, "status": found.status}


def as_running(pod: Pod, observed: Observed) -> JsonObject | None:
    """Return a Pod as the runtime has it, None when nothing of it runs there."""
    running = [each for each in observed.containers if each.state is State.RUNNING]
    if not running and not any(each.is_ready for each in observed.sandboxes):
        return None
    meta: JsonObject = {"name": pod.meta.name, "namespace": pod.meta.namespace, "uid": pod.uid}
    containers: list[Json] = [
        {"name": each.name, "image": each.image, "resources": {}} for each in running
    ]
    return {"metadata": meta, "spec": {"containers": containers}, "status": {}}


def running_metrics(node: str, pods: Sequence[Running]) -> str:
    """Return the kubelet's own figures in Prometheus' text format."""
    ready = sum(any(box.is_ready for box in each.observed.sandboxes) for each in pods)
    states = [box.state.value for each in pods for box in each.observed.containers]
    lines = ["# TYPE kubelet_node_name gauge", f'kubelet_node_name{{node="{node}"}} 1']
    lines += ["# TYPE kubelet_running_pods gauge", f"kubelet_running_pods {ready}"]
    lines.append("# TYPE kubelet_running_containers gauge")
    lines += [
        f'kubelet_running_containers{{container_state="{state}"}} {states.count(state)}'
        for state in sorted(set(states))
    ]
    return "\n".join([*lines, ""])
