"""`nodes`, `devices`, `models`: what the cluster holds, page by page; and wishes for devices."""

from __future__ import annotations

import base64
import binascii
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

from aiohttp import web

from gateway.console.desired import wish_patch
from gateway.console.fleet import (
    Device,
    Status,
    cut,
    faults_of,
    millis,
    node_details,
    rows,
)
from gateway.console.guard import Call, answer
from gateway.console.mirrors import CloudFacts, Key, Mirrors
from gateway.errors import BadRequest, NotFound
from gateway.kube.client import KubeClient, PatchType
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import (
    DEVICES,
    GROUP_VERSION,
    MODELS,
    STATUSES,
    DeviceView,
    mapping,
    text,
)
from gateway.wire.cloudedge.models import ModelView

MAX_PAGE = 500
MAX_NODES = 5_000
MAX_MODELS = 1_000
STATES = ("online", "offline", "unknown")
Test = Callable[[Device], bool]


class FleetRoutes:
    """The handlers; all are for operators."""

    def __init__(self, kube: KubeClient, mirrors: Mirrors, cloud: CloudFacts | None) -> None:
        self._kube = kube
        self._mirrors = mirrors
        self._cloud = cloud

    # --- nodes --------------------------------------------------------------------------------------

    async def nodes(self, _call: Call) -> web.StreamResponse:
        mirrors = self._mirrors
        await mirrors.known()
        known = mirrors.nodes.objects
        found = [mirrors.node(known[key]) for key in sorted(known)[:MAX_NODES]]
        return answer({"items": [*found], "truncated": len(known) > MAX_NODES})

    async def node(self, call: Call) -> web.StreamResponse:
        """Errors: NotFound."""
        mirrors, name = self._mirrors, call.part("name")
        await mirrors.known()
        node = mirrors.nodes.objects.get(("", name))
        if node is None:
            raise NotFound(f"There is no node '{name}'.", code="console:node.notfound")
        row = {**mirrors.node(node), **node_details(node), "certificates": None}
        if self._cloud is not None:
            valid, revoked_at = self._cloud.certificates(name)
            row["certificates"] = {"valid": valid, "revoked_at": revoked_at}
        return answer(row)

    # --- devices ------------------------------------------------------------------------------------

    async def devices(self, call: Call) -> web.StreamResponse:
        """A page, by name. Errors: BadRequest."""
        limit = call.number("limit", 100, MAX_PAGE, 1)
        after = _place_of(call.query("continue"))
        mirrors = self._mirrors
        await mirrors.known()
        index = mirrors.index
        node = call.query("node")
        places = index.of_node(node) if node else index.order
        if state := _wanted_state(call):
            places = index.in_state(places, lambda told: _state(told) == state)
        tests = list(_tests(call))
        if tests:
            places = list(_fitting(index.devices, places, tests))
        start = bisect_right(places, after) if after is not None else 0
        page = places[start : start + limit]
        more = start + limit < len(places)
        return answer(
            {
                "items": [
                    mirrors.device(index.devices[namespace, name]) for name, namespace in page
                ],
                "continue": _token(page[-1]) if more and page else None,
                "total": len(places),
            }
        )

    async def device(self, call: Call) -> web.StreamResponse:
        """Errors: NotFound."""
        return answer(await self._whole(call.part("namespace"), call.part("name")))

    async def wish(self, call: Call) -> web.StreamResponse:
        """Set or take back a wanted value. Errors: NotFound; Unprocessable; Conflict; what the API says."""
        namespace, name, prop = (call.part(each) for each in ("namespace", "name", "property"))
        body = await call.body()
        if "value" not in body:
            raise BadRequest("body: expected {value}")
        device = await self._kube.get(GROUP_VERSION, DEVICES, namespace, name)
        view = DeviceView.read(device)
        model = await self._model(view)
        view_of_model = ModelView.read(model) if model is not None else None
        now = time.time_ns() // 1_000_000
        patch = wish_patch(view, view_of_model, prop, body["value"], now)
        if patch:
            await self._kube.patch(
                GROUP_VERSION, DEVICES, namespace, name, patch, patch_type=PatchType.JSON
            )
        return answer(await self._whole(namespace, name))

    async def models(self, _call: Call) -> web.StreamResponse:
        found = await self._kube.list(GROUP_VERSION, MODELS, limit=MAX_MODELS)
        views = [ModelView.read(each) for each in found.items]
        return answer(
            {
                "items": [
                    {
                        "namespace": each.meta.namespace,
                        "name": each.meta.name,
                        "protocol": cut(each.protocol, 128),
                        "properties": len(each.properties),
                    }
                    for each in views
                ]
            }
        )

    # --- one device ---------------------------------------------------------------------------------

    async def _whole(self, namespace: str, name: str) -> JsonObject:
        await self._mirrors.known()
        document = await self._kube.get(GROUP_VERSION, DEVICES, namespace, name)
        device, view = Device.read(document), DeviceView.read(document)
        status = await self._found(STATUSES, namespace, name)
        if status is not None and not _is_of(status, device):
            status = None
        model = await self._model(view)
        return {
            **self._mirrors.device(device),
            **_told(status),
            "object": document,
            "status": status,
            "model_object": model,
            "fault_list": [*faults_of(status)],
            "values": values(view, ModelView.read(model) if model is not None else None, status),
        }

    async def _model(self, view: DeviceView) -> JsonObject | None:
        return await self._found(MODELS, view.meta.namespace, view.model) if view.model else None

    async def _found(self, plural: str, namespace: str, name: str) -> JsonObject | None:
        try:
            return await self._kube.get(GROUP_VERSION, plural, namespace, name)
        except NotFound:
            return None


def _is_of(status: JsonObject, device: Device) -> bool:
    owners = Status.read(status).owners
    return not owners or device.uid in owners


def _told(status: JsonObject | None) -> JsonObject:
    """The state as it was just read, which the mirror may not know yet."""
    found = Status() if status is None else Status.read(status)
    return {"state": found.state, "last_online": found.last_online, "faults": found.faults}


def values(view: DeviceView, model: ModelView | None, status: JsonObject | None) -> list[Json]:
    """Every property of a Device and its model: what is wanted, what is reported."""
    twins = {
        text(each.get("propertyName")): each
        for each in rows(mapping((status or {}).get("status")).get("twins"))
    }
    declared = model.properties if model is not None else {}
    names = dict.fromkeys([*view.properties, *declared])
    found: list[Json] = []
    for name in names:
        prop, rule, entry = declared.get(name), (model.rules if model else {}).get(name), view
        wish = entry.properties.get(name)
        found.append(
            {
                "name": name,
                "type": prop.type or None if prop else None,
                "access": prop.access or None if prop else None,
                "unit": cut(prop.unit, 64) if prop else "",
                "minimum": prop.minimum or None if prop else None,
                "maximum": prop.maximum or None if prop else None,
                "description": cut(prop.description) if prop else "",
                "reported": _side(twins.get(name, {}).get("reported")),
                "desired": None
                if wish is None or wish.desired is None
                else {
                    "value": wish.desired,
                    "at": millis((wish.desired_metadata or {}).get("timestamp")),
                },
                "writable": rule is None or rule.writable,
            }
        )
    return found


def _side(value: Json) -> JsonObject | None:
    if not isinstance(value, dict) or "value" not in value:
        return None
    metadata = mapping(value.get("metadata"))
    return {
        "value": text(value.get("value")),
        "at": millis(metadata.get("timestamp")),
        "metadata": metadata,
    }


# --- which devices -------------------------------------------------------------------------------------


def _wanted_state(call: Call) -> str:
    """Errors: BadRequest for what is no state."""
    state = call.query("state")
    if state and state not in STATES:
        raise BadRequest(f"state: expected one of {', '.join(STATES)}")
    return state


def _tests(call: Call) -> Iterator[Test]:
    """What the query asks for beside node and state."""
    if namespace := call.query("namespace"):
        yield lambda device: device.namespace == namespace
    if wanted := call.query("q").strip().casefold()[:200]:
        yield lambda device: wanted in device.haystack


def _state(state: str) -> str:
    """A state as it can be asked for: what is neither on nor offline is something that mappers made up."""
    return state if state in STATES else "unknown"


def _fitting(devices: dict[Key, Device], places: list[Key], tests: Iterable[Test]) -> Iterator[Key]:
    checks = list(tests)
    for place in places:
        device = devices[place[1], place[0]]
        if all(check(device) for check in checks):
            yield place


def _token(place: Key) -> str:
    return base64.urlsafe_b64encode("\n".join(place).encode()).decode()


def _place_of(token: str) -> Key | None:
    """Errors: BadRequest for what is no token of ours."""
    if not token:
        return None
    try:
        name, _, namespace = base64.urlsafe_b64decode(token[:2_000]).decode().partition("\n")
    except (binascii.Error, ValueError) as error:
        raise BadRequest("continue: expected what the last page gave") from error
    return name, namespace
