"""The language of scenarios: one step a line, `-> what must come`; `#` begins a comment.

    model m level:INT fixed:INT:ReadOnly    a DeviceModel
    device d m level=5                      a Device of it at the edge, with a desired value
    annotate d key=value                    an annotation of the Device
    edge offline | online | stop | start    cuts the link, kills the process
    kubectl d level=7                       patches the Device's desired value
    PUT|GET|DELETE /things/... [JSON]       asks the Ditto API; -> status and JSON
    d arrives                               the edge knows the Device
    d sees level=7                          what the edge's twin wants
    d reports level=7                       what a local MQTT client says
    delta d                                 -> wanted and not yet reported, at the edge
    desired d level                         -> the Device's desired value in Kubernetes
    status d level                          -> the reported value in DeviceStatus
    changes d                               -> revisions of the thing and generations of the Device
                                            since the last `changes`, once all is quiet

What is expected is waited for, since rooms work side by side; `changes` alone looks once.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import GatewayError, NotFound
from gateway.kube.client import PatchType
from tests.scenarios.stack import API, NAMESPACE, NODE, Stack, until

PATIENCE = 30.0
SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class Line:
    """One step; `expected` is None where nothing is expected."""

    number: int
    step: str
    expected: str | None


def parse(text: str) -> list[Line]:
    """Read a scenario."""
    found = []
    for number, raw in enumerate(text.splitlines(), start=1):
        step, arrow, expected = raw.partition("->")
        if step.strip() and not step.lstrip().startswith("#"):
            found.append(Line(number, step.strip(), expected.strip() if arrow else None))
    return found


Step = Callable[..., Awaitable[str]]


@dataclass(slots=True)
class Player:
    """Plays a script against a stack."""

    stack: Stack
    models: dict[str, str] = field(default_factory=dict)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    rounds: int = 0

    async def play(self, text: str) -> str:
        """Play all lines; return what went wrong and where, empty when nothing did."""
        await self._model("sentinel-model", "beat:INT")
        await self._device(SENTINEL, "sentinel-model", "")
        for line in parse(text):
            try:
                wrong = await self._play(line)
            except (GatewayError, TimeoutError) as error:
                wrong = f"{type(error).__name__} {error}"
            if wrong:
                return f"line {line.number}: {line.step}: {wrong}"
        return ""

    async def _play(self, line: Line) -> str:
        for pattern, step, waits in STEPS:
            match = re.fullmatch(pattern, line.step)
            if match is None:
                continue
            got = await step(self, *match.groups())
            deadline = asyncio.get_running_loop().time() + PATIENCE
            while waits and line.expected is not None and got != line.expected:
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(0.01)
                got = await step(self, *match.groups())
            if line.expected is None or got == line.expected:
                return ""
            return f"{got!r}, not {line.expected!r}"
        return "no such step"

    # --- what is there

    async def _model(self, name: str, rules: str) -> str:
        properties = []
        for rule in rules.split():
            prop, kind, access = (*rule.split(":"), "ReadWrite")[:3]
            properties.append({"name": prop, "type": kind, "accessMode": access})
        self.models[name] = rules
        spec = {"properties": properties}
        await self._create("DeviceModel", "devicemodels", name, spec)
        return ""

    async def _device(self, name: str, model: str, wanted: str) -> str:
        values = dict(pair.split("=", 1) for pair in wanted.split())
        properties: list[Any] = []
        for prop in (rule.split(":")[0] for rule in self.models[model].split()):
            desired = {"desired": {"value": values[prop]}} if prop in values else {}
            properties.append({"name": prop, **desired})
        spec = {
            "deviceModelRef": {"name": model},
            "nodeName": NODE,
            "protocol": {"protocolName": "mqtt"},
            "properties": properties,
        }
        await self._create("Device", "devices", name, spec)
        return ""

    async def _create(self, kind: str, plural: str, name: str, spec: Any) -> None:
        metadata = {"name": name, "namespace": NAMESPACE}
        document: Any = {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}
        await self.stack.kube.create(API, plural, NAMESPACE, document)

    async def _annotate(self, device: str, key: str, value: str) -> str:
        patch: Any = {"metadata": {"annotations": {key: value}}}
        await self.stack.kube.patch(API, "devices", NAMESPACE, device, patch)
        return ""

    # --- the edge

    async def _edge(self, word: str) -> str:
        if word == "stop":
            await self.stack.stop_edge()
        elif word == "start":
            await self.stack.start_edge()
        else:
            await self.stack.set_link(up=word == "online")
        return ""

    async def _sees(self, device: str, name: str, value: str) -> str:
        return "" if self.stack.expected(device, name) == value else "not yet"

    async def _arrives(self, device: str) -> str:
        await until(lambda: self.stack.knows(device), PATIENCE)
        return ""

    async def _reports(self, device: str, name: str, value: str) -> str:
        await self.stack.report(device, name, value)
        return ""

    async def _delta(self, device: str) -> str:
        return compact(self.stack.deltas(device))

    # --- the cloud

    async def _kubectl(self, device: str, name: str, value: str) -> str:
        names = [prop["name"] for prop in (await self.stack.device(device))["spec"]["properties"]]
        path = f"/spec/properties/{names.index(name)}/desired"
        operation: Any = [{"op": "add", "path": path, "value": {"value": value}}]
        await self.stack.kube.patch(
            API, "devices", NAMESPACE, device, operation, patch_type=PatchType.JSON
        )
        return ""

    async def _http(self, method: str, path: str, body: str | None) -> str:
        status, found = await self.stack.http(method, path, json.loads(body) if body else None)
        if status >= 400:
            return f"{status} {found['error']}"
        return str(status) if found is None or method != "GET" else f"{status} {compact(found)}"

    async def _desired(self, device: str, name: str) -> str:
        properties = (await self.stack.device(device))["spec"]["properties"]
        found = next(prop for prop in properties if prop["name"] == name)
        return str(found.get("desired", {}).get("value"))

    async def _status(self, device: str, name: str) -> str:
        try:
            found: Any = await self.stack.kube.get(API, "devicestatuses", NAMESPACE, device)
        except NotFound:
            return "None"
        twins = found.get("status", {}).get("twins", [])
        reported = (t["reported"]["value"] for t in twins if t["propertyName"] == name)
        return str(next(reported, None))

    async def _changes(self, device: str) -> str:
        await self._rest()
        status, thing = await self.stack.http(
            "GET", f"/things/{NAMESPACE}:{device}?fields=_revision"
        )
        assert status == 200
        generation = (await self.stack.device(device))["metadata"]["generation"]
        now = (thing["_revision"], generation)
        before = self.seen.get(device, (0, 0))
        self.seen[device] = now
        return f"{now[0] - before[0]} {now[1] - before[1]}"

    async def _rest(self) -> None:
        """Send another device's wish down and its report up: what was under way before has arrived."""
        for _ in range(2):
            self.rounds += 1
            beat = str(self.rounds)
            await self._kubectl(SENTINEL, "beat", beat)
            await self._until(lambda: self._sees(SENTINEL, "beat", str(self.rounds)), "")
            await self._reports(SENTINEL, "beat", beat)
            await self._until(lambda: self._status(SENTINEL, "beat"), beat)

    async def _until(self, step: Callable[[], Awaitable[str]], wanted: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while await step() != wanted:  # noqa: ASYNC110  the state has no event of its own
                await asyncio.sleep(0.01)


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


STEPS: tuple[tuple[str, Step, bool], ...] = (
    (r"model (\S+) (.+)", Player._model, False),
    (r"device (\S+) (\S+)\s*(.*)", Player._device, False),
    (r"annotate (\S+) ([^=]+)=(\S*)", Player._annotate, False),
    (r"edge (offline|online|stop|start)", Player._edge, False),
    (r"kubectl (\S+) ([^=]+)=(\S*)", Player._kubectl, False),
    (r"(GET) (\S+)()", Player._http, True),
    (r"(PUT|DELETE) (\S+)(?: (.+))?", Player._http, True),
    (r"delta (\S+)", Player._delta, True),
    (r"desired (\S+) (\S+)", Player._desired, True),
    (r"status (\S+) (\S+)", Player._status, True),
    (r"changes (\S+)", Player._changes, False),
    (r"(\S+) arrives", Player._arrives, False),
    (r"(\S+) sees ([^=]+)=(\S*)", Player._sees, True),
    (r"(\S+) reports ([^=]+)=(\S*)", Player._reports, False),
)
"""Pattern, step, and whether what is expected is waited for."""
