"""What the client of a far API server makes of odd names and odd answers."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, Gone, Undeliverable
from gateway.kube.client import EventType
from gateway.kube.remote import _event, _path


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../secrets/casecret"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        _path("v1", "configmaps", "default", name)
    with pytest.raises(BadRequest):
        _path("v1", "configmaps", name, "x")


def test_names_stay_one_part_of_the_path() -> None:
    assert _path("v1", "pods", "n", "a?dryRun=All#x%2e", "status") == (
        "/api/v1/namespaces/n/pods/a%3FdryRun%3DAll%23x%252e/status"
    )
    assert _path("apps/v1", "deployments", None) == "/apis/apps/v1/deployments"


@pytest.mark.parametrize(
    "line", [b'{"type":"ADDED","obj', b"[]", b'{"type":"NEW","object":{"metadata":{}}}', b"1\n"]
)
def test_half_a_line_is_a_broken_connection(line: bytes) -> None:
    with pytest.raises(Undeliverable):
        _event(line)


def test_events_and_errors_of_a_watch_are_told_apart() -> None:
    event = _event(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"7"}}}\n')
    assert (event.type, event.resource_version) == (EventType.ADDED, "7")
    with pytest.raises(Gone):
        _event(b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}')
