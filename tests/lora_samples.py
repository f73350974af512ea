"""What each kind of LoRaWAN network server pushes for one device, and what applications are to get of it.

All samples are of the device `A81758FFFE04C1D2` that sent the bytes `17 2a`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.json import Json, JsonObject

EUI = "A81758FFFE04C1D2"
DATA = b"\x17\x2a"


@dataclass(frozen=True)
class Sample:
    """A push, the meta data that comes of it (None for none), and one of the same kind that is no uplink."""

    path: str
    body: JsonObject
    meta: JsonObject | None
    other: JsonObject | None = None


def _thingpark(numbers_are_texts: bool) -> JsonObject:
    def number(value: float) -> Json:
        return str(value) if numbers_are_texts else value

    uplink: JsonObject = {
        "DevEUI": EUI.lower(),
        "FPort": number(12),
        "FCntUp": number(301),
        "payload_hex": "172A",
        "SpFact": number(9),
        "Channel": "LC1",
        "Lrrid": "20000042",
        "DevLON": number(13.4),
        "DevLAT": number(52.5),
        "DevAlt": number(34.5),
        "LrrLON": number(13.5),
        "LrrLAT": number(52.25),
        "Lrrs": {
            "Lrr": [
                {"Lrrid": "20000041", "LrrRSSI": number(-101.7), "LrrSNR": number(-2.5)},
                {"Lrrid": "20000042", "LrrRSSI": number(-64.0), "LrrSNR": number(8.25)},
                "noise",
            ]
        },
    }
    return {"DevEUI_uplink": {**uplink, "ADRbit": "1"} if numbers_are_texts else uplink}


_THINGPARK_META: JsonObject = {
    "function_port": 12,
    "frame_count": 301,
    "frequency": 868.1,
    "spreading_factor": 9,
    "location": {"longitude": 13.4, "latitude": 52.5, "altitude": 34.5},
    "gateways": [
        {"snr": -2.5, "rss": -101, "gateway_id": "20000041"},
        {
            "snr": 8.25,
            "rss": -64,
            "gateway_id": "20000042",
            "location": {"longitude": 13.5, "latitude": 52.25},
        },
    ],
}

SAMPLES: dict[str, Sample] = {
    "actilityEnterprise": Sample(
        "/actilityEnterprise", _thingpark(False), _THINGPARK_META, {"DevEUI_location": {}}
    ),
    "actilityWireless": Sample(
        "/actility", _thingpark(True), {**_THINGPARK_META, "adr_enabled": True}, {"x": 1}
    ),
    "chirpStack": Sample(
        "/chirpstack",
        {
            "devEUI": "qBdY//4EwdI=",
            "adr": False,
            "fCnt": 4_294_967_295,
            "fPort": 21,
            "data": "Fyo=",
            "rxInfo": [
                {
                    "gatewayID": "3q2+7wABAgM=",
                    "rssi": -93,
                    "loRaSNR": 4,
                    "channel": 6,
                    "location": {"latitude": 48.1, "longitude": 11.5, "altitude": 520},
                }
            ],
            "txInfo": {
                "frequency": 867_900_000,
                "loRaModulationInfo": {"bandwidth": 250, "spreadingFactor": 8, "codeRate": "4/6"},
            },
        },
        {
            "bandwidth": 250,
            "function_port": 21,
            "frame_count": 4_294_967_295,
            "frequency": 867.9,
            "coding_rate": "4/6",
            "adr_enabled": False,
            "spreading_factor": 8,
            "gateways": [
                {
                    "snr": 4.0,
                    "rss": -93,
                    "gateway_id": "DEADBEEF00010203",
                    "channel": 6,
                    "location": {"longitude": 11.5, "latitude": 48.1, "altitude": 520.0},
                }
            ],
        },
        {"devEUI": "qBdY//4EwdI=", "devAddr": "AAECAw=="},
    ),
    "chirpStackV4": Sample(
        "/chirpstackV4",
        {
            "deviceInfo": {"devEui": EUI.lower(), "tenantName": "plant"},
            "adr": True,
            "fCnt": 77,
            "fPort": 5,
            "data": "Fyo=",
            "rxInfo": [{"gatewayId": "deadbeef00010203", "rssi": -51, "snr": 11.2}],
            "txInfo": {
                "frequency": 868_300_000,
                "modulation": {
                    "lora": {"bandwidth": 125, "spreadingFactor": 12, "codeRate": "CR_4_7"}
                },
            },
        },
        {
            "bandwidth": 125,
            "function_port": 5,
            "frame_count": 77,
            "frequency": 868.3,
            "coding_rate": "4/7",
            "adr_enabled": True,
            "spreading_factor": 12,
            "gateways": [{"snr": 11.2, "rss": -51, "gateway_id": "deadbeef00010203"}],
        },
        {"deviceInfo": {"devEui": EUI}, "batteryLevel": 80},
    ),
    "everynet": Sample(
        "/everynet",
        {
            "type": "uplink",
            "meta": {"device": EUI.lower(), "gateway": "deadbeef00010203"},
            "params": {
                "payload": "Fyo=",
                "port": 3,
                "counter_up": 19,
                "radio": {
                    "freq": 867.1,
                    "modulation": {"bandwidth": 125_000, "spreading": 10, "coderate": "4/5"},
                    "hardware": {
                        "channel": 2,
                        "rssi": -88.0,
                        "snr": 7.5,
                        "gps": {"lat": 60.1, "lng": 24.9, "alt": 15},
                    },
                },
            },
        },
        {
            "bandwidth": 125,
            "function_port": 3,
            "frame_count": 19,
            "frequency": 867.1,
            "coding_rate": "4/5",
            "spreading_factor": 10,
            "gateways": [
                {
                    "snr": 7.5,
                    "rss": -88,
                    "channel": 2,
                    "location": {"longitude": 24.9, "latitude": 60.1, "altitude": 15.0},
                }
            ],
        },
        {"type": "status", "meta": {"device": EUI}},
    ),
    "firefly": Sample(
        "/firefly",
        {
            "device": {"eui": EUI},
            "payload": "172a",
            "port": 9,
            "frame_counter": 512,
            "bandwidth": 125,
            "spreading_factor": 11,
            "parsed_packet": {"adr": True},
            "server_data": {
                "mtype": "unconfirmed_data_up",
                "freq": 868.5,
                "codr": "4/8",
                "gwrx": [
                    {"gweui": "0A0A0A0A0A0A0A0A", "rssi": -70, "lsnr": 9.1},
                    {"gweui": "0B0B0B0B0B0B0B0B", "rssi": -115, "lsnr": -6.4},
                ],
            },
        },
        {
            "bandwidth": 125,
            "function_port": 9,
            "frame_count": 512,
            "frequency": 868.5,
            "coding_rate": "4/8",
            "adr_enabled": True,
            "spreading_factor": 11,
            "gateways": [
                {"snr": 9.1, "rss": -70, "gateway_id": "0A0A0A0A0A0A0A0A"},
                {"snr": -6.4, "rss": -115, "gateway_id": "0B0B0B0B0B0B0B0B"},
            ],
        },
        {"server_data": {"mtype": "join_request"}, "device": {"eui": EUI}},
    ),
    "kerlink": Sample(
        "/kerlink/dataUp",
        {
            "endDevice": {"devEui": EUI, "latitude": 47.2, "longitude": -1.5},
            "fPort": 4,
            "fCntUp": 1_000,
            "adr": False,
            "payload": "172A",
            "encodingType": "HEXA",
            "ulFrequency": 868.1,
            "dataRate": "SF10BW125",
            "codingRate": "4/5",
            "gwInfo": [
                {
                    "gwEui": "7076FF0056030A0B",
                    "rssi": -99,
                    "snr": 1.5,
                    "channel": 7,
                    "latitude": 47.3,
                    "longitude": -1.6,
                }
            ],
        },
        {
            "bandwidth": 125,
            "function_port": 4,
            "frame_count": 1_000,
            "frequency": 868.1,
            "coding_rate": "4/5",
            "adr_enabled": False,
            "spreading_factor": 10,
            "location": {"longitude": -1.5, "latitude": 47.2},
            "gateways": [
                {
                    "snr": 1.5,
                    "rss": -99,
                    "gateway_id": "7076FF0056030A0B",
                    "channel": 7,
                    "location": {"longitude": -1.6, "latitude": 47.3},
                }
            ],
        },
    ),
    "kerlink-custom-content-type": Sample(
        "/kerlink/rxmessage", {"devEui": EUI, "userdata": {"payload": "Fyo="}}, None
    ),
    "liveObjects": Sample(
        "/liveObjects",
        {
            "metadata": {
                "network": {
                    "lora": {
                        "devEUI": EUI,
                        "messageType": "CONFIRMED_DATA_UP",
                        "port": 6,
                        "fcnt": 42,
                        "frequency": 867.3,
                        "sf": 7,
                        "location": {"lon": 2.3, "lat": 48.8, "alt": None},
                    }
                }
            },
            "value": {"payload": "172a"},
        },
        {
            "function_port": 6,
            "frame_count": 42,
            "frequency": 867.3,
            "spreading_factor": 7,
            "location": {"longitude": 2.3, "latitude": 48.8},
        },
        {"metadata": {"network": {"lora": {"devEUI": EUI, "messageType": "JOIN_REQUEST"}}}},
    ),
    "loriot": Sample(
        "/loriot",
        {
            "cmd": "gw",
            "EUI": EUI,
            "fcnt": 88,
            "port": 10,
            "freq": 868_500_000,
            "dr": "SF9 BW125 4/5",
            "data": "172a",
            "gws": [{"gweui": "B827EBFFFE000001", "rssi": -120, "snr": -10.5, "lat": 1, "lon": 2}],
        },
        {
            "bandwidth": 125,
            "function_port": 10,
            "frame_count": 88,
            "frequency": 868.5,
            "coding_rate": "4/5",
            "spreading_factor": 9,
            "gateways": [
                {
                    "snr": -10.5,
                    "rss": -120,
                    "gateway_id": "B827EBFFFE000001",
                    "location": {"longitude": 2.0, "latitude": 1.0},
                }
            ],
        },
        {"cmd": "rx", "EUI": EUI, "data": "172a"},
    ),
    "multiTech": Sample(
        "/multitech",
        {
            "deveui": "a8-17-58-ff-fe-04-c1-d2",
            "data": "Fyo=",
            "port": 15,
            "fcnt": 3,
            "adr": True,
            "freq": 868.3,
            "datr": "SF8BW250",
            "codr": "4/5",
            "gweui": "00-80-00-00-d0-00-01-ff",
            "rssi": -44,
            "lsnr": 10,
            "chan": 1,
        },
        {
            "bandwidth": 250,
            "function_port": 15,
            "frame_count": 3,
            "frequency": 868.3,
            "coding_rate": "4/5",
            "adr_enabled": True,
            "spreading_factor": 8,
            "gateways": [{"snr": 10.0, "rss": -44, "gateway_id": "00800000d00001ff", "channel": 1}],
        },
        {"deveui": "a8-17-58-ff-fe-04-c1-d2", "remote_join": True},
    ),
    "objenious": Sample(
        "/objenious",
        {
            "type": "uplink",
            "count": 5,
            "payload_cleartext": "172a",
            "device_properties": {"deveui": EUI},
            "protocol_data": {"port": 8, "rssi": -97, "sf": 12, "snr": -3},
            "lat": 45.7,
            "lng": 4.8,
        },
        {
            "function_port": 8,
            "frame_count": 5,
            "spreading_factor": 12,
            "location": {"longitude": 4.8, "latitude": 45.7},
            "gateways": [{"snr": -3.0, "rss": -97}],
        },
        {"type": "downlink", "device_properties": {"deveui": EUI}},
    ),
    "orbiwise": Sample(
        "/orbiwise/rest/callback/payloads/ul",
        {
            "deveui": EUI,
            "dataFrame": "172a",
            "port": 2,
            "fcnt": "64",
            "freq": 868_100_000_000_000,
            "dr_used": "SF7BW125",
            "sf_used": 7,
            "cr_used": "4/5",
            "gtw_info": [{"gtw_id": "30000001", "rssi": -75, "snr": 5.75}],
        },
        {
            "bandwidth": 125,
            "function_port": 2,
            "frame_count": 64,
            "frequency": 868.1,
            "coding_rate": "4/5",
            "spreading_factor": 7,
            "gateways": [{"snr": 5.75, "rss": -75, "gateway_id": "30000001"}],
        },
    ),
    "proximus": Sample(
        "/proximus",
        {
            "DevEUI": EUI,
            "FPort": "7",
            "Fcntup": "230",
            "Adrbit": "0",
            "Spfact": "10",
            "Lrrrssi": "-58.500000",
            "Lrrsnr": "6.250000",
            "latitude": "",
            "longitude": "",
            "payload": "172a",
        },
        {
            "function_port": 7,
            "frame_count": 230,
            "adr_enabled": False,
            "spreading_factor": 10,
            "gateways": [{"snr": 6.25, "rss": -58}],
        },
    ),
    "theThingsStack": Sample(
        "/thethingsstack",
        {
            "end_device_ids": {"device_id": "meter-1", "dev_eui": EUI},
            "uplink_message": {
                "f_cnt": 14,
                "f_port": 1,
                "frm_payload": "Fyo=",
                "rx_metadata": [
                    {"gateway_ids": {"gateway_id": "roof"}, "rssi": -1},
                    {
                        "gateway_ids": {"gateway_id": "mast", "eui": "58A0CBFFFE800001"},
                        "rssi": -66,
                        "snr": 8,
                    },
                ],
                "settings": {
                    "data_rate": {"lora": {"bandwidth": 125_000, "spreading_factor": 7}},
                    "coding_rate": "4/5",
                    "frequency": "867500000",
                },
                "locations": {"user": {"latitude": 52.0, "longitude": 4.3, "altitude": 2}},
            },
        },
        {
            "bandwidth": 125,
            "function_port": 1,
            "frame_count": 14,
            "frequency": 867.5,
            "coding_rate": "4/5",
            "spreading_factor": 7,
            "location": {"longitude": 4.3, "latitude": 52.0, "altitude": 2.0},
            "gateways": [{"snr": 8.0, "rss": -66, "gateway_id": "58A0CBFFFE800001"}],
        },
        {"end_device_ids": {"dev_eui": EUI}, "join_accept": {}},
    ),
    "ttn": Sample(
        "/ttn",
        {
            "hardware_serial": EUI,
            "port": 1,
            "counter": 2,
            "payload_raw": "Fyo=",
            "metadata": {
                "frequency": 868.3,
                "data_rate": "SF11BW125",
                "coding_rate": "4/5",
                "gateways": [
                    {
                        "gtw_id": "eui-58a0cbfffe800001",
                        "channel": 4,
                        "rssi": -109,
                        "snr": -1.25,
                        "latitude": 52.0,
                        "longitude": 4.3,
                        "altitude": 12,
                    }
                ],
            },
        },
        {
            "bandwidth": 125,
            "function_port": 1,
            "frame_count": 2,
            "frequency": 868.3,
            "coding_rate": "4/5",
            "spreading_factor": 11,
            "gateways": [
                {
                    "snr": -1.25,
                    "rss": -109,
                    "gateway_id": "eui-58a0cbfffe800001",
                    "channel": 4,
                    "location": {"longitude": 4.3, "latitude": 52.0, "altitude": 12.0},
                }
            ],
        },
    ),
}
