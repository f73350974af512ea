"""LoRaWAN network servers that one runs oneself, or that communities run: where each of them writes what.

Source: Hono, LoRaWAN adapter; the push formats of ChirpStack 3 and 4, Kerlink, MultiTech, The Things Stack
and The Things Network 2.
"""

from __future__ import annotations

import re

from gateway.hono.adapters.lora_provider import (
    JSON,
    Provider,
    always,
    chirpstack_body,
    has,
    things_stack_body,
)
from gateway.hono.adapters.lora_values import (
    Heard,
    Meta,
    Reader,
    at,
    based_as_hex,
    cut,
    divided,
    each,
    eui,
    flag,
    heard,
    payload,
    place,
    rate,
    real,
    real_text,
    single,
    text,
    unbased,
    unhexed,
    whole,
    without_dashes,
)
from gateway.model.json import Json, JsonObject

KERLINK_JSON = "application/vnd.kerlink.iot-v1+json"
_TTN_RATE = re.compile(r"SF([0-9]{1,9})BW([0-9]{1,9})")
_STACK = "uplink_message"
_STACK_RATE = f"{_STACK}.settings.data_rate.lora"


def _chirpstack_coding(value: Json) -> Json:
    """`CR_4_5` is 4/5."""
    return "/".join(value.split("_")[1:]) if isinstance(value, str) else None


_CHIRPSTACK_PLACE = {
    "channel": at("channel", whole),
    "location": place("location.longitude", "location.latitude", "location.altitude"),
}


def _chirpstack(modulation: str, gateway: Heard, code_rate: Reader) -> Meta:
    """Return ChirpStack's meta data; its two versions differ in the names of modulation and gateways."""
    members = {
        "function_port": at("fPort", whole),
        "frame_count": at("fCnt", whole),
        "adr_enabled": at("adr", flag),
        "frequency": at("txInfo.frequency", divided(whole, 1e6)),
        "spreading_factor": at(f"txInfo.{modulation}.spreadingFactor", whole),
        "bandwidth": at(f"txInfo.{modulation}.bandwidth", whole),
        "coding_rate": code_rate,
    }
    return Meta(members, each("rxInfo", {**gateway, **_CHIRPSTACK_PLACE}))


def _kerlink_payload(message: JsonObject) -> bytes:
    is_hex = message.get("encodingType") == "HEXA"
    return payload("payload", unhexed if is_hex else unbased)(message)


def _ttn_payload(message: JsonObject) -> bytes:
    if "payload_raw" in message and message["payload_raw"] is None:
        return b""  # a frame without data, sent for its MAC commands
    return payload("payload_raw", unbased)(message)


def _multitech_eui(value: str) -> bytes:
    return unhexed(value.replace("-", ""))


SERVERS: tuple[Provider, ...] = (
    Provider(
        name="chirpStack",
        paths=("/chirpstack",),
        is_uplink=has("data"),
        device=eui("devEUI", unbased),
        payload=payload("data", unbased),
        body=chirpstack_body,
        accept=JSON,
        meta=_chirpstack(
            "loRaModulationInfo",
            heard("gatewayID", based_as_hex, snr="loRaSNR"),
            at("txInfo.loRaModulationInfo.codeRate", text),
        ),
    ),
    Provider(
        name="chirpStackV4",
        paths=("/chirpstackV4",),
        is_uplink=has("data"),
        device=eui("deviceInfo.devEui"),
        payload=payload("data", unbased),
        accept=JSON,
        meta=_chirpstack(
            "modulation.lora",
            heard("gatewayId"),
            at("txInfo.modulation.lora.codeRate", _chirpstack_coding),
        ),
    ),
    Provider(
        name="kerlink",
        paths=("/kerlink/dataUp",),
        is_uplink=always,
        device=eui("endDevice.devEui"),
        payload=_kerlink_payload,
        meta=Meta(
            {
                "spreading_factor": at("dataRate", rate(1)),
                "bandwidth": at("dataRate", rate(2)),
                "function_port": at("fPort", whole),
                "frame_count": at("fCntUp", whole),
                "adr_enabled": at("adr", flag),
                "frequency": at("ulFrequency", real),
                "coding_rate": at("codingRate", text),
                "location": place("endDevice.longitude", "endDevice.latitude"),
            },
            each(
                "gwInfo",
                heard(
                    "gwEui", channel=at("channel", whole), location=place("longitude", "latitude")
                ),
            ),
        ),
    ),
    Provider(
        name="kerlink-custom-content-type",
        paths=("/kerlink/rxmessage",),
        content_type=KERLINK_JSON,
        is_uplink=always,
        device=eui("devEui"),
        payload=payload("userdata.payload", unbased),
    ),
    Provider(
        name="multiTech",
        paths=("/multitech",),
        is_uplink=has("data"),
        device=eui("deveui", _multitech_eui),
        payload=payload("data", unbased),
        accept=JSON,
        meta=Meta(
            {
                "function_port": at("port", whole),
                "frame_count": at("fcnt", whole),
                "adr_enabled": at("adr", flag),
                "frequency": at("freq", real),
                "spreading_factor": at("datr", rate(1)),
                "bandwidth": at("datr", rate(2)),
                "coding_rate": at("codr", text),
            },
            single("", heard("gweui", without_dashes, snr="lsnr", channel=at("chan", whole))),
        ),
    ),
    Provider(
        name="theThingsStack",
        paths=("/thethingsstack",),
        is_uplink=has(_STACK),
        device=eui("end_device_ids.dev_eui"),
        payload=payload(f"{_STACK}.frm_payload", unbased),
        body=things_stack_body,
        meta=Meta(
            {
                "bandwidth": at(f"{_STACK_RATE}.bandwidth", cut(divided(whole, 1_000))),
                "spreading_factor": at(f"{_STACK_RATE}.spreading_factor", whole),
                "frequency": at(f"{_STACK}.settings.frequency", divided(real_text, 1e6)),
                "coding_rate": at(f"{_STACK}.settings.coding_rate", text),
                "function_port": at(f"{_STACK}.f_port", whole),
                "frame_count": at(f"{_STACK}.f_cnt", whole),
                "location": place(
                    f"{_STACK}.locations.user.longitude",
                    f"{_STACK}.locations.user.latitude",
                    f"{_STACK}.locations.user.altitude",
                ),
            },
            each(
                f"{_STACK}.rx_metadata",
                heard("gateway_ids.eui"),
                only_with="gateway_id",
            ),
        ),
    ),
    Provider(
        name="ttn",
        paths=("/ttn",),
        is_uplink=always,
        device=eui("hardware_serial"),
        payload=_ttn_payload,
        meta=Meta(
            {
                "frame_count": at("counter", whole),
                "function_port": at("port", whole),
                "coding_rate": at("metadata.coding_rate", text),
                "spreading_factor": at("metadata.data_rate", rate(1, _TTN_RATE, is_strict=False)),
                "bandwidth": at("metadata.data_rate", rate(2, _TTN_RATE, is_strict=False)),
                "frequency": at("metadata.frequency", real),
            },
            each(
                "metadata.gateways",
                heard(
                    "gtw_id",
                    channel=at("channel", whole),
                    location=place("longitude", "latitude", "altitude"),
                ),
            ),
        ),
    ),
)
