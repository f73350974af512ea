"""KubeEdge's admission webhook as an API server asks it, by curl with AdmissionReviews."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from gateway.config.cloud_services import AdmissionWebhook
from gateway.model.json import JsonObject
from tests.cloud_rig import FREE, CloudCore, a_cloud, fetch_ca
from tests.integration.test_cloud_certificates import openssl, ran

ON = AdmissionWebhook(enabled=True, bind=FREE)
TWICE: JsonObject = {
    "metadata": {"name": "d", "namespace": "default"},
    "spec": {"nodeName": "e", "properties": [{"name": "a"}, {"name": "a"}]},
}
ONCE: JsonObject = {
    "metadata": {"name": "d", "namespace": "default"},
    "spec": {"nodeName": "e", "deviceModelRef": {"name": "m"}, "properties": [{"name": "a"}]},
}


def a_review(item: JsonObject | None, old: JsonObject | None = None, **more: Any) -> JsonObject:
    request = {
        "uid": "u-1",
        "operation": "UPDATE" if old else "CREATE",
        "object": item,
        "oldObject": old,
        **more,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


async def posted(cloud: CloudCore, path: str, body: str, folder: Path) -> tuple[int, str]:
    der, ca = folder / "ca.der", folder / "ca.pem"
    der.write_bytes(await fetch_ca(cloud))
    await openssl("x509", "-inform", "DER", "-in", str(der), "-out", str(ca))
    data = folder / "review.json"
    data.write_text(body)
    url = f"https://localhost:{cloud.process.endpoints.port('admission.https')}{path}"
    _, out, err = await ran(
        *("curl", "-sS", "--cacert", str(ca), "-H", "Content-Type: application/json"),
        *("--data-binary", f"@{data}", "-w", "\n%{http_code}", url),
    )
    text, _, status = out.decode().rpartition("\n")
    assert status.isdigit(), err
    return int(status), text


async def asked(cloud: CloudCore, path: str, review: JsonObject, folder: Path) -> dict[str, Any]:
    status, text = await posted(cloud, path, json.dumps(review), folder)
    assert status == 200, text
    answer = json.loads(text)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: dict[str, Any] = answer["response"]
    assert response.pop("uid") == "u-1"
    return response


async def test_an_api_server_is_told_what_the_rules_think(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "c", admission=ON) as cloud:

        async def said(path: str, review: JsonObject) -> dict[str, Any]:
            return await asked(cloud, path, review, tmp_path)

        no = {"allowed": False, "status": {"message": "property names must be unique."}}
        assert await said("/devices", a_review(TWICE)) == no
        assert await said("/devices", a_review(TWICE, ONCE)) == no
        assert await said("/devices", a_review(TWICE, TWICE)) == {"allowed": True}
        gone = a_review(None, TWICE, operation="DELETE")
        assert await said("/devices", gone) == {"allowed": True}
        answer = await said("/devices", a_review(ONCE))
        assert (answer["allowed"], len(answer["warnings"])) == (True, 1)
        model: JsonObject = {"metadata": {"name": "m"}, "spec": {"properties": [{"name": "a"}] * 2}}
        assert await said("/devicemodels", a_review(model)) == no
        rule: JsonObject = {
            "metadata": {"name": "r", "namespace": "default"},
            "spec": {"source": "a", "target": "b"},
        }
        answer = await said("/rules", a_review(rule))
        assert answer["status"]["message"].startswith("can't get source ruleEndpoint default/a.")
        end: JsonObject = {"metadata": {"name": "e"}, "spec": {"ruleEndpointType": "servicebus"}}
        assert not (await said("/ruleendpoints", a_review(end)))["allowed"]
        job: JsonObject = {"metadata": {"name": "j"}, "spec": {"version": "1.2.3"}}
        answer = await said("/nodeupgradejobs", a_review(job))
        assert answer["status"]["message"] == "version must begin with prefix 'v'"


@pytest.mark.parametrize("spec", [{}, {"tolerations": [{"key": "a"}]}])
async def test_an_api_server_gets_a_patch_for_pods_that_stay(
    tmp_path: Path, spec: JsonObject
) -> None:
    label: JsonObject = {"app-offline.kubeedge.io": "autonomy"}
    pod: JsonObject = {"metadata": {"name": "p", "labels": label}, "spec": spec}
    async with a_cloud(tmp_path / "c", admission=ON) as cloud:
        answer = await asked(cloud, "/offlinemigration", a_review(pod), tmp_path)
        assert (answer["allowed"], answer["patchType"]) == (True, "JSONPatch")
        after = jsonpatch.apply_patch(pod, json.loads(base64.b64decode(answer["patch"])))
        stays = {"key": "node.kubernetes.io/unreachable", "operator": "Exists"}
        assert after["spec"]["tolerations"][-1] == stays
        again = await asked(cloud, "/offlinemigration", a_review(after), tmp_path)
        assert again == {"allowed": True}


async def test_what_is_no_review_is_told_so(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "c", admission=ON) as cloud:
        old = json.dumps({**a_review(ONCE), "apiVersion": "admission.k8s.io/v1beta1"})
        for body in ("", "[", "7", "{}", old):
            status, text = await posted(cloud, "/devices", body, tmp_path)
            assert status == 400, text
        assert (await posted(cloud, "/devices", " " * 5_000_000, tmp_path))[0] == 413
        assert (await posted(cloud, "/elsewhere", "{}", tmp_path))[0] == 404


async def test_nothing_listens_unless_it_is_switched_on(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "c") as cloud:
        assert "admission.https" not in cloud.process.endpoints
