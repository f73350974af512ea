"""Certificates that others made, by openssl and curl: the operator's files, edges' without a name."""

from __future__ import annotations

import asyncio
import base64
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.certfiles import read_ca, read_server
from cloud.certificates import make_ca
from gateway.config.cloud import CloudHub
from gateway.errors import InvalidSetting
from gateway.model.json import JsonObject
from tests.cloud_rig import (
    Certificate,
    CloudCore,
    a_cloud,
    an_edge,
    ask_certificate,
    eventually,
    fetch_ca,
    join,
    make_ready_node,
    save,
)
from tests.cloud_samples import a_node, a_request
from tests.process import ANY_PORT, tool

SERVER = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1,DNS:cloud.example.org"


def content(path: str) -> bytes:
    return Path(path).read_bytes()


async def ran(program: str, *arguments: str) -> tuple[int, bytes, str]:
    process = await asyncio.create_subprocess_exec(
        tool(program),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out, err.decode()


async def openssl(*arguments: str) -> bytes:
    code, out, err = await ran("openssl", *arguments)
    assert code == 0, err
    return out


async def a_key(folder: Path, name: str, *options: str) -> str:
    path = str(folder / f"{name}.key")
    kind = options or ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    await openssl("genpkey", *kind, "-out", path)
    return path


async def an_own_ca(folder: Path, name: str = "ca", days: str = "30") -> tuple[str, str]:
    """Paths of a CA's certificate and key, as an operator makes them."""
    key, certificate = await a_key(folder, name), str(folder / f"{name}.crt")
    subject = ("-subj", "/CN=Plant CA", "-days", days, "-key", key, "-out", certificate)
    usage = ("-addext", "keyUsage=critical,keyCertSign,digitalSignature")
    named = ("-addext", "subjectKeyIdentifier=01:02:03:04")  # not the usual hash of the key
    alone = ("-addext", "authorityKeyIdentifier=none")
    await openssl("req", "-x509", "-new", *subject, *usage, *named, *alone)
    return certificate, key


async def issued_by(
    ca: tuple[str, str], folder: Path, name: str, subject: str, *extensions: str
) -> tuple[str, str]:
    """Paths of a certificate that a CA issued, and its key."""
    key, request, certificate = (
        await a_key(folder, name),
        str(folder / f"{name}.csr"),
        str(folder / f"{name}.crt"),
    )
    config = folder / f"{name}.cnf"
    config.write_text("\n".join(extensions))
    await openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
    by = ("-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial", "-days", "30", "-extfile", str(config))
    await openssl("x509", "-req", "-in", request, *by, "-out", certificate)
    return certificate, key


def files(ca: tuple[str, str], server: tuple[str, str] = ("", "")) -> dict[str, Any]:
    return {
        "ca_file": ca[0],
        "ca_key_file": ca[1],
        "cert_file": server[0],
        "key_file": server[1],
    }


async def secret(cloud: CloudCore, name: str) -> dict[str, bytes]:
    found: Any = await cloud.kube.get("v1", "secrets", "kubeedge", name)
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


async def test_files_go_before_the_secrets_and_into_them(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "c") as cloud:
        before = await fetch_ca(cloud)
        joined = await join(cloud, "edge-1")
    ca = await an_own_ca(tmp_path)
    server = await issued_by(ca, tmp_path, "server", "/CN=cloud", SERVER)
    async with a_cloud(tmp_path / "c", **files(ca, server)) as cloud:
        der = await openssl("x509", "-in", ca[0], "-outform", "DER")
        assert await fetch_ca(cloud) == der != before
        kept = await secret(cloud, "casecret")
        assert kept["cadata"] == der
        key = tmp_path / "kept.der"
        key.write_bytes(kept["cakeydata"])
        shown = await openssl("ec", "-inform", "DER", "-in", str(key))
        assert b"BEGIN EC PRIVATE KEY" in shown
        kept = await secret(cloud, "cloudcoresecret")
        assert kept["cloudcoredata"] == await openssl("x509", "-in", server[0], "-outform", "DER")
        code, out, err = await ran("curl", "-sS", "--cacert", ca[0], f"{cloud.https}/ca.crt")
        assert (code, out) == (0, der), err
        async with an_edge(cloud, "edge-2", await join(cloud, "edge-2")) as edge:
            assert (await edge.register()).parent_id
        answer = await ran("curl", "-sS", "-k", "--cert", str(joined.path), f"{cloud.https}/ca.crt")
        assert answer[0] != 0  # of the CA that was
    async with a_cloud(tmp_path / "c") as cloud:  # without the files the secrets go on
        assert await fetch_ca(cloud) == der


async def test_what_edges_would_refuse_later_is_refused_at_the_start(tmp_path: Path) -> None:
    ca, other = await an_own_ca(tmp_path), await an_own_ca(tmp_path, "other")
    server = await issued_by(ca, tmp_path, "server", "/CN=cloud", SERVER)
    client = await issued_by(ca, tmp_path, "client", "/CN=c", "extendedKeyUsage=clientAuth")
    below = await issued_by(ca, tmp_path, "below", "/CN=b", "basicConstraints=CA:TRUE")
    rsa = await a_key(tmp_path, "rsa", "-algorithm", "RSA")
    locked = str(tmp_path / "locked.key")
    await openssl("ec", "-in", ca[1], "-aes256", "-passout", "pass:x", "-out", locked)
    bundle, text = tmp_path / "bundle.crt", tmp_path / "text"
    bundle.write_bytes(content(ca[0]) * 2)
    text.write_text("hello")
    gone = str(tmp_path / "gone")
    for given, why in (
        ({"ca_file": ca[0]}, f"cloud.hub.ca_key_file: needed with {ca[0]}"),
        ({"key_file": server[1]}, f"cloud.hub.cert_file: needed with {server[1]}"),
        (files((gone, ca[1])), f"cloud.hub.ca_file: {gone}: No such file"),
        (files((str(tmp_path), ca[1])), "cloud.hub.ca_file: .*: Is a directory"),
        (files((str(text), ca[1])), "cloud.hub.ca_file: .*text: "),
        (files((str(bundle), ca[1])), "expected one certificate, got 2"),
        (files((ca[0], str(text))), "cloud.hub.ca_key_file: .*text: "),
        (files((ca[0], rsa)), "cloud.hub.ca_key_file: .*: expected an EC key"),
        (files((ca[0], locked)), "cloud.hub.ca_key_file: .*: Password"),
        (files((ca[0], other[1])), f"cloud.hub.ca_key_file: {other[1]}: not the key of {ca[0]}"),
        (files(server), f"cloud.hub.ca_file: {server[0]}: not the certificate of a CA"),
        (files(below), f"cloud.hub.ca_file: {below[0]}: not self-signed"),
        (files(ca, client), "cloud.hub.cert_file: .*: not for servers"),
        (files(other, server), "cloud.hub.cert_file: .*: not issued by the CA"),
    ):
        with pytest.raises(InvalidSetting, match=why if "*" in why else re.escape(why)):
            load(CloudHub(**given))
    with pytest.raises(InvalidSetting, match=r"does not name 10\.0\.0\.1 "):
        load(CloudHub(**files(ca, server)), "cloud.example.org", "10.0.0.1")
    load(CloudHub(**files(ca, server)), "cloud.example.org", "127.0.0.1")
    with pytest.raises(InvalidSetting, match=r"cloud.hub.ca_file: .*: not valid now"):
        read_ca(CloudHub(**files(ca)), datetime.now(UTC) + timedelta(days=40))


async def twinspan(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode is not None
    return process.returncode, said


async def test_the_command_ends_with_one_line_that_names_the_setting(tmp_path: Path) -> None:
    ca = await an_own_ca(tmp_path)
    ports = [argument for port in ANY_PORT for argument in ("--set", port)]
    bad = ("--set", f"cloud.hub.ca_file={ca[0]}", "--set", "cloud.hub.ca_key_file=/no/such")
    where = ("--data-dir", str(tmp_path / "c"))
    code, said = await twinspan("cloud", *where, *ports, *bad)
    assert code == 2, said
    why = "cloud.hub.ca_key_file: /no/such: No such file or directory"
    assert said.count(why) == 1
    assert "Traceback" not in said
    _, said = await twinspan("doctor", *where, *ports, *bad)
    assert f"fail  cloud certificates: {why}  -> name files that fit, or none" in said
    good = ("--set", f"cloud.hub.ca_file={ca[0]}", "--set", f"cloud.hub.ca_key_file={ca[1]}")
    _, said = await twinspan("doctor", *where, *ports, *good)
    assert f"ok    cloud certificates: {ca[0]}" in said


def load(hub: CloudHub, *hosts: str) -> None:
    now = datetime.now(UTC)
    read_server(hub, read_ca(hub, now) or make_ca(now), hosts, now)


# --- edges' certificates of the time before names -----------------------------------------------------


async def old_edge(ca: tuple[str, str], folder: Path, name: str) -> Path:
    """A certificate and key in one file, of the subject that all edges had once."""
    certificate, key = await issued_by(
        ca, folder, name, "/O=KubeEdge/CN=kubeedge.io", "extendedKeyUsage=clientAuth"
    )
    path = folder / f"{name}.pem"
    path.write_bytes(content(key) + content(certificate))
    return path


async def renewed(cloud: CloudCore, ca: str, old: Path, node: str) -> tuple[int, str]:
    """Ask by curl for a certificate of `node`; return status and reason."""
    _, csr = a_request(node)
    request = old.parent / f"{node}.request"
    request.write_bytes(csr)
    arguments = ("--cacert", ca, "--cert", str(old), "-X", "GET", "--data-binary", f"@{request}")
    show = ("-o", str(old.parent / "answer"), "-w", "%{http_code} %header{twinspan-refusal}")
    _, out, err = await ran(
        "curl", "-sS", *arguments, *show, "-H", f"NodeName: {node}", f"{cloud.https}/edge.crt"
    )
    status, _, why = out.decode().partition(" ")
    assert status.isdigit(), err
    return int(status), why.strip()


async def test_a_certificate_without_a_name_is_renewed_for_one_old_node(tmp_path: Path) -> None:
    ca = await an_own_ca(tmp_path)
    async with a_cloud(tmp_path / "c", **files(ca)) as cloud:
        old = await old_edge(ca, tmp_path, "old")
        assert await renewed(cloud, ca[0], old, "edge-1") == (403, "no-certificate")  # no such Node
        await cloud.kube.create("v1", "nodes", None, {"metadata": {"name": "master"}})
        assert await renewed(cloud, ca[0], old, "master") == (403, "no-certificate")
        for name in ("edge-1", "edge-2", "edge-3"):
            await cloud.kube.create("v1", "nodes", None, an_away_node(name))
        await join(cloud, "edge-3")
        assert await renewed(cloud, ca[0], old, "edge-3") == (403, "no-certificate")
        await make_ready_node(cloud, "edge-4")
        assert await renewed(cloud, ca[0], old, "edge-4") == (409, "node-exists")

        assert await renewed(cloud, ca[0], old, "edge-1") == (200, "")
        shown = await openssl(
            "x509", "-inform", "DER", "-in", str(tmp_path / "answer"), "-noout", "-subject"
        )
        assert b"system:node:edge-1" in shown
        assert await renewed(cloud, ca[0], old, "edge-1") == (200, "")  # the answer may be lost
        assert await renewed(cloud, ca[0], old, "edge-2") == (403, "node-mismatch")
        foreign = await old_edge(await an_own_ca(tmp_path, "other"), tmp_path, "foreign")
        code, _, _ = await ran(
            "curl", "-sS", "--cacert", ca[0], "--cert", str(foreign), f"{cloud.https}/ca.crt"
        )
        assert code != 0  # TLS ends before anybody is asked
    async with a_cloud(tmp_path / "c", **files(ca)) as cloud:  # what is bound stays bound
        assert await renewed(cloud, ca[0], old, "edge-2") == (403, "node-mismatch")
        await delete_node(cloud, "edge-1")
        assert await renewed(cloud, ca[0], old, "edge-1") == (403, "revoked")


def an_away_node(name: str) -> JsonObject:
    """A Node that an edge registered and does not report on any more."""
    return {key: value for key, value in a_node(name).items() if key != "status"}


async def delete_node(cloud: CloudCore, name: str) -> None:
    async def is_registered() -> bool:
        rows = await cloud.gateway.database.read(
            lambda c: c.execute("SELECT node FROM edge_node WHERE registered = 1").fetchall()
        )
        return (name,) in rows

    async def is_revoked() -> bool:
        rows = await cloud.gateway.database.read(
            lambda c: c.execute(
                "SELECT node FROM edge_node WHERE revoked_at IS NOT NULL"
            ).fetchall()
        )
        return (name,) in rows

    await eventually(is_registered, "the node in the book")
    await cloud.kube.delete("v1", "nodes", None, name)
    await eventually(is_revoked, "the end of its certificates")


async def test_a_renewed_certificate_opens_the_hub_and_the_old_one_does_not(
    tmp_path: Path,
) -> None:
    ca = await an_own_ca(tmp_path)
    async with a_cloud(tmp_path / "c", **files(ca)) as cloud:
        await cloud.kube.create("v1", "nodes", None, an_away_node("edge-1"))
        old = await old_edge(ca, tmp_path, "old")
        key, csr = a_request("edge-1")
        answer = await ask_certificate(cloud, "edge-1", csr, certificate=Certificate(old))
        assert answer.status == 200
        new = save(cloud.data_dir, "edge-1", key, answer.body)
        async with an_edge(cloud, "edge-1", new) as edge:
            assert (await edge.register()).parent_id
            assert await renewed(cloud, ca[0], old, "edge-1") == (409, "node-exists")
