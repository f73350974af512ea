"""The statuses of a Pod's containers, from what the runtime has and what was told before. Pure.

Source: Kubernetes core/v1 ContainerStatus; behaviour of kubelet 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.pods.podplan import RESTART_ALL, should_restart, wants_restart_of_all
from edge.pods.podspec import Container, Pod, VolumeMount
from edge.pods.ports import Observed
from edge.pods.runtime import ContainerState, State
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, rows, text, whole

CREATING, INITIALIZING = "ContainerCreating", "PodInitializing"
STATUS_UNKNOWN = "ContainerStatusUnknown"
RESTARTING = "RestartingAllContainers"
_REMOVED = "The container is removed because RestartAllContainers in place"
KILLED = 137
"""Exit code told of a container that nobody saw end."""
MAX_MESSAGES = 12 * 1024
"""Bytes of the last words of all containers of a Pod."""
_LOST = (
    "The container could not be located when the pod was deleted.  The container used to be Running"
)
_NOT_LOCATED = "The container could not be located when the pod was terminated"
_INFERRED = (
    "Unable to get init container status from container runtime and pod has been initialized,"
    " treat it as exited normally"
)

ProbeAnswer = Callable[[Pod, Container, str], bool]
"""What a probe says of a running container, by its id."""


def _yes(_pod: Pod, _container: Container, _container_id: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Why a container could not be started the last time."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why this node stops a Pod for good (`Evicted`, `DeadlineExceeded`, `Preempting` ...).

    `disruption` is the message of condition DisruptionTarget, empty for none.
    """

    reason: str
    message: str
    disruption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a Pod beside its object and its last status. `now` is Unix seconds."""

    observed: Observed
    now: float
    host_ips: tuple[str, ...] = ()
    waiting: Mapping[str, HeldBack] = field(default_factory=dict)
    """Container name -> why its last start failed, or why it is held back (`CrashLoopBackOff`)."""
    last_words: Mapping[str, str] = field(default_factory=dict)
    """Container id -> its termination message."""
    oom_killed: frozenset[str] = frozenset()
    """Ids of containers in which the kernel killed for memory, whatever the runtime says."""
    is_over: bool = False
    """All containers have ended and none starts again, because the Pod is being stopped."""
    stop: Stop | None = None
    is_started: ProbeAnswer = _yes
    is_ready: ProbeAnswer = _yes
    given: Mapping[str, JsonObject] = field(default_factory=dict)
    """Container id -> the resources it has, where they are known."""
    resize: HeldBack | None = None
    """Why a resize waits: `Deferred`, `Infeasible`."""
    runtime: str = "containerd"
    """Scheme of container ids (`containerd`, `cri-o`)."""


def could_restart_all(pod: Pod) -> bool:
    """True for a Pod one of whose containers may make all begin anew."""
    each = (*pod.spec.init_containers, *pod.spec.containers)
    return any(rule.action == RESTART_ALL for one in each for rule in one.restart_policy_rules)


def is_restarting_all(pod: Pod, facts: Facts, old: JsonObject) -> bool:
    """True while all containers of a Pod are being removed to begin anew."""
    if not could_restart_all(pod):
        return False
    return wants_restart_of_all(pod, facts.observed) or any(
        row.get("type") == "AllContainersRestarting" and row.get("status") == "True"
        for row in rows(old.get("conditions"))
    )


def container_rows(pod: Pod, facts: Facts, old: JsonObject) -> tuple[list[Json], ...]:
    """Return the statuses of init, plain and ephemeral containers. `old`: the Pod's last status."""
    spec = pod.spec
    groups = (
        (spec.init_containers, "initContainerStatuses"),
        (spec.containers, "containerStatuses"),
        (spec.ephemeral_containers, "ephemeralContainerStatuses"),
    )
    is_anew = is_restarting_all(pod, facts, old)
    return tuple(
        [row for _, row in _ordered(_group(pod, facts, members, rows(old.get(key)), is_anew), key)]
        for members, key in groups
    )


def _ordered(found: list[tuple[str, JsonObject]], key: str) -> list[tuple[str, JsonObject]]:
    """Init containers stay in their order, others are sorted by name."""
    return found if key == "initContainerStatuses" else sorted(found, key=lambda pair: pair[0])


def _group(
    pod: Pod, facts: Facts, members: Sequence[Container], old: list[JsonObject], is_anew: bool
) -> list[tuple[str, JsonObject]]:
    before = {text(row.get("name")): row for row in old}
    return [(each.name, _row(pod, facts, each, before.get(each.name), is_anew)) for each in members]


def _row(
    pod: Pod, facts: Facts, container: Container, old: JsonObject | None, is_anew: bool
) -> JsonObject:
    found = facts.observed.all_of(container.name)
    if found:
        row = _seen(pod, facts, container, found, old)
    elif is_anew and old is not None and "waiting" not in part(old, "state"):
        row = _removed(pod, container, old)
    else:
        row = _unseen(pod, container, old)
    _hold_back(pod, facts, container, found[0] if found else None, row)
    _probe(pod, facts, container, row)
    return row


# --- what the runtime has ---------------------------------------------------------------------


def _seen(
    pod: Pod,
    facts: Facts,
    container: Container,
    found: list[ContainerState],
    old: JsonObject | None,
) -> JsonObject:
    newest = found[0]
    row = _blank(pod, container)
    row |= {
        "image": newest.image or container.image,
        "imageID": newest.image_id or newest.image_ref,
        "containerID": _id_of(facts, newest),
        "restartCount": newest.attempt,
        "state": _state(pod, facts, newest, old),
    }
    _remember(row, newest, old)
    if len(found) > 1:
        row["lastState"] = _state(pod, facts, found[1], None)
    _allot(pod, container, row, facts.given.get(newest.id))
    return row


def _remember(row: JsonObject, newest: ContainerState, old: JsonObject | None) -> None:
    """Take over from the last status what the runtime may have forgotten: restarts, how it ended last."""
    if old is None:
        return
    count, ended = whole(old.get("restartCount")), part(old, "state", "terminated")
    row["restartCount"] = max(newest.attempt, count)
    if ended and old.get("containerID") != row["containerID"]:
        row["lastState"] = {"terminated": ended}
        if newest.state is State.RUNNING and count >= newest.attempt:
            row["restartCount"] = count + 1
    elif part(old, "lastState", "terminated"):
        row["lastState"] = {"terminated": part(old, "lastState", "terminated")}
    if newest.state is State.UNKNOWN and "running" in part(old, "state"):
        row["restartCount"] = count + 1


def _state(pod: Pod, facts: Facts, each: ContainerState, old: JsonObject | None) -> JsonObject:
    if each.state is State.RUNNING:
        return {"running": {"startedAt": _instant(each.started_at)}}
    if each.state is State.EXITED:
        return {"terminated": _ended(pod, facts, each)}
    if each.state is State.UNKNOWN and "running" in part(old or {}, "state"):
        return {"terminated": _unknown(_NOT_LOCATED)}
    return {"waiting": {"reason": _default_reason(pod)}}


def _ended(pod: Pod, facts: Facts, each: ContainerState) -> JsonObject:
    reason = each.reason or ("Error" if each.exit_code else "Completed")
    if each.exit_code and each.id in facts.oom_killed:
        reason = "OOMKilled"
    words = [each.message, facts.last_words.get(each.id, "")]
    message = _cut(": ".join(word for word in words if word), len(pod.containers()))
    ended: JsonObject = {"exitCode": each.exit_code, "reason": reason}
    ended |= {"message": message} if message else {}
    ended["startedAt"] = _instant(max(0, each.started_at))  # 1970 for what could not be started
    ended |= {"finishedAt": _instant(each.finished_at)} if each.finished_at > 0 else {}
    return ended | {"containerID": _id_of(facts, each)}


def _cut(message: str, containers: int) -> str:
    most = MAX_MESSAGES // max(containers, 1)
    data = message.encode()
    return message if len(data) <= most else data[:most].decode(errors="ignore")


def _id_of(facts: Facts, each: ContainerState) -> str:
    return f"{facts.runtime}://{each.id}"


def _instant(nanoseconds: int) -> str:
    return rfc3339(nanoseconds / 1_000_000_000)


def _allot(pod: Pod, container: Container, row: JsonObject, given: JsonObject | None) -> None:
    """What the node has set aside for a container: what it was given, else what was asked."""
    resources = part(_raw(pod, container.name), "resources") if given is None else given
    requests = part(resources, "requests")
    row["resources"] = {key: value for key, value in resources.items() if value}
    if requests:
        row["allocatedResources"] = requests


def _raw(pod: Pod, name: str) -> JsonObject:
    spec = part(pod.raw, "spec")
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for row in rows(spec.get(key)):
            if row.get("name") == name:
                return row
    return {}


# --- what the runtime has not -----------------------------------------------------------------


def _blank(pod: Pod, container: Container) -> JsonObject:
    row: JsonObject = {
        "name": container.name,
        "state": {"waiting": {"reason": _default_reason(pod)}},
        "lastState": {},
        "ready": False,
        "restartCount": 0,
        "image": container.image,
        "imageID": "",
    }
    if container.volume_mounts:
        row["volumeMounts"] = [_mount(each) for each in container.volume_mounts]
    return row


def _default_reason(pod: Pod) -> str:
    return INITIALIZING if pod.spec.init_containers else CREATING


def _mount(mount: VolumeMount) -> JsonObject:
    row: JsonObject = {"name": mount.name, "mountPath": mount.mount_path}
    return row | ({"readOnly": True, "recursiveReadOnly": "Disabled"} if mount.read_only else {})


def _unseen(pod: Pod, container: Container, old: JsonObject | None) -> JsonObject:
    """A container that the runtime does not have: not yet, or not any more."""
    if old is None:
        return _blank(pod, container)
    if "terminated" in part(old, "state"):
        return dict(old)
    row = _blank(pod, container)
    row["restartCount"] = whole(old.get("restartCount"))
    row["lastState"] = part(old, "lastState")
    if "running" in part(old, "state") and not part(old, "lastState", "terminated"):
        row["lastState"] = {"terminated": _unknown(_LOST)}
        if not pod.is_deleting:
            row["restartCount"] = whole(old.get("restartCount")) + 1
    return row


def _removed(pod: Pod, container: Container, old: JsonObject) -> JsonObject:
    """A container that was taken away so that all begin anew."""
    row = _blank(pod, container)
    row["state"] = {"waiting": {"reason": RESTARTING, "message": _REMOVED}}
    ended: JsonObject = {"exitCode": KILLED, "reason": RESTARTING, "message": _REMOVED}
    row["lastState"] = {"terminated": ended}
    row["restartCount"] = whole(old.get("restartCount")) + 1
    return row


def _unknown(message: str) -> JsonObject:
    return {"exitCode": KILLED, "reason": STATUS_UNKNOWN, "message": message}


def unknown_end() -> JsonObject:
    """Return the state of a container that ended unseen."""
    return {"terminated": _unknown(_NOT_LOCATED)}


# --- what is waited for -----------------------------------------------------------------------


def _hold_back(
    pod: Pod, facts: Facts, container: Container, newest: ContainerState | None, row: JsonObject
) -> None:
    """A container that is to start and could not waits, with the reason; how it ended stays visible."""
    if container in pod.spec.init_containers and not container.is_sidecar:
        if newest is not None and newest.state is State.EXITED and newest.exit_code == 0:
            return
        if newest is None and _is_past_init(pod, facts) and "waiting" in part(row, "state"):
            ended: JsonObject = {"exitCode": 0, "reason": "Completed", "message": _INFERRED}
            row["state"] = {"terminated": ended}
            return
    why = facts.waiting.get(container.name)
    if why is None or not _is_to_start(pod, container, newest):
        return
    state = part(row, "state")
    if "terminated" in state:
        row["lastState"] = state
    waiting: JsonObject = {"reason": why.reason}
    row["state"] = {"waiting": waiting | ({"message": why.message} if why.message else {})}


def _is_past_init(pod: Pod, facts: Facts) -> bool:
    plain = {each.name for each in pod.spec.containers}
    return any(
        each.name in plain and each.state is not State.UNKNOWN for each in facts.observed.containers
    )


def _is_to_start(pod: Pod, container: Container, newest: ContainerState | None) -> bool:
    return not pod.is_deleting and should_restart(pod, container, newest)


# --- probes -----------------------------------------------------------------------------------


def _probe(pod: Pod, facts: Facts, container: Container, row: JsonObject) -> None:
    if container in pod.spec.ephemeral_containers:
        return
    is_init = container in pod.spec.init_containers
    state, container_id = part(row, "state"), text(row.get("containerID")).partition("://")[2]
    is_running = "running" in state
    started = is_running and facts.is_started(pod, container, container_id)
    row["started"] = started
    if is_init and not container.is_sidecar:
        row["ready"] = "terminated" in state and not part(state, "terminated").get("exitCode")
    else:
        row["ready"] = started and facts.is_ready(pod, container, container_id)
