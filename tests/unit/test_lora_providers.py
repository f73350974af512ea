"""Messages of LoRaWAN network servers: every kind, what is no uplink, what is malformed, what is hostile."""

from __future__ import annotations

import base64
import copy

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.hono.adapters.lora import read_object
from gateway.hono.adapters.lora_provider import Provider, port_of
from gateway.hono.adapters.lora_providers import PROVIDERS, provider_of
from gateway.hono.adapters.lora_values import GATEWAY_MEMBERS, MEMBERS, MalformedUplink
from gateway.model.json import Json, JsonObject
from tests.lora_samples import DATA, EUI, SAMPLES

BY_NAME = {provider.name: provider for provider in PROVIDERS}


def test_there_is_a_sample_of_every_kind_of_server() -> None:
    assert set(SAMPLES) == set(BY_NAME)


@pytest.mark.parametrize("name", SAMPLES)
def test_an_uplink_gives_device_payload_and_meta_data(name: str) -> None:
    uplink = BY_NAME[name].uplink(SAMPLES[name].body)

    assert uplink is not None
    assert (uplink.device, uplink.payload) == (EUI, DATA)
    assert uplink.meta == SAMPLES[name].meta


@pytest.mark.parametrize("name", [n for n, s in SAMPLES.items() if s.meta])
def test_meta_data_comes_in_one_order(name: str) -> None:
    uplink = BY_NAME[name].uplink(SAMPLES[name].body)

    assert uplink is not None
    assert uplink.meta is not None
    assert [m for m in (*MEMBERS, "gateways") if m in uplink.meta] == list(uplink.meta)
    for gateway in msgspec.convert(uplink.meta.get("gateways", []), list[dict[str, object]]):
        assert [m for m in GATEWAY_MEMBERS if m in gateway] == list(gateway)


@pytest.mark.parametrize("name", [n for n, s in SAMPLES.items() if s.other])
def test_what_is_no_uplink_is_nobodys_data(name: str) -> None:
    assert BY_NAME[name].uplink(SAMPLES[name].other or {}) is None


@pytest.mark.parametrize("name", SAMPLES)
def test_each_kind_is_found_by_its_path(name: str) -> None:
    found = provider_of(SAMPLES[name].path)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/actilityWireless", "actilityWireless"),
        ("/loriot/", "loriot"),
        ("/orbiwise", "orbiwise"),
        ("/orbiwise/", "orbiwise"),
        ("/orbiwises", None),
        ("/loriot/x", None),
        ("/Loriot", None),
        ("/kerlink", None),
        ("/", None),
        ("", None),
    ],
)
def test_other_paths(path: str, name: str | None) -> None:
    found = provider_of(path)
    assert (found.name if found else None) == name


def test_a_frame_without_data_is_empty_at_the_things_network() -> None:
    uplink = BY_NAME["ttn"].uplink({"hardware_serial": EUI, "payload_raw": None})
    assert uplink is not None
    assert uplink.payload == b""


def test_kerlink_payloads_are_base64_unless_they_say_hex() -> None:
    body = {**SAMPLES["kerlink"].body, "payload": "Fyo", "encodingType": "BASE64"}
    uplink = BY_NAME["kerlink"].uplink(body)
    assert uplink is not None
    assert uplink.payload == DATA


def with_value(name: str, path: str, value: Json) -> JsonObject:
    """A sample with another value at a path."""
    body = copy.deepcopy(SAMPLES[name].body)
    inner: Json = body
    *way, last = path.split(".")
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]  # type: ignore[index]
    inner[last] = value  # type: ignore[index, call-overload]
    return body


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("loriot", "EUI", None),
        ("loriot", "EUI", 7),
        ("loriot", "EUI", ""),
        ("loriot", "EUI", "A81"),
        ("loriot", "EUI", "zz"),
        ("loriot", "EUI", "AA" * 33),
        ("loriot", "data", None),
        ("loriot", "data", "17 2a"),
        ("loriot", "freq", -1),
        ("loriot", "port", 2**31),
        ("loriot", "fcnt", 2**32),
        ("loriot", "fcnt", 10**400),
        ("loriot", "gws.0.rssi", 1),
        ("firefly", "spreading_factor", 6),
        ("firefly", "spreading_factor", 13),
        ("chirpStack", "devEUI", "?"),
        ("chirpStack", "data", "Fyo=Fyo="),
        ("chirpStack", "data", None),
        ("chirpStack", "rxInfo.0.gatewayID", "!"),
        ("kerlink", "dataRate", "SF7"),
        ("kerlink", "dataRate", "FSK"),
        ("kerlink", "payload", "zz"),
        ("multiTech", "datr", "50000"),
        ("orbiwise", "fcnt", "many"),
        ("orbiwise", "dr_used", "SF8BW"),
        ("proximus", "FPort", ""),
        ("proximus", "FPort", "1_0"),
        ("proximus", "Fcntup", "٣"),
        ("proximus", "Lrrsnr", "nan"),
        ("theThingsStack", "uplink_message.frm_payload", None),
        ("theThingsStack", "uplink_message.settings.frequency", "high"),
        ("actilityWireless", "DevEUI_uplink.SpFact", "9.5"),
        ("everynet", "meta", None),
    ],
)
def test_a_value_that_cannot_be_meant_refuses_the_message(
    name: str, path: str, value: Json
) -> None:
    with pytest.raises(MalformedUplink) as refused:
        BY_NAME[name].uplink(with_value(name, path, value))
    assert (refused.value.status, refused.value.message) == (400, "invalid payload")


@pytest.mark.parametrize(
    ("name", "path", "value", "member"),
    [
        ("loriot", "port", "10", "function_port"),
        ("loriot", "port", True, "function_port"),
        ("loriot", "dr", "FSK 50", "bandwidth"),
        ("loriot", "gws", {}, "gateways"),
        ("loriot", "gws", [1, None], "gateways"),
        ("ttn", "metadata.data_rate", "50000", "spreading_factor"),
        ("ttn", "metadata", [], "gateways"),
        ("proximus", "Adrbit", 1, "adr_enabled"),
        ("orbiwise", "dr_used", "FSK", "bandwidth"),
        ("actilityWireless", "DevEUI_uplink.DevLAT", "north", "location"),
        ("actilityEnterprise", "DevEUI_uplink.Channel", "LC99", "frequency"),
        ("kerlink", "endDevice.latitude", None, "location"),
    ],
)
def test_a_value_of_another_type_is_left_out(
    name: str, path: str, value: Json, member: str
) -> None:
    uplink = BY_NAME[name].uplink(with_value(name, path, value))
    assert uplink is not None
    assert uplink.meta is not None
    assert member not in uplink.meta


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"7", b'"x"', b"{", b"{}x", b"\xff", b'{"a":1e999}', b"[" * 100_000],
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedUplink):
        read_object(body)


# --- hostile messages ---------------------------------------------------------------------------------

scalars: st.SearchStrategy[Json] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(
        [EUI, "172a", "Fyo=", "-1", "1e5", "SF7BW125", "uplink", "gw", 2**63, 10**400]
    )
)
keys = st.text(max_size=6).filter(lambda key: key and "." not in key)
"""Names that a path of `paths_of` can tell apart."""
values: st.SearchStrategy[Json] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def paths_of(value: Json, way: str = "") -> list[str]:
    """All places of a document."""
    found = [way] if way else []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(str(at), item) for at, item in enumerate(value)]
    else:
        pairs = []
    for name, inner in pairs:
        found += paths_of(inner, f"{way}.{name}" if way else name)
    return found


def set_at(document: JsonObject, path: str, value: Json) -> None:
    inner: Json = document
    *way, last = path.split(".")
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]  # type: ignore[index]
    if isinstance(inner, list):
        inner[int(last)] = value
    elif isinstance(inner, dict):
        inner[last] = value


def read_or_refuse(provider: Provider, body: JsonObject) -> None:
    """Read a message; what comes out can be sent on."""
    try:
        uplink = provider.uplink(body)
    except MalformedUplink:
        return
    if uplink is not None and uplink.meta is not None:
        meta = msgspec.json.decode(msgspec.json.encode(uplink.meta))
        assert set(meta) <= {*MEMBERS, "gateways"}


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(SAMPLES)))
def test_no_value_anywhere_breaks_the_reading(data: st.DataObject, name: str) -> None:
    body = copy.deepcopy(SAMPLES[name].body)
    for _ in range(data.draw(st.integers(1, 3))):
        set_at(body, data.draw(st.sampled_from(paths_of(body))), data.draw(values))

    read_or_refuse(BY_NAME[name], body)


@settings(max_examples=200, deadline=None)
@given(body=st.dictionaries(st.text(max_size=8), values, max_size=4))
def test_no_object_breaks_the_reading(body: JsonObject) -> None:
    for provider in PROVIDERS:
        read_or_refuse(provider, body)


# --- commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "chirpStack",
            {
                "deviceQueueItem": {
                    "confirmed": False,
                    "data": base64.b64encode(DATA).decode(),
                    "fPort": 9,
                }
            },
        ),
        (
            "loriot",
            {"cmd": "tx", "confirmed": False, "data": "172A", "EUI": EUI, "port": 9},
        ),
        (
            "firefly",
            {"payload": "172A", "encoding": "base16", "confirmed": False, "port": 9},
        ),
        (
            "theThingsStack",
            {"decoded_payload": "172A", "confirmed": False, "priority": "normal", "f_port": 9},
        ),
        ("chirpStackV4", {"payload": "172A"}),
        ("ttn", {"payload": "172A"}),
        ("kerlink-custom-content-type", {"payload": "172A"}),
    ],
)
def test_a_command_in_the_form_of_each_server(name: str, body: JsonObject) -> None:
    assert BY_NAME[name].body(EUI, DATA, 9) == body


def test_a_command_without_port() -> None:
    assert BY_NAME["theThingsStack"].body(EUI, DATA, None)["f_port"] == 2
    for name in ("loriot", "firefly"):
        assert "port" not in BY_NAME[name].body(EUI, DATA, None)
    assert "fPort" not in str(BY_NAME["chirpStack"].body(EUI, DATA, None))


@pytest.mark.parametrize(
    ("name", "port"),
    [("9", 9), ("-1", -1), ("setPort", None), ("", None), ("1.5", None), ("9" * 40, None)],
)
def test_the_name_of_a_command_may_be_a_port(name: str, port: int | None) -> None:
    assert port_of(name) == port
