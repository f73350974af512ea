"""What is asked of a kubelet through `nodes/proxy`, and what is not."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, Forbidden, GatewayError, NotFound
from gateway.kube.auth import Access
from gateway.kube.nodeproxy import access_to_kubelet
from gateway.wire.kube.nodeproxy import NodeProxy, check_path, node_named, parse_node_proxy


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/nodes/n/proxy/stats/summary", NodeProxy("n", "/stats/summary")),
        ("/api/v1/nodes/n:10250/proxy/metrics", NodeProxy("n:10250", "/metrics")),
        ("/api/v1/nodes/n/proxy", NodeProxy("n", "/")),
        ("/api/v1/nodes/n/status", None),
        ("/api/v1/nodes/n", None),
        ("/api/v1/namespaces/n/proxy/x", None),
        ("/apis/v1/nodes/n/proxy/metrics", None),
    ],
)
def test_a_path_names_a_node_and_what_its_kubelet_is_asked(
    path: str, found: NodeProxy | None
) -> None:
    assert parse_node_proxy(path) == found


@pytest.mark.parametrize("name", ["n", "n:10250", "https:n:10250", "https:n:"])
def test_a_node_is_named_with_its_kubelet_s_port_or_without(name: str) -> None:
    assert node_named(name) == "n"


@pytest.mark.parametrize("name", ["n:22", "http:n:10255", "a:b:c:d"])
def test_no_other_port_of_a_node_is_reached(name: str) -> None:
    with pytest.raises(BadRequest):
        node_named(name)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/run/default/p/c", Forbidden),
        ("/exec/default/p/c", Forbidden),
        ("/portForward/default/p", Forbidden),
        ("/debug/pprof/heap", Forbidden),
        ("/other", NotFound),
        ("/", BadRequest),
        ("/metrics/../run/default/p/c", BadRequest),
        ("/metrics//x", BadRequest),
        ("/metrics HTTP/1.1", BadRequest),
        ("/metrics\r\nX: y", BadRequest),
    ],
)
def test_what_does_something_is_not_asked(path: str, error: type[GatewayError]) -> None:
    with pytest.raises(error):
        check_path(path)


def test_figures_and_lists_are_asked() -> None:
    assert check_path("/metrics/cadvisor") == "/metrics/cadvisor"
    assert check_path("/pods/") == "/pods"


@pytest.mark.parametrize(
    ("method", "verb"), [("HEAD", "get"), ("POST", "create"), ("PUT", "update")]
)
def test_each_method_wants_its_verb_of_nodes_proxy(method: str, verb: str) -> None:
    wanted = Access(verb=verb, resource="nodes", subresource="proxy", name="n")
    assert access_to_kubelet(method, NodeProxy("n", "/pods")) == wanted
