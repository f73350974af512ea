"""Devices and models as DMI tells them to mappers.

A Device goes with its model's defaults. What is wanted of a property is what the twin says, which knows of
local wishes, too, and of values that the model does not allow; a property without a twin (a stream) has the
Device's own. Messages that Go mappers read without looking (`desired`, `visitors`) are always there.
Source: KubeEdge reference, sections 16, 17.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge.twinrules import Twins, is_deleted, text_of
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceProperty, DeviceView, mapping, text, texts
from gateway.wire.cloudedge.models import ModelProperty, ModelView

_INT32, _INT64 = 2**31, 2**63


def device_form(view: DeviceView, twins: Twins) -> JsonObject:
    """Return DMI's `Device`; `view` has its model's defaults."""
    return {
        "name": view.meta.name,
        "namespace": view.meta.namespace,
        "spec": {
            "deviceModelReference": view.model,
            "protocol": _config(view.protocol, view.protocol_config),
            "properties": [_property(each, twins) for each in view.properties.values()],
            "methods": [
                {
                    "name": each.name,
                    "description": each.description,
                    "propertyNames": list(each.properties),
                }
                for each in view.methods
            ],
        },
        "status": {
            "reportToCloud": view.state_report.to_cloud,
            "reportCycle": _whole(view.state_report.cycle, _INT64),
        },
    }


def model_form(model: ModelView) -> JsonObject:
    """Return DMI's `DeviceModel`."""
    return {
        "name": model.meta.name,
        "namespace": model.meta.namespace,
        "spec": {"properties": [_model_property(each) for each in model.properties.values()]},
    }


def _model_property(each: ModelProperty) -> JsonObject:
    return {
        "name": each.name,
        "description": each.description,
        "type": each.type,
        "accessMode": each.access,
        "minimum": each.minimum,
        "maximum": each.maximum,
        "unit": each.unit,
    }


def _config(protocol: str, data: JsonObject | None) -> JsonObject:
    return {"protocolName": protocol, "configData": {"data": dict(data or {})}}


def _property(each: DeviceProperty, twins: Twins) -> JsonObject:
    return {
        "name": each.name,
        "desired": _desired(each, twins),
        "visitors": _config(each.visitor_protocol, each.visitor),
        "reportCycle": _whole(each.report_cycle, _INT64),
        "collectCycle": _whole(each.collect_cycle, _INT64),
        "reportToCloud": each.report_to_cloud,
        "pushMethod": None if each.push_method is None else push_form(each.push_method),
    }


def _desired(each: DeviceProperty, twins: Twins) -> JsonObject:
    twin = twins.get(each.name)
    wanted = each.desired if twin is None or is_deleted(twin) else text_of(twin.expected)
    return {"value": wanted or "", "metadata": dict(each.desired_metadata or {})}


# --- push methods: the Device's words and DMI's ----------------------------------------------------

_Names = Mapping[str, "str | tuple[str, _Names]"]
"""Name in the Device -> name in DMI, with those of the object in it."""

_SAME_CLIENT = {name: name for name in ("addr", "db", "poolsize", "minIdleConns")}
_PUSH: _Names = {
    "http": (
        "http",
        {
            "hostName": "hostname",
            "port": "port",
            "requestPath": "requestpath",
            "timeout": "timeout",
        },
    ),
    "mqtt": ("mqtt", {name: name for name in ("address", "topic", "qos", "retained")}),
    "otel": ("otel", {"endpointURL": "endpointURL"}),
    "dbMethod": (
        "dbMethod",
        {
            "influxdb2": (
                "influxdb2",
                {
                    "influxdb2ClientConfig": (
                        "influxdb2ClientConfig",
                        {"url": "url", "org": "org", "bucket": "bucket"},
                    ),
                    "influxdb2DataConfig": (
                        "influxdb2DataConfig",
                        {"measurement": "measurement", "tag": "tag", "fieldKey": "fieldKey"},
                    ),
                },
            ),
            "redis": ("redis", {"redisClientConfig": ("redisClientConfig", _SAME_CLIENT)}),
            "TDEngine": (
                "tdengine",
                {
                    "TDEngineClientConfig": (
                        "tdEngineClientConfig",
                        {"addr": "addr", "dbName": "dbname"},
                    )
                },
            ),
            "mysql": (
                "mysql",
                {
                    "mysqlClientConfig": (
                        "mysqlClientConfig",
                        {"addr": "addr", "database": "database", "userName": "userName"},
                    )
                },
            ),
        },
    ),
}
_WHOLE = {"port": _INT64, "timeout": _INT64, "qos": _INT32}
_WHOLE |= {"db": _INT32, "poolsize": _INT32, "minIdleConns": _INT32}


def push_form(push: JsonObject) -> JsonObject:
    """Return DMI's `PushMethod`; what has another type than DMI's is left out."""
    found = _renamed(push, _PUSH)
    if isinstance(push.get("anomalyDetection"), dict):
        found["anomalyDetection"] = {"data": dict(mapping(push["anomalyDetection"]))}
    return found


def _renamed(value: JsonObject, names: _Names) -> JsonObject:
    out: JsonObject = {}
    for theirs, ours in names.items():
        entry = value.get(theirs)
        if entry is None:
            continue
        if isinstance(ours, tuple):
            out[ours[0]] = _renamed(mapping(entry), ours[1])
        else:
            out[ours] = _leaf(ours, entry)
    return out


def _leaf(name: str, value: Json) -> Json:
    if name in _WHOLE:
        return _whole(value, _WHOLE[name])
    if name == "retained":
        return value is True
    if name == "tag":
        return dict(texts(value))
    return text(value)


def _whole(value: Json, bound: int) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and isinstance(value, int) and -bound <= value < bound else 0
