"""What is to be done so that the runtime has of a Pod what the Pod asks for. Pure.

A plan says which containers are killed, which are removed, whether there is to be a new sandbox, and which
containers start, in this order. It looks one step ahead: after it was carried out the Pod is looked at again.
Back-off is not here: a container that is to start may still have to wait (`edge.pods.restarts`).
Source: Kubernetes, Pod lifecycle; init containers and sidecars; container restart rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from edge.pods.podspec import Container, Pod
from edge.pods.ports import Observed
from edge.pods.runtime import ContainerState, Sandbox, State
from edge.pods.spechash import HASH, spec_hash

ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"
RESTART, RESTART_ALL = "Restart", "RestartAllContainers"


class Verdicts(Protocol):
    """What probes found: a part of `edge.pods.ports.Probes`."""

    def is_started(self, pod: Pod, container: Container, container_id: str) -> bool: ...
    def failed(self, container_id: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Kill:
    """A running container to stop: `message` is its event's text, `is_probe` that a probe wants it."""

    container_id: str
    name: str
    message: str
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in the order of the fields."""

    kill_pod: bool = False
    """All containers and sandboxes are stopped first."""
    kills: tuple[Kill, ...] = ()
    removes: tuple[str, ...] = ()
    """Ids of containers that are stopped and removed: they stand in the way of their successors."""
    create_sandbox: bool = False
    attempt: int = 0
    """Of the sandbox: the one there is, or the one to make."""
    sandbox: Sandbox | None = None
    """The newest sandbox, to be used unless there is to be a new one."""
    ephemeral: tuple[str, ...] = ()
    init: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()

    @property
    def starts(self) -> tuple[str, ...]:
        """Names of all containers to start."""
        return (*self.ephemeral, *self.init, *self.containers)

    @property
    def is_empty(self) -> bool:
        return not (
            self.kill_pod or self.kills or self.removes or self.create_sandbox or self.starts
        )

    @property
    def ends_pod(self) -> bool:
        """True when nothing runs any more that should, and nothing is to start."""
        return self.kill_pod and not self.create_sandbox


def plan_of(pod: Pod, observed: Observed, verdicts: Verdicts) -> Plan:
    """Return what is to be done for a Pod that is not being deleted."""
    is_new, attempt, sandbox = sandbox_needed(pod, observed)
    if wants_restart_of_all(pod, observed):
        return Plan(removes=_all_in_order(pod, observed), attempt=attempt, sandbox=sandbox)
    if is_new:
        return _with_new_sandbox(pod, observed, attempt, sandbox)
    draft = _Draft(pod, observed, verdicts)
    draft.add_ephemeral()
    if draft.add_init() and not draft.kill_pod:
        draft.add_containers()
    return draft.plan(attempt, sandbox)


def sandbox_needed(pod: Pod, observed: Observed) -> tuple[bool, int, Sandbox | None]:
    """Return whether a new sandbox is needed, its (or else the present one's) attempt, and the newest one."""
    if not observed.sandboxes:
        return True, 0, None
    newest = observed.sandboxes[0]
    ready = sum(sandbox.is_ready for sandbox in observed.sandboxes)
    has_address = pod.spec.host_network or bool(newest.ips)
    if ready == 1 and newest.is_ready and has_address:
        return False, newest.attempt, newest
    return True, max(each.attempt for each in observed.sandboxes) + 1, newest


def should_restart(pod: Pod, container: Container, state: ContainerState | None) -> bool:
    """True for a container that is not running and is to be started, as far as its policy goes."""
    if state is None or state.state in (State.CREATED, State.UNKNOWN):
        return True
    if state.state is State.RUNNING:
        return False
    return restarts_after(pod, container, state.exit_code)


def restarts_after(pod: Pod, container: Container, exit_code: int) -> bool:
    """Judge an exit code: by the container's rules, else its policy, else the Pod's."""
    if container.restart_policy:
        if matching_rule(container, exit_code) in (RESTART, RESTART_ALL):
            return True
        return _by_policy(container.restart_policy, exit_code)
    return _by_policy(pod.spec.restart_policy, exit_code)


def matching_rule(container: Container, exit_code: int) -> str:
    """Return the action of the first rule for an exit code, else ""."""
    for rule in container.restart_policy_rules:
        codes = rule.exit_codes
        if codes is not None and (exit_code in codes.values) == (codes.operator == "In"):
            return rule.action
    return ""


def restarts_at_all(pod: Pod, container: Container) -> bool:
    """True when a container that a probe ended is started again: rules speak of exit codes only."""
    return (container.restart_policy or pod.spec.restart_policy) != NEVER


def wants_restart_of_all(pod: Pod, observed: Observed) -> bool:
    """True while a container that has ended with such an exit code is there: then all begin anew."""
    return any(
        _wants_all(container, state)
        for container in (*pod.spec.init_containers, *pod.spec.containers)
        if (state := observed.newest(container.name)) is not None
    )


def has_failed(state: ContainerState) -> bool:
    """True for an init container that has to run again, or whose failure ends its Pod."""
    if state.reason == "OOMKilled" or state.state is State.UNKNOWN:
        return True
    return state.state is State.EXITED and state.exit_code != 0


def is_changed(container: Container, state: ContainerState) -> bool:
    """True when a container was made from another image, or another container of that name."""
    known = state.annotations.get(HASH)
    return known is not None and known != spec_hash(container)


def _by_policy(policy: str, exit_code: int) -> bool:
    return policy == ALWAYS or (policy == ON_FAILURE and exit_code != 0)


def _wants_all(container: Container, state: ContainerState) -> bool:
    is_ended = state.state is State.EXITED
    return is_ended and matching_rule(container, state.exit_code) == RESTART_ALL


def _all_in_order(pod: Pod, observed: Observed) -> tuple[str, ...]:
    """Return all containers but ephemeral ones; those that asked for it go last: while one of them is there
    the work is not done."""
    victims: list[str] = []
    sources: list[str] = []
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        for state in observed.all_of(container.name):
            (sources if _wants_all(container, state) else victims).append(state.id)
    return (*victims, *sources)


def _with_new_sandbox(pod: Pod, observed: Observed, attempt: int, sandbox: Sandbox | None) -> Plan:
    """All begins anew, unless it is over."""
    over = Plan(kill_pod=True, attempt=attempt, sandbox=sandbox)
    has_run = any(observed.newest(each.name) for each in pod.containers())
    if pod.spec.restart_policy == NEVER and attempt != 0 and has_run:
        return over
    starts = [
        each.name for each in pod.spec.containers if not _has_done_its_work(pod, each, observed)
    ]
    if not starts and _was_initialised(pod, observed):
        return over
    removes = _stale(pod, observed)
    first = (pod.spec.init_containers[0].name,) if pod.spec.init_containers else ()
    return Plan(
        kill_pod=bool(observed.sandboxes),
        removes=removes,
        create_sandbox=True,
        attempt=attempt,
        sandbox=sandbox,
        init=first,
        containers=() if first else tuple(starts),
    )


def _stale(pod: Pod, observed: Observed) -> tuple[str, ...]:
    """Return what a new sandbox makes void: all runs of init containers, and what never ran."""
    inits = {each.name for each in pod.spec.init_containers}
    return tuple(
        each.id
        for each in observed.containers
        if each.name in inits or each.state in (State.CREATED, State.UNKNOWN)
    )


def _has_done_its_work(pod: Pod, container: Container, observed: Observed) -> bool:
    if (container.restart_policy or pod.spec.restart_policy) != ON_FAILURE:
        return False
    state = observed.newest(container.name)
    return state is not None and state.state is State.EXITED and state.exit_code == 0


def _was_initialised(pod: Pod, observed: Observed) -> bool:
    states = (observed.newest(each.name) for each in pod.spec.containers)
    return any(each is not None and each.state is not State.UNKNOWN for each in states)


@dataclass(slots=True)
class _Draft:
    """A plan for a Pod whose sandbox is well, on its way."""

    pod: Pod
    observed: Observed
    verdicts: Verdicts
    kill_pod: bool = False
    kills: list[Kill] = field(default_factory=list)
    removes: list[str] = field(default_factory=list)
    ephemeral: list[str] = field(default_factory=list)
    init: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)

    def plan(self, attempt: int, sandbox: Sandbox | None) -> Plan:
        return Plan(
            kill_pod=self.kill_pod,
            kills=tuple(self.kills),
            removes=tuple(dict.fromkeys(self.removes)),
            attempt=attempt,
            sandbox=sandbox,
            ephemeral=tuple(self.ephemeral),
            init=tuple(reversed(list(dict.fromkeys(self.init)))),
            containers=tuple(self.containers),
        )

    def add_ephemeral(self) -> None:
        """Ephemeral containers start once, whatever became of the attempt, but for one cut short by us."""
        for container in self.pod.spec.ephemeral_containers:
            state = self.observed.newest(container.name)
            if state is None or state.state is State.CREATED:
                self._clear(state)
                self.ephemeral.append(container.name)

    def add_init(self) -> bool:
        """Return whether the Pod is initialised; init containers are read from the last to the first, since
        an earlier one may have been removed after its work."""
        inits = self.pod.spec.init_containers
        if not inits:
            return True
        is_initialised = self._has_living_containers()
        is_past = is_initialised
        """True of an init container after which a later one (or a container) was started."""
        for at in range(len(inits) - 1, -1, -1):
            container, state = inits[at], self.observed.newest(inits[at].name)
            if state is None:
                if is_past and container.is_sidecar:
                    self.init.append(container.name)
                continue
            if is_past and not container.is_sidecar:
                continue
            if self._has_initialised(container, state):
                if at == len(inits) - 1:
                    is_initialised = True
                elif not is_past:
                    self.init.append(inits[at + 1].name)
            self._mend_init(container, state)
            if self.kill_pod:
                self.init.clear()
                return False
            is_past = True
        if not is_past:
            self.init.append(inits[0].name)
        return is_initialised

    def _has_living_containers(self) -> bool:
        """Containers of an earlier sandbox have ended: they say nothing of this one."""
        states = (self.observed.newest(each.name) for each in self.pod.spec.containers)
        return any(
            each is not None and each.state in (State.CREATED, State.RUNNING) for each in states
        )

    def _has_initialised(self, container: Container, state: ContainerState) -> bool:
        """True when the next init container may start."""
        if container.is_sidecar:
            is_running = state.state is State.RUNNING
            return is_running and self.verdicts.is_started(self.pod, container, state.id)
        return state.state is State.EXITED and not has_failed(state)

    def _mend_init(self, container: Container, state: ContainerState) -> None:
        match state.state:
            case State.CREATED:
                self._again_init(container, state)
            case State.RUNNING if container.is_sidecar:
                self._judge_sidecar(container, state)
            case State.EXITED if container.is_sidecar:
                self._again_init(container, state)
            case State.EXITED if has_failed(state):
                if restarts_after(self.pod, container, state.exit_code or 1):
                    self._again_init(container, state)
                else:
                    self.kill_pod = True
            case State.UNKNOWN:
                if container.is_sidecar or restarts_at_all(self.pod, container):
                    self._again_init(container, state)
                else:
                    self.kill_pod = True

    def _again_init(self, container: Container, state: ContainerState) -> None:
        self._clear(state)
        self.init.append(container.name)

    def _judge_sidecar(self, container: Container, state: ContainerState) -> None:
        why = self._why_kill(container, state)
        if why:
            message = f"Init container {container.name} {why}"
            self.kills.append(Kill(state.id, container.name, message, self._is_probe(state)))
            self.init.append(container.name)

    def add_containers(self) -> None:
        kept = 0
        for container in self.pod.spec.containers:
            state = self.observed.newest(container.name)
            if state is None or state.state is not State.RUNNING:
                if should_restart(self.pod, container, state):
                    self._clear(state)
                    self.containers.append(container.name)
                continue
            why = self._why_kill(container, state)
            if why:
                self._replace(container, state, why)
            else:
                kept += 1
        if not kept and not self.containers:
            self.kill_pod = True
            self.init.clear()

    def _replace(self, container: Container, state: ContainerState, why: str) -> None:
        is_probe = self._is_probe(state) and not is_changed(container, state)
        message = f"Container {container.name} {why}"
        if not is_probe or restarts_at_all(self.pod, container):
            message = f"{message}, will be restarted"
            self.containers.append(container.name)
        self.kills.append(Kill(state.id, container.name, message, is_probe))

    def _why_kill(self, container: Container, state: ContainerState) -> str:
        """Return why a running container must go, else ""."""
        if is_changed(container, state):
            return "definition changed"
        why = self.verdicts.failed(state.id)
        return f"failed {why} probe" if why else ""

    def _is_probe(self, state: ContainerState) -> bool:
        return self.verdicts.failed(state.id) is not None

    def _clear(self, state: ContainerState | None) -> None:
        """What was made and never started, or is in no known state, goes before its successor comes."""
        if state is not None and state.state in (State.CREATED, State.UNKNOWN):
            self.removes.append(state.id)


def superseded(observed: Observed, names: Iterable[str]) -> tuple[str, ...]:
    """Return ended containers of `names` that are older than the newest ended one of their name."""
    found: list[str] = []
    for name in names:
        ended = [each for each in observed.all_of(name) if each.state is State.EXITED]
        found += [each.id for each in ended[1:]]
    return tuple(found)
