"""Joining over HTTPS and being let in at the hub: tokens, certificates, names, revocation."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from cloud.certificates import issue, make_ca
from cloud.issuing import BURST
from cloud.restrictions import CERTIFICATE
from cloud.tokens import ca_hash, make_token
from gateway.errors import Conflict, NotFound, StoreUnavailable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import EDGE_LABEL, NODE_ID
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
    trust,
)
from tests.cloud_samples import a_node, a_request


async def refused_at_the_hub(
    cloud: CloudCore, certificate: Certificate, node_id: str
) -> tuple[int, str | None]:
    """Try to connect; return status and named reason."""
    context = certificate.context(await fetch_ca(cloud))
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(cloud.wss, headers={NODE_ID: node_id}, ssl=context)
    headers = caught.value.headers
    return caught.value.status, headers.get("twinspan-refusal") if headers else None


async def node_is_gone(cloud: CloudCore, name: str) -> bool:
    try:
        await cloud.kube.get("v1", "nodes", None, name)
    except NotFound:
        return True
    return False


async def test_the_ca_that_is_handed_out_is_the_one_in_the_token(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        token = await cloud.token()
        assert token.partition(".")[0] == ca_hash(await fetch_ca(cloud))
        secret = await cloud.kube.get("v1", "secrets", "kubeedge", "tokensecret")
        assert secret["type"] == "Opaque"


async def test_keys_survive_a_restart(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        before = await fetch_ca(cloud)
        certificate = await join(cloud, "edge-1")
    async with a_cloud(tmp_path) as cloud:
        assert await fetch_ca(cloud) == before
        async with an_edge(cloud, "edge-1", certificate) as edge:
            assert (await edge.register()).parent_id


async def test_a_wrong_expired_foreign_or_missing_token_gets_no_certificate(tmp_path: Path) -> None:
    foreign = make_ca(datetime.now(UTC))
    async with a_cloud(tmp_path) as cloud:
        _, csr = a_request("edge-1")
        wrong = make_token(foreign.certificate, foreign.key, expires=4_102_444_800)
        expired = await cloud.token(ttl=-10.0)
        bound = await cloud.token(node="edge-2")
        found = [
            await ask_certificate(cloud, "edge-1", csr, token=token)
            for token in ("", "a.b.c.d", wrong, expired, bound)
        ]
    assert [(answer.status, answer.refusal) for answer in found] == [
        (401, "bad-token"),
        (401, "bad-token"),
        (401, "bad-token"),
        (401, "token-expired"),
        (403, "token-for-other-node"),
    ]
    assert b"expired" in found[3].body


async def test_a_bad_request_gets_no_certificate(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        token = await cloud.token()
        _, other = a_request("edge-2")
        for node, csr, status in (
            ("edge-1", other, 400),
            ("edge-1", b"nonsense", 400),
            ("edge-1", b"", 400),
            ("edge-1", b"x" * 70_000, 413),
            ("x" * 53, other, 400),
            ("Not_A_Node", other, 400),
            ("", other, 400),
        ):
            answer = await ask_certificate(cloud, node, csr, token=token)
            assert answer.status == status, (node, answer)
        answer = await ask_certificate(cloud, "edge-2", other, token=token, ExtKeyUsages="[9]")
        assert answer.status == 400
        answer = await ask_certificate(cloud, "edge-2", other, token=token, ExtKeyUsages="[2]")
        assert answer.status == 200


async def test_the_name_of_a_ready_node_is_taken_unless_it_is_replaced(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        old = await join(cloud, "edge-1")
        await make_ready_node(cloud, "edge-1")
        _, csr = a_request("edge-1")
        answer = await ask_certificate(cloud, "edge-1", csr, token=await cloud.token())
        assert (answer.status, answer.refusal) == (409, "node-exists")
        with pytest.raises(Conflict, match="exists and is Ready"):
            await cloud.token(node="edge-1")
        async with an_edge(cloud, "edge-1", old) as edge:
            await edge.register()
            new = await join(cloud, "edge-1", node="edge-1", replace=True)
            await edge.closed()
        assert await refused_at_the_hub(cloud, old, "edge-1") == (403, "revoked")
        async with an_edge(cloud, "edge-1", new) as edge:
            assert (await edge.register()).parent_id


async def test_a_certificate_is_renewed_with_the_old_one_and_for_the_same_name_only(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        old = await join(cloud, "edge-1")
        key, csr = a_request("edge-1")
        answer = await ask_certificate(cloud, "edge-1", csr, certificate=old)
        assert answer.status == 200
        new = save(cloud.data_dir, "edge-1", key, answer.body)
        async with an_edge(cloud, "edge-1", new) as edge:
            assert (await edge.register()).parent_id
        _, other = a_request("edge-2")
        answer = await ask_certificate(cloud, "edge-2", other, certificate=old)
        assert (answer.status, answer.refusal) == (403, "node-mismatch")


async def test_a_full_disk_gives_no_certificate_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_cloud(tmp_path) as cloud:
        _, csr = a_request("edge-1")
        token = await cloud.token()
        with monkeypatch.context() as broken:
            broken.setattr(cloud.gateway.database, "write", no_room)
            answer = await ask_certificate(cloud, "edge-1", csr, token=token)
        assert (answer.status, answer.body) == (503, b"database or disk is full")
        assert (await ask_certificate(cloud, "edge-1", csr, token=token)).status == 200


async def no_room(_: object) -> None:
    raise StoreUnavailable("database or disk is full")


async def test_who_asks_for_a_node_is_told_whether_it_exists(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud, aiohttp.ClientSession() as http:
        context = trust(await fetch_ca(cloud))
        await cloud.kube.create("v1", "nodes", None, a_node("edge-1"))
        for name, status, text in (
            ("edge-1", 200, "Node found"),
            ("edge-2", 404, "Node not found"),
            ("Not_A_Node", 400, "node name"),
        ):
            async with http.get(f"{cloud.https}/node/{name}", ssl=context) as answer:
                assert answer.status == status
                assert text in await answer.text()


async def test_a_node_may_not_come_under_another_name(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        assert await refused_at_the_hub(cloud, certificate, "edge-2") == (403, "node-mismatch")
        assert await refused_at_the_hub(cloud, certificate, "") == (403, "node-mismatch")
        assert cloud.sample("twinspan_cloudhub_refused_total", reason="node-mismatch") == 2


async def test_without_a_certificate_or_with_a_foreign_one_tls_ends(tmp_path: Path) -> None:
    stranger = make_ca(datetime.now(UTC))
    key, csr = a_request("edge-1")
    issued = issue(stranger, csr, "edge-1", [], datetime.now(UTC), 1)
    foreign = save(tmp_path, "edge-1", key, issued.der)
    async with a_cloud(tmp_path) as cloud, aiohttp.ClientSession() as http:
        ca = await fetch_ca(cloud)
        for context in (trust(ca), foreign.context(ca)):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await http.ws_connect(cloud.wss, headers={NODE_ID: "edge-1"}, ssl=context)
        answer = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", answer) as edge:
            assert (await edge.register()).parent_id


async def test_a_request_that_is_no_upgrade_is_told_so(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud, aiohttp.ClientSession() as http:
        certificate = await join(cloud, "edge-1")
        context = certificate.context(await fetch_ca(cloud))
        url = cloud.wss.replace("wss://", "https://")
        async with http.get(url, headers={NODE_ID: "edge-1"}, ssl=context) as answer:
            assert answer.status == 426


async def test_deleting_a_node_ends_its_session_and_revokes_its_certificate(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await cloud.kube.delete("v1", "nodes", None, "edge-1")
            ended = await edge.object("null/node/edge-1", "delete")
            assert bytes(ended.content) == b"null"
            await edge.closed()
        assert await refused_at_the_hub(cloud, certificate, "edge-1") == (403, "revoked")
        _, csr = a_request("edge-1")
        answer = await ask_certificate(cloud, "edge-1", csr, certificate=certificate)
        assert (answer.status, answer.refusal) == (403, "revoked")
        fresh = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", fresh) as edge:
            assert (await edge.register()).parent_id


@pytest.mark.parametrize("is_made_again", [False, True])
async def test_a_node_deleted_while_nobody_watched_is_revoked_at_the_next_start(
    tmp_path: Path, is_made_again: bool
) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()

            async def is_known() -> bool:
                return await cloud.gateway.database.read(
                    lambda c: bool(c.execute("SELECT registered FROM edge_node").fetchone())
                )

            await eventually(is_known)
    async with a_cloud(tmp_path, cloudcore=False) as cloud:
        await cloud.kube.delete("v1", "nodes", None, "edge-1")
        assert await node_is_gone(cloud, "edge-1")
        if is_made_again:
            await cloud.kube.create("v1", "nodes", None, made_again())
    async with a_cloud(tmp_path) as cloud:
        assert await refused_at_the_hub(cloud, certificate, "edge-1") == (403, "revoked")
    async with a_cloud(tmp_path) as cloud:
        fresh = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", fresh) as edge:
            assert (await edge.register()).parent_id
    async with a_cloud(tmp_path) as cloud, an_edge(cloud, "edge-1", fresh):
        assert await refused_at_the_hub(cloud, certificate, "edge-1") == (403, "revoked")


def made_again(serial: str = "") -> JsonObject:
    """A Node of the same name that is not Ready; `serial` as another CloudCore notes it."""
    return {
        "metadata": {
            "name": "edge-1",
            "labels": {EDGE_LABEL: ""},
            "annotations": {CERTIFICATE: serial},
        }
    }


async def test_what_another_cloudcore_issued_to_the_node_made_again_counts(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate, other = await join(cloud, "edge-1"), await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", other) as edge:
            await edge.register()
        node = await cloud.object("v1", "nodes", None, "edge-1")
        serial = node["metadata"]["annotations"][CERTIFICATE]
        await cloud.gateway.database.write(
            lambda c: c.execute("DELETE FROM node_certificate WHERE serial = ?", (serial,))
        )
    async with a_cloud(tmp_path, cloudcore=False) as cloud:
        await cloud.kube.delete("v1", "nodes", None, "edge-1")
        assert await node_is_gone(cloud, "edge-1")
        await cloud.kube.create("v1", "nodes", None, made_again(serial))
    async with a_cloud(tmp_path) as cloud, an_edge(cloud, "edge-1", other) as edge:
        assert (await edge.register()).parent_id
        assert await refused_at_the_hub(cloud, certificate, "edge-1") == (403, "revoked")


async def test_with_kubeedges_behaviour_a_deleted_node_comes_back(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, node_deletion_revokes=False) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await cloud.kube.delete("v1", "nodes", None, "edge-1")
            await edge.closed()
        async with an_edge(cloud, "edge-1", certificate) as edge:
            assert (await edge.register()).parent_id


async def test_a_certificate_that_asks_on_and_on_is_told_to_wait(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        mine = await join(cloud, "edge-1")
        _, csr = a_request("edge-1")
        answers = [
            await ask_certificate(cloud, "edge-1", csr, certificate=mine) for _ in range(BURST)
        ]
        assert [answer.status for answer in answers] == [200] * (BURST - 1) + [429]
        assert answers[-1].refusal == "too-often"
        assert b"ask again in" in answers[-1].body
        assert (await ask_certificate(cloud, "edge-1", csr)).status == 401
        await join(cloud, "edge-2")
