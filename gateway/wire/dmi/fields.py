"""DMI's messages as tables: which field has which number and type.

Names are those of the wire's own definition; they are the keys of the JSON objects, too.
Source: KubeEdge DMI `v1beta1`; reference, section 17.3.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

PACKAGE = "v1beta1"
MANAGER = f"/{PACKAGE}.DeviceManagerService/"
"""Path of EdgeCore's calls, before the method."""
MAPPER = f"/{PACKAGE}.DeviceMapperService/"
"""Path of a mapper's calls, before the method."""


class Kind(enum.Enum):
    """What a field holds; BYTES are text in JSON, as all of DMI's bytes are."""

    STRING = enum.auto()
    BYTES = enum.auto()
    BOOL = enum.auto()
    INT32 = enum.auto()
    INT64 = enum.auto()
    MESSAGE = enum.auto()
    TEXTS = enum.auto()
    """A map of text to text."""
    ANYS = enum.auto()
    """A map of text to `google.protobuf.Any` that wraps one value."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field. Shape: `message` names the table of a MESSAGE."""

    number: int
    name: str
    kind: Kind
    is_repeated: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One message, by number and by name."""

    by_number: Mapping[int, Field]
    by_name: Mapping[str, Field]


_PLAIN = {
    "": Kind.STRING,
    "string": Kind.STRING,
    "bytes": Kind.BYTES,
    "bool": Kind.BOOL,
    "int32": Kind.INT32,
    "int64": Kind.INT64,
    "texts": Kind.TEXTS,
    "anys": Kind.ANYS,
}


def _table(line: str) -> Table:
    """Read `1 name, 2 other:int64, 3 many:*Message`; without a type it is text."""
    fields = [_field(entry) for entry in line.split(",") if entry.strip()]
    return Table({f.number: f for f in fields}, {f.name: f for f in fields})


def _field(entry: str) -> Field:
    number, _, rest = entry.strip().partition(" ")
    name, _, kind = rest.partition(":")
    plain = kind.lstrip("*")
    message = "" if plain in _PLAIN else plain
    return Field(
        int(number),
        name,
        _PLAIN.get(plain, Kind.MESSAGE),
        is_repeated=kind.startswith("*"),
        message=message,
    )


_LINES = {
    "MapperRegisterRequest": "1 withData:bool, 2 mapper:MapperInfo",
    "MapperRegisterResponse": "1 modelList:*DeviceModel, 2 deviceList:*Device",
    "MapperInfo": "1 name, 2 version, 3 api_version, 4 protocol, 5 address:bytes, 6 state",
    "DeviceModel": "1 name, 2 spec:DeviceModelSpec, 3 namespace",
    "DeviceModelSpec": "1 properties:*ModelProperty, 2 commands:*DeviceCommand",
    "ModelProperty": ("1 name, 2 description, 3 type, 4 accessMode, 5 minimum, 6 maximum, 7 unit"),
    "DeviceCommand": (
        "1 name, 2 url, 3 method, 4 status_code:*string, 5 parameters:*string, 6 response:bytes"
    ),
    "Device": "1 name, 2 spec:DeviceSpec, 3 status:DeviceStatus, 4 namespace",
    "DeviceSpec": (
        "1 deviceModelReference, 2 protocol:ProtocolConfig, 3 properties:*DeviceProperty,"
        " 4 methods:*DeviceMethod"
    ),
    "DeviceMethod": "1 name, 2 description, 3 propertyNames:*string",
    "DeviceProperty": (
        "1 name, 2 desired:TwinProperty, 3 visitors:VisitorConfig, 4 reportCycle:int64,"
        " 5 collectCycle:int64, 6 reportToCloud:bool, 7 pushMethod:PushMethod"
    ),
    "ProtocolConfig": "1 protocolName, 2 configData:CustomizedValue",
    "VisitorConfig": "1 protocolName, 2 configData:CustomizedValue",
    "CustomizedValue": "1 data:anys",
    "PushMethod": (
        "1 http:PushMethodHTTP, 2 mqtt:PushMethodMQTT, 3 dbMethod:DBMethod, 4 otel:PushMethodOTEL,"
        " 5 anomalyDetection:AnomalyDetection"
    ),
    "PushMethodHTTP": "1 hostname, 2 port:int64, 3 requestpath, 4 timeout:int64",
    "PushMethodMQTT": "1 address, 2 topic, 3 qos:int32, 4 retained:bool",
    "PushMethodOTEL": "1 endpointURL",
    "DBMethod": (
        "1 influxdb2:DBMethodInfluxdb2, 2 redis:DBMethodRedis, 3 tdengine:DBMethodTDEngine,"
        " 4 mysql:DBMethodMySQL"
    ),
    "DBMethodInfluxdb2": (
        "1 influxdb2ClientConfig:Influxdb2ClientConfig, 2 influxdb2DataConfig:Influxdb2DataConfig"
    ),
    "Influxdb2ClientConfig": "1 url, 2 org, 3 bucket",
    "Influxdb2DataConfig": "1 measurement, 2 tag:texts, 3 fieldKey",
    "DBMethodRedis": "1 redisClientConfig:RedisClientConfig",
    "RedisClientConfig": "1 addr, 2 db:int32, 3 poolsize:int32, 4 minIdleConns:int32",
    "DBMethodTDEngine": "1 tdEngineClientConfig:TDEngineClientConfig",
    "TDEngineClientConfig": "1 addr, 2 dbname",
    "DBMethodMySQL": "1 mysqlClientConfig:MySQLClientConfig",
    "MySQLClientConfig": "1 addr, 2 database, 3 userName",
    "AnomalyDetection": "1 data:anys",
    "DeviceStatus": "1 twins:*Twin, 2 reportToCloud:bool, 3 reportCycle:int64",
    "Twin": "1 propertyName, 2 observedDesired:TwinProperty, 3 reported:TwinProperty",
    "TwinProperty": "1 value, 2 metadata:texts",
    "ReportDeviceStatusRequest": ("1 deviceName, 2 reportedDevice:DeviceStatus, 3 deviceNamespace"),
    "ReportDeviceStatusResponse": "",
    "ReportDeviceStatesRequest": "1 deviceName, 2 deviceNamespace, 3 state",
    "ReportDeviceStatesResponse": "",
    "RegisterDeviceRequest": "1 device:Device",
    "RegisterDeviceResponse": "1 deviceName, 2 deviceNamespace",
    "UpdateDeviceRequest": "1 device:Device",
    "UpdateDeviceResponse": "",
    "RemoveDeviceRequest": "1 deviceName, 2 deviceNamespace",
    "RemoveDeviceResponse": "",
    "CreateDeviceModelRequest": "1 model:DeviceModel",
    "CreateDeviceModelResponse": "1 deviceModelName, 2 deviceModelNamespace",
    "UpdateDeviceModelRequest": "1 model:DeviceModel",
    "UpdateDeviceModelResponse": "",
    "RemoveDeviceModelRequest": "1 modelName, 2 modelNamespace",
    "RemoveDeviceModelResponse": "",
    "GetDeviceRequest": "1 deviceName, 2 deviceNamespace",
    "GetDeviceResponse": "1 device:Device",
}

TABLES: Mapping[str, Table] = {name: _table(line) for name, line in _LINES.items()}
