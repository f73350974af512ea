"""Makes a Pod's status from what its worker knows, and what ended containers left to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.pods.containerstatuses import Facts, HeldBack, Stop
from edge.pods.parts import Parts
from edge.pods.podspec import Pod
from edge.pods.podstatus import closed, pod_status, rejected
from edge.pods.ports import NeverRuns, Observed
from edge.pods.runtime import State
from gateway.model.json import JsonObject


@dataclass(frozen=True, slots=True)
class Why:
    """Why a Pod is not as it should be, as far as its worker knows."""

    waiting: Mapping[str, HeldBack]
    stop: Stop | None = None
    refusal: NeverRuns | None = None
    is_over: bool = False
    """All of it has ended, for good."""
    given: Mapping[str, JsonObject] = field(default_factory=dict)
    resize: HeldBack | None = None


class Teller:
    """Of one Pod."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._words: dict[str, str] = {}

    async def status(self, pod: Pod, observed: Observed, why: Why) -> JsonObject:
        """Return the Pod's status now."""
        parts = self._parts
        now = parts.clock()
        if why.refusal is not None:
            return rejected(pod, why.refusal.reason, why.refusal.message, now)
        info = parts.health.info
        facts = Facts(
            observed=observed,
            now=now,
            host_ips=parts.host_ips(),
            waiting=why.waiting,
            last_words=await self._last_words(pod, observed),
            oom_killed=parts.oom_killed(),
            is_over=why.is_over,
            stop=why.stop,
            is_started=parts.probes.is_started,
            is_ready=parts.probes.is_ready,
            given=why.given,
            resize=why.resize,
            runtime="containerd" if info is None else info.name,
        )
        status = pod_status(pod, facts, parts.statuses.known(pod.uid))
        return closed(pod, status, now) if why.is_over else status

    async def _last_words(self, pod: Pod, observed: Observed) -> dict[str, str]:
        """Return what ended containers left to say; read once."""
        found: dict[str, str] = {}
        for state in observed.containers:
            container = pod.container(state.name)
            if state.state is not State.EXITED or container is None:
                continue
            if state.id not in self._words:
                read = self._parts.configs.termination_message
                self._words[state.id] = await read(pod, container, state)
            found[state.id] = self._words[state.id]
        self._words = found
        return found
