"""Resizes in place: containers that run get what their Pod asks for now.

What a container was made with stands on it, so a resize that was cut off is known again; what it was given
since is remembered until this process ends, and then given once more, which changes nothing.
Source: Kubernetes, "Resize CPU and Memory Resources assigned to Containers"; behaviour of kubelet 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from edge.pods.containerstatuses import HeldBack
from edge.pods.podspec import Container, Pod
from edge.pods.ports import Configs, Observed, Recorder
from edge.pods.runtime import ContainerState, Runtime, RuntimeAway, RuntimeFault, State
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, rows, text, whole

ASKED = "twinspan.io/resources"
"""Annotation of containers: the resources of their Pod's object, JSON, when they were made."""
DEFERRED, INFEASIBLE = "Deferred", "Infeasible"
RESIZED = ("cpu", "memory")
RESTARTS = "RestartContainer"
Room = Callable[[Pod], HeldBack | None]
"""Why a Pod as it is now does not fit beside the others, None when it does."""


def asked_of(pod: Pod, name: str) -> JsonObject:
    """Return the resources that a container asks for, without empty parts."""
    spec = part(pod.raw, "spec")
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for row in rows(spec.get(key)):
            if row.get("name") == name:
                return {k: v for k, v in sorted(part(row, "resources").items()) if v}
    return {}


def asked_text(pod: Pod, name: str) -> str:
    """Return the annotation of a container that is made now."""
    return msgspec.json.encode(asked_of(pod, name)).decode()


def made_with(state: ContainerState) -> JsonObject | None:
    """Return what a container was made with, None where it does not say."""
    try:
        return msgspec.json.decode(state.annotations.get(ASKED, ""), type=dict)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


@dataclass(frozen=True, slots=True)
class Change:
    """One container that is to be resized. `restarts`: the change asks for another run."""

    state: ContainerState
    container: Container
    asked: JsonObject
    restarts: bool


class Resizer:
    """Of one Pod."""

    def __init__(self, runtime: Runtime, configs: Configs, recorder: Recorder, room: Room) -> None:
        self._runtime = runtime
        self._configs = configs
        self._recorder = recorder
        self._room = room
        self._given: dict[str, JsonObject] = {}
        self._failed: dict[str, JsonObject] = {}
        """Container id -> what the runtime would not give it: not asked again."""
        self.pending: HeldBack | None = None
        """Why a resize waits."""

    def given(self, observed: Observed) -> Mapping[str, JsonObject]:
        """Return what each container has now, by id."""
        known = {each.id: made_with(each) for each in observed.containers}
        found = {key: value for key, value in known.items() if value is not None}
        self._given = {key: value for key, value in self._given.items() if key in known}
        return {**found, **self._given}

    async def bring(self, pod: Pod, observed: Observed) -> tuple[ContainerState, ...]:
        """Give what is asked; returns the containers that have to run anew to get it.

        Errors: RuntimeAway; NotYet when the Pod's own limits cannot be set.
        """
        changes = list(self._changes(pod, observed))
        before, self.pending = self.pending, self._room(pod) if changes else None
        if self.pending is not None and (before is None or before.reason != self.pending.reason):
            self._recorder.event(
                pod, "Warning", f"Resize{self.pending.reason}", self._told_pending(pod)
            )
        if not changes or self.pending is not None:
            return ()
        told = _summary(pod)
        self._recorder.event(pod, "Normal", "ResizeStarted", f"Pod resize started: {told}")
        await self._configs.prepare(pod)
        is_done = True
        for change in changes:
            if not change.restarts:
                is_done = await self._give(pod, change) and is_done
        anew = tuple(change.state for change in changes if change.restarts)
        if is_done and not anew:
            self._recorder.event(pod, "Normal", "ResizeCompleted", f"Pod resize completed: {told}")
        return anew

    async def _give(self, pod: Pod, change: Change) -> bool:
        resources = self._configs.resources(pod, change.container)
        try:
            await self._runtime.update_resources(change.state.id, resources)
        except RuntimeAway:
            raise
        except (RuntimeFault, GatewayError) as error:
            self._failed[change.state.id] = change.asked
            told = f"Pod resize error: {_summary(pod, error.message)}"
            self._recorder.event(pod, "Warning", "ResizeError", told, change.container)
            return False
        self._given[change.state.id] = change.asked
        return True

    def _changes(self, pod: Pod, observed: Observed) -> Iterator[Change]:
        given = self.given(observed)
        lasting = [each for each in pod.spec.init_containers if each.is_sidecar]
        for container in (*pod.spec.containers, *lasting):
            state = observed.newest(container.name)
            if state is None or state.state is not State.RUNNING or state.id not in given:
                continue
            asked = asked_of(pod, container.name)
            if asked not in (given[state.id], self._failed.get(state.id)):
                restarts = _restarts(pod, container.name, given[state.id], asked)
                yield Change(state, container, asked, restarts)

    def _told_pending(self, pod: Pod) -> str:
        """The kubelet's text: what is short stands in it where something is."""
        why = self.pending or HeldBack("")
        short = why.message.partition(": ")[2].partition(",")[0]
        what = f"OutOf{short}" if why.reason == DEFERRED else why.reason
        return f"Pod resize {what}: {_summary(pod, why.message)}"


def _summary(pod: Pod, error: str = "") -> str:
    """Return what all containers ask for, as the kubelet's events have it."""
    said: JsonObject = {}
    for key, members in (
        ("initContainers", pod.spec.init_containers),
        ("containers", pod.spec.containers),
    ):
        if members:
            said[key] = [{"name": e.name, "resources": asked_of(pod, e.name)} for e in members]
    said["generation"] = whole(part(pod.raw, "metadata").get("generation"))
    said |= {"error": error} if error else {}
    return msgspec.json.encode(said).decode()


def _restarts(pod: Pod, name: str, before: JsonObject, asked: JsonObject) -> bool:
    """True when a change of what changed asks for another run of the container."""
    changed = {
        resource
        for resource in RESIZED
        for key in ("limits", "requests")
        if part(before, key).get(resource) != part(asked, key).get(resource)
    }
    raw = [
        row
        for key in ("containers", "initContainers")
        for row in rows(part(pod.raw, "spec").get(key))
        if row.get("name") == name
    ]
    policies = rows(raw[0].get("resizePolicy")) if raw else []
    return any(
        text(row.get("resourceName")) in changed and row.get("restartPolicy") == RESTARTS
        for row in policies
    )
