"""Events about Pods and the Node, to the API through the cloud.

`<ns>/event/<name>` is inserted, and patched when the same happens again; nobody answers. Without cloud the
newest are kept, each once with its count. Source: KubeEdge reference, section 9; behaviour of client-go 0.36.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from edge.clock import stamp
from edge.hub import Sender
from edge.pods.eventseries import MAX_KNOWN, About, Correlator, Notice, Recent
from edge.pods.pacing import Bucket
from edge.pods.podspec import Container, Pod
from gateway.errors import TooLarge, Undeliverable
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_cloud import ask
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, text

log = logging.getLogger(__name__)

COMPONENT = "kubelet"
"""Who says it: tools look for this name."""
KIND = "event"
NODE_NAMESPACE = "default"
MAX_WAITING = 1_000
MAX_MESSAGE = 1_024
MAX_NAME = 200
PER_SECOND, BURST = 20.0, 100.0
RETRY_SECONDS = 1.0


class EventRecorder:
    """`edge.pods.ports.Recorder`, as a module and listener of the link."""

    name = "edge.pods.events"

    def __init__(
        self,
        node: str,
        sender: Sender,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._sender = sender
        self._count = metrics.edge.pod_events
        self._clock = clock
        self._correlator = Correlator()
        self._waiting: OrderedDict[str, Notice] = OrderedDict()
        """Name of the Event -> what is to be told of it."""
        self._sent: Recent[str, None] = Recent(MAX_KNOWN)
        """Names that the API has heard of."""
        self._wake = asyncio.Event()
        self._is_up = False
        self._last_mark = 0

    # --- the port ---------------------------------------------------------------------------------

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        """Tell of a Pod; `kind` is Normal or Warning. Never fails, never waits, bounded."""
        namespace, name = pod.key
        version = text(part(pod.raw, "metadata").get("resourceVersion"))
        where = "" if container is None else _field_path(pod, container)
        self._take(About("Pod", namespace, name, pod.uid, where, version), kind, reason, message)

    def node_event(self, kind: str, reason: str, message: str) -> None:
        """Tell of the Node."""
        self._take(About("Node", "", self._node, self._node), kind, reason, message)

    def waiting(self) -> int:
        """Return how many events are still to be told."""
        return len(self._waiting)

    def _take(self, about: About, kind: str, reason: str, message: str) -> None:
        now = self._clock()
        name = f"{about.name[:MAX_NAME]}.{self._mark(now):x}"
        notice = Notice(about, kind, reason, message[:MAX_MESSAGE], name, now, now)
        level = logging.INFO if kind == "Warning" else logging.DEBUG
        told = {
            "object": f"{about.namespace}/{about.name}",
            "reason": reason,
            "cause": message[:500],
        }
        log.log(level, "event", extra=told)
        judged = self._correlator.judge(notice)
        if judged is None:
            self._count.labels("filtered").inc()
            return
        self._waiting[judged.name] = judged
        self._drop_oldest()
        self._wake.set()

    def _mark(self, now: float) -> int:
        """Return a number that no other event of this process has: nanoseconds, raised where needed."""
        self._last_mark = max(self._last_mark + 1, int(now * 1_000_000_000))
        return self._last_mark

    def _drop_oldest(self) -> None:
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self._count.labels("dropped").inc()

    # --- the link ---------------------------------------------------------------------------------

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  events need no spool
        """What waits goes now."""
        self._is_up = True
        self._wake.set()

    def link_down(self) -> None:
        self._is_up = False

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        bucket = Bucket(PER_SECOND, BURST)
        while True:
            while not (self._is_up and self._waiting):
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(bucket.take(time.monotonic()))
            if self._waiting and not self._send_one():
                await asyncio.sleep(RETRY_SECONDS)

    def _send_one(self) -> bool:
        """Send the oldest; False where the link does not take it now."""
        name, notice = self._waiting.popitem(last=False)
        try:
            self._send(notice)
        except Undeliverable:
            self._waiting[name] = notice
            self._waiting.move_to_end(name, last=False)
            return not self._is_up
        except TooLarge as error:
            log.warning("an event was dropped", extra={"cause": error.message})
            self._count.labels("dropped").inc()
        else:
            self._count.labels("sent").inc()
            self._sent.put(name, None)
        return True

    def _send(self, notice: Notice) -> None:
        event = event_object(notice, self._node)
        subject = Subject(notice.about.namespace or NODE_NAMESPACE, KIND, notice.name)
        if notice.name not in self._sent:
            self._sender.send(ask(stamp(), subject, Operation.INSERT, event))
            return
        changed: JsonObject = {key: event[key] for key in ("count", "lastTimestamp", "message")}
        data = msgspec.json.encode(changed).decode()
        content: Json = {"event": event, "patchData": data}
        self._sender.send(ask(stamp(), subject, Operation.PATCH, content))


def event_object(notice: Notice, node: str) -> JsonObject:
    """Return a notice as the API's Event."""
    about = notice.about
    involved: JsonObject = {"kind": about.kind, "name": about.name, "uid": about.uid}
    if about.kind == "Pod":
        involved |= {"apiVersion": "v1", "namespace": about.namespace}
    involved |= {"resourceVersion": about.version} if about.version else {}
    involved |= {"fieldPath": about.field_path} if about.field_path else {}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": notice.name, "namespace": about.namespace or NODE_NAMESPACE},
        "involvedObject": involved,
        "type": notice.type,
        "reason": notice.reason,
        "message": notice.message,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": rfc3339(notice.first),
        "lastTimestamp": rfc3339(notice.last),
        "count": notice.count,
    }


def _field_path(pod: Pod, container: Container) -> str:
    spec = pod.spec
    groups = {
        "containers": spec.containers,
        "initContainers": spec.init_containers,
        "ephemeralContainers": spec.ephemeral_containers,
    }
    for group, members in groups.items():
        if any(each.name == container.name for each in members):
            return f"spec.{group}{{{container.name}}}"
    return f"implicitly required container {container.name}"
