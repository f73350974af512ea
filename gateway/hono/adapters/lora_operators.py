"""LoRaWAN networks that operators run: where each of them writes what.

Source: Hono, LoRaWAN adapter; the push formats of Actility ThingPark, Everynet, Firefly, Orange Live Objects,
Loriot, Objenious, OrbiWise and Proximus.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.hono.adapters.lora_provider import (
    JSON,
    Provider,
    always,
    firefly_body,
    loriot_body,
    member_is,
)
from gateway.hono.adapters.lora_values import (
    Meta,
    Reader,
    at,
    bit_text,
    coordinate_text,
    cut,
    divided,
    each,
    eui,
    find,
    flag,
    heard,
    one_of,
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
    whole_text,
)
from gateway.model.json import Json, JsonObject

_LIVE = "metadata.network.lora"
_LORIOT_RATE = re.compile(r"SF([0-9]{1,9}) BW([0-9]{1,9}) (.+)")


def _orbiwise_bandwidth(value: Json) -> Json:
    if not isinstance(value, str) or "BW" not in value:
        return None
    return whole_text(value.split("BW")[1])


_ACTILITY = "DevEUI_uplink"
_CHANNELS = {"LC1": 868.1, "LC2": 868.3, "LC3": 868.5, "RX2": 869.525}
"""Logical channels in MHz, as ThingPark's developer guide numbers them."""


def _actility(
    number: Callable[[Json], Json],
    decimal: Callable[[Json], Json],
    coordinate: Callable[[Json], Json],
    **more: Reader,
) -> Meta:
    """Return ThingPark's meta data; its two products differ in whether numbers are texts."""
    listed = each(
        f"{_ACTILITY}.Lrrs.Lrr",
        {
            "gateway_id": at("Lrrid", text),
            "rss": at("LrrRSSI", cut(decimal)),
            "snr": at("LrrSNR", decimal),
        },
    )
    where = place(f"{_ACTILITY}.LrrLON", f"{_ACTILITY}.LrrLAT", form=coordinate)

    def gateways(message: JsonObject) -> list[JsonObject]:
        best, location = find(message, f"{_ACTILITY}.Lrrid"), where(message)
        return [
            {**one, "location": location}
            if location is not None and best is not None and one.get("gateway_id") == best
            else one
            for one in listed(message)
        ]

    members = {
        "spreading_factor": at(f"{_ACTILITY}.SpFact", number),
        "function_port": at(f"{_ACTILITY}.FPort", number),
        "frame_count": at(f"{_ACTILITY}.FCntUp", number),
        "frequency": at(f"{_ACTILITY}.Channel", one_of(_CHANNELS)),
        "location": place(
            f"{_ACTILITY}.DevLON", f"{_ACTILITY}.DevLAT", f"{_ACTILITY}.DevAlt", coordinate
        ),
        **more,
    }
    return Meta(members, gateways)


def _is_actility(message: JsonObject) -> bool:
    return isinstance(message.get(_ACTILITY), dict)


OPERATORS: tuple[Provider, ...] = (
    Provider(
        name="actilityEnterprise",
        paths=("/actilityEnterprise",),
        is_uplink=_is_actility,
        device=eui(f"{_ACTILITY}.DevEUI"),
        payload=payload(f"{_ACTILITY}.payload_hex", unhexed),
        meta=_actility(whole, real, real),
    ),
    Provider(
        name="actilityWireless",
        paths=("/actility", "/actilityWireless"),
        is_uplink=_is_actility,
        device=eui(f"{_ACTILITY}.DevEUI"),
        payload=payload(f"{_ACTILITY}.payload_hex", unhexed),
        meta=_actility(
            whole_text,
            real_text,
            coordinate_text,
            adr_enabled=at(f"{_ACTILITY}.ADRbit", bit_text),
        ),
    ),
    Provider(
        name="everynet",
        paths=("/everynet",),
        is_uplink=member_is("type", "uplink"),
        device=eui("meta.device"),
        payload=payload("params.payload", unbased),
        meta=Meta(
            {
                "function_port": at("params.port", whole),
                "frame_count": at("params.counter_up", whole),
                "frequency": at("params.radio.freq", real),
                "spreading_factor": at("params.radio.modulation.spreading", whole),
                "bandwidth": at("params.radio.modulation.bandwidth", cut(divided(whole, 1_000))),
                "coding_rate": at("params.radio.modulation.coderate", text),
            },
            single(
                "params.radio.hardware",
                {
                    "channel": at("channel", whole),
                    "rss": at("rssi", whole),
                    "snr": at("snr", real),
                    "location": place("gps.lng", "gps.lat", "gps.alt"),
                },
            ),
        ),
    ),
    Provider(
        name="firefly",
        paths=("/firefly",),
        is_uplink=member_is("server_data.mtype", "confirmed_data_up", "unconfirmed_data_up"),
        device=eui("device.eui"),
        payload=payload("payload", unhexed),
        body=firefly_body,
        meta=Meta(
            {
                "bandwidth": at("bandwidth", whole),
                "spreading_factor": at("spreading_factor", whole),
                "function_port": at("port", whole),
                "frame_count": at("frame_counter", whole),
                "adr_enabled": at("parsed_packet.adr", flag),
                "frequency": at("server_data.freq", real),
                "coding_rate": at("server_data.codr", text),
            },
            each("server_data.gwrx", heard("gweui", snr="lsnr")),
        ),
    ),
    Provider(
        name="liveObjects",
        paths=("/liveObjects",),
        is_uplink=member_is(f"{_LIVE}.messageType", "CONFIRMED_DATA_UP", "UNCONFIRMED_DATA_UP"),
        device=eui(f"{_LIVE}.devEUI"),
        payload=payload("value.payload", unhexed),
        accept=JSON,
        meta=Meta(
            {
                "function_port": at(f"{_LIVE}.port", whole),
                "frame_count": at(f"{_LIVE}.fcnt", whole),
                "frequency": at(f"{_LIVE}.frequency", real),
                "spreading_factor": at(f"{_LIVE}.sf", whole),
                "location": place(
                    f"{_LIVE}.location.lon", f"{_LIVE}.location.lat", f"{_LIVE}.location.alt"
                ),
            }
        ),
    ),
    Provider(
        name="loriot",
        paths=("/loriot",),
        is_uplink=member_is("cmd", "gw"),
        device=eui("EUI"),
        payload=payload("data", unhexed),
        body=loriot_body,
        accept="text/plain",
        meta=Meta(
            {
                "function_port": at("port", whole),
                "frame_count": at("fcnt", whole),
                "frequency": at("freq", divided(real, 1e6)),
                "spreading_factor": at("dr", rate(1, _LORIOT_RATE, is_strict=False)),
                "bandwidth": at("dr", rate(2, _LORIOT_RATE, is_strict=False)),
                "coding_rate": at("dr", rate(3, _LORIOT_RATE, is_strict=False)),
            },
            each("gws", heard("gweui", location=place("lon", "lat"))),
        ),
    ),
    Provider(
        name="objenious",
        paths=("/objenious",),
        is_uplink=member_is("type", "uplink"),
        device=eui("device_properties.deveui"),
        payload=payload("payload_cleartext", unhexed),
        meta=Meta(
            {
                "frame_count": at("count", whole),
                "location": place("lng", "lat"),
                "function_port": at("protocol_data.port", whole),
                "spreading_factor": at("protocol_data.sf", whole),
            },
            single("protocol_data", heard()),
        ),
    ),
    Provider(
        name="orbiwise",
        paths=("/orbiwise/*",),
        is_uplink=always,
        device=eui("deveui"),
        payload=payload("dataFrame", unhexed),
        meta=Meta(
            {
                "spreading_factor": at("sf_used", whole),
                "function_port": at("port", whole),
                "frame_count": at("fcnt", whole_text),
                "bandwidth": at("dr_used", _orbiwise_bandwidth),
                "frequency": at("freq", divided(real, 1e12)),
                "coding_rate": at("cr_used", text),
            },
            each("gtw_info", heard("gtw_id")),
        ),
    ),
    Provider(
        name="proximus",
        paths=("/proximus",),
        is_uplink=always,
        device=eui("DevEUI"),
        payload=payload("payload", unhexed),
        meta=Meta(
            {
                "adr_enabled": at("Adrbit", bit_text),
                "frame_count": at("Fcntup", whole_text),
                "function_port": at("FPort", whole_text),
                "spreading_factor": at("Spfact", whole_text),
                "location": place("longitude", "latitude", form=coordinate_text),
            },
            single("", {"rss": at("Lrrrssi", cut(real_text)), "snr": at("Lrrsnr", real_text)}),
        ),
    ),
)
