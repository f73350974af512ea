"""Two CloudCores on one cluster and an edge, all processes: each answers for a node of the other."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloud.certificates import KeyPair, make_peer
from tests.edge_walk import NODE, a_cloud, an_edge, join
from tests.ports import free_port
from tests.process import eventually, twinspan
from tests.walk import Walk, curl, twinspan_cli

pytestmark = pytest.mark.e2e

ONE, TWO = "127.0.0.1", "127.0.0.2"


class Service(BaseHTTPRequestHandler):
    """The node's kubelet, its service and a REST target: says what it was asked."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        said = f"{self.command} {self.path} {body}".encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = answer  # noqa: N815  the names of http.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Be silent."""


@contextmanager
def a_service() -> Iterator[int]:
    with ThreadingHTTPServer((ONE, 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def rules(port: int) -> str:
    """From REST to a service of the node, and from its services to REST."""

    def item(kind: str, name: str, spec: object) -> dict[str, object]:
        version, metadata = "rules.kubeedge.io/v1", {"name": name, "namespace": "default"}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}

    service = {"ruleEndpointType": "servicebus", "properties": {"service_port": str(port)}}
    prices = {
        "source": "cloud",
        "sourceResource": {"path": "/shop"},
        "target": "shop",
        "targetResource": {"path": "/v1"},
    }
    orders = {
        "source": "shop",
        "sourceResource": {"target_url": "http://orders", "node_name": NODE},
        "target": "cloud",
        "targetResource": {"resource": f"http://127.0.0.1:{port}/new"},
    }
    items = [
        item("RuleEndpoint", "cloud", {"ruleEndpointType": "rest"}),
        item("RuleEndpoint", "shop", service),
        item("Rule", "prices", prices),
        item("Rule", "orders", orders),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def an_api_server(cloud: Walk, folder: Path) -> tuple[str, ...]:
    """Curl's words for a client with a certificate of the cluster's CA."""
    secret = cloud.kubectl_json("get", "secret", "-n", "kubeedge", "casecret")["data"]
    ca = KeyPair(base64.b64decode(secret["cadata"]), base64.b64decode(secret["cakeydata"]))
    client = make_peer(ca, datetime.now(UTC))
    (folder / "client.pem").write_bytes(client.key_pem + client.certificate_pem.encode())
    (folder / "ca.pem").write_text(ca.certificate_pem)
    return ("--cert", str(folder / "client.pem"), "--cacert", str(folder / "ca.pem"))


def test_a_node_is_reached_at_either_cloudcore(tmp_path: Path) -> None:
    router, stream, tunnel = free_port(), free_port(), free_port()

    def listeners(address: str) -> tuple[str, ...]:
        return (
            "cloud.router.enabled=true",
            f"cloud.router.bind={address}:{router}",
            f"cloud.stream.bind={address}:{stream}",
            f"cloud.stream.tunnel_bind={address}:{tunnel}",
        )

    with a_service() as port, a_cloud(tmp_path / "one", *listeners(ONE)) as one:
        kubeconfig = str(one.running.data_dir / "kube" / "kubeconfig")
        words = ("cloud", "--kubeconfig", kubeconfig, "--advertise", TWO)
        hub = f"cloud.hub.wss.bind={TWO}:{free_port()}"
        with twinspan(tmp_path / "two", *words, sets=(*listeners(TWO), hub)) as running:
            two = Walk(running)
            token = twinspan_cli("token", "--kubeconfig", kubeconfig).strip()
            assert join(two, tmp_path / "edge", token, "--node-name", NODE).startswith("0 ")
            one.kubectl("apply", "-f", "-", stdin=rules(port))
            settings = (
                "edge.servicebus.enabled=true",
                f"edge.stream.server={TWO}:{tunnel}",
                f"edge.stream.kubelet=127.0.0.1:{port}",
            )
            with an_edge(two, tmp_path / "edge", *settings) as edge:
                path = f"/{NODE}/default/shop/lamps"
                eventually(lambda: curl("GET", f"http://{ONE}:{router}{path}").status == 201)
                for address in (ONE, TWO):
                    answer = curl("POST", f"http://{address}:{router}{path}", data="hi")
                    assert (answer.status, answer.body) == (201, "POST /v1/lamps hi")
                own = edge.running.url("edge.servicebus", "/")
                asked = {"targetURL": "http://orders", "payload": {"item": "lamp"}}
                assert json.loads(curl("POST", own, data=asked).body) == {
                    "code": 201,
                    "msg": "the target answered",
                    "body": 'POST /new {"item":"lamp"}',
                }
                client = (*an_api_server(one, tmp_path), "-H", f"Host: {NODE}:10352")
                for address in (ONE, TWO):
                    logs = f"https://{address}:{stream}/containerLogs/default/p/c?tailLines=5"
                    eventually(lambda url=logs: curl("GET", url, *client).status == 200)  # type: ignore[misc]
                    body = curl("GET", logs, *client).body
                    assert body.strip() == "GET /containerLogs/default/p/c?tailLines=5"
                node = one.kubectl_json("get", "node", NODE)
                assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10352
