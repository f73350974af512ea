"""Sample objects for tests of CloudCore: a model, a Device, a Node, a certificate request."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.model.json import Json, JsonObject

DEVICES = "devices.kubeedge.io/v1beta1"


def a_model(name: str = "lamp-model", **spec: Any) -> JsonObject:
    return {
        "apiVersion": DEVICES,
        "kind": "DeviceModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "properties": [
                {"name": "on", "type": "BOOLEAN", "accessMode": "ReadWrite"},
                {
                    "name": "level",
                    "type": "INT",
                    "accessMode": "ReadWrite",
                    "minimum": "0",
                    "maximum": "100",
                },
                {"name": "temp", "type": "FLOAT", "accessMode": "ReadOnly"},
            ],
            **spec,
        },
    }


def a_device(
    name: str = "lamp",
    node: str = "edge-1",
    *,
    annotations: JsonObject | None = None,
    **desired: str,
) -> JsonObject:
    properties: list[Json] = []
    for prop in ("on", "level", "temp"):
        entry: JsonObject = {
            "name": prop,
            "visitors": {"protocolName": "virtual", "configData": {}},
        }
        if prop in desired:
            entry["desired"] = {"value": desired[prop]}
        properties.append(entry)
    return {
        "apiVersion": DEVICES,
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
        "spec": {
            "deviceModelRef": {"name": "lamp-model"},
            "nodeName": node,
            "protocol": {"protocolName": "virtual"},
            "properties": properties,
        },
    }


def a_node(name: str = "edge-1", **labels: str) -> JsonObject:
    return {
        "metadata": {
            "name": name,
            "labels": {"node-role.kubernetes.io/edge": "", **labels},
        },
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "EdgeReady"}]},
    }


def a_request(node: str, **subject: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A key and its certificate request, as an edge makes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(
                NameOID.ORGANIZATION_NAME, subject.get("organisation", "system:nodes")
            ),
            x509.NameAttribute(NameOID.COMMON_NAME, subject.get("common", f"system:node:{node}")),
        ]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return key, csr.public_bytes(serialization.Encoding.DER)
