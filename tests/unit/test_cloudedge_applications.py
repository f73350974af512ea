"""Applications and watches on the link: KubeEdge's exact form, round trips, bad input."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedPacket
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.applications import (
    ApiKey,
    Application,
    ApplicationAsked,
    Verb,
    WatchesAnswered,
    WatchesSynced,
    answer_application,
    answer_watches,
    approved,
    ask_application,
    make_application,
    read_application_answer,
    read_watches_answer,
    rejected,
    sync_watches,
)
from gateway.wire.cloudedge.envelope import Envelope, Stamp, decode, encode
from gateway.wire.cloudedge.to_cloud import read_to_cloud
from gateway.wire.cloudedge.to_edge import Answer, needs_acknowledgement, read_to_edge

STAMP = Stamp("1f0f3c1e-6f6b-4a0e-9d7d-2b1f5f0f7a01", 1_795_377_599_127)
CREATION: dict[str, object] = {
    "ID": "ce96ea1d",
    "Key": "/core/v1/configmaps/default/null",
    "Verb": "create",
    "Nodename": "edge-1",
    "Option": base64.b64encode(b'{"kind":"CreateOptions"}').decode(),
    "ReqBody": base64.b64encode(b'{"data":{}}').decode(),
    "Subresource": "",
    "RespBody": None,
    "Status": "InApplying",
    "Reason": "",
    "Error": {"ErrStatus": {"metadata": {}}},
    "Timestamp": "0001-01-01T00:00:00Z",
}


def over_the_wire(envelope: Envelope) -> Envelope:
    return decode(encode(envelope))


def body_of(envelope: Envelope) -> JsonObject:
    body: JsonObject = json.loads(encode(envelope))
    return body


def a_request() -> Application:
    key = ApiKey("", "v1", "configmaps", "default")
    return make_application(
        "edge-1", key, Verb.CREATE, option={"kind": "CreateOptions"}, body=b'{"data":{}}'
    )


def test_a_request_has_kubeedges_twelve_keys_and_route() -> None:
    body = body_of(ask_application(STAMP, a_request()))
    assert body["content"] == {**CREATION, "ID": a_request().id}
    assert body["route"] == {
        "source": "metaserver",
        "group": "dynamiccontroller",
        "operation": "null",
        "resource": "null",
    }


def test_nothing_is_null_and_no_options_are_null() -> None:
    content = body_of(ask_application(STAMP, make_application("n", ApiKey(raw="/version"), "get")))
    assert isinstance(content["content"], dict)
    assert content["content"]["Key"] == "/version"
    assert content["content"]["Option"] is None
    assert content["content"]["ReqBody"] is None
    with_empty = make_application("n", ApiKey(raw="/version"), "get", option={})
    assert with_empty.option == "e30="
    assert with_empty.option_json() == {}


def test_the_id_is_the_hash_of_what_is_asked() -> None:
    said = b'edge-1/core/v1/configmaps/default/nullcreate{"kind":"CreateOptions"}{"data":{}}'
    assert a_request().id == hashlib.sha256(said).hexdigest()
    assert a_request() == a_request()


def test_a_request_of_a_go_edge_is_read() -> None:
    route = {"source": "metaserver", "group": "dynamiccontroller", "operation": "null"}
    frame = {
        "header": {"msg_id": "m1"},
        "route": {**route, "resource": "null"},
        "content": CREATION,
    }
    message = read_to_cloud(decode(json.dumps(frame)))
    assert isinstance(message, ApplicationAsked)
    app = message.application
    assert app.option_json() == {"kind": "CreateOptions"}
    assert app.request_bytes() == b'{"data":{}}'
    assert app.response_bytes() == b""
    assert not app.error.is_set
    assert ApiKey.parse(app.key) == ApiKey("", "v1", "configmaps", "default", None)


def test_an_approval_is_the_same_application_with_a_body() -> None:
    asked = ask_application(STAMP, a_request())
    message = read_to_cloud(over_the_wire(asked))
    assert isinstance(message, ApplicationAsked)
    sent = answer_application(asked, STAMP, approved(message.application, b'{"kind":"ConfigMap"}'))
    body = body_of(sent)
    assert body["route"] == {
        "source": "dynamiccontroller",
        "group": "resource",
        "operation": "applicationResponse",
        "resource": "ignore/Application/ignore",
    }
    answer = read_to_edge(over_the_wire(sent))
    assert isinstance(answer, Answer)
    assert answer.parent_id == asked.msg_id
    assert not needs_acknowledgement(sent)
    app = read_application_answer(answer.content)
    assert app.is_approved
    assert app.response_bytes() == b'{"kind":"ConfigMap"}'
    assert app.id == a_request().id


def test_a_rejection_carries_the_status_of_the_failure() -> None:
    status: JsonObject = {"status": "Failure", "message": "no", "reason": "Forbidden", "code": 403}
    app = rejected(approved(a_request(), b"x"), status)
    sent = answer_application(ask_application(STAMP, a_request()), STAMP, app)
    content = body_of(sent)["content"]
    assert isinstance(content, dict)
    assert content["Error"] == {"ErrStatus": {"metadata": {}, **status}}
    assert (content["Status"], content["RespBody"]) == ("Rejected", None)
    found = read_application_answer(over_the_wire(sent).content)
    assert found.error.is_set
    assert not found.is_approved
    assert found.reason == "no"


def test_live_watches_go_up_and_failed_ones_come_back() -> None:
    app = make_application("edge-1", ApiKey("apps", "v1", "deployments"), Verb.WATCH, option={})
    asked = sync_watches(STAMP, {app.id: app})
    message = read_to_cloud(over_the_wire(asked))
    assert message == WatchesSynced({app.id: app})
    status: JsonObject = {"code": 404}
    sent = answer_watches(asked, STAMP, {app.id: rejected(app, status)})
    answer = read_to_edge(over_the_wire(sent))
    assert isinstance(answer, Answer)
    assert answer.resource == "watchapp/sync"
    assert read_watches_answer(answer.content)[app.id].error.status["code"] == 404


def test_no_watches_are_an_empty_object_both_ways() -> None:
    asked = sync_watches(STAMP, {})
    assert body_of(asked)["content"] == {}
    assert body_of(answer_watches(asked, STAMP, {}))["content"] == {}


def test_a_list_of_watches_without_a_question_is_read_as_well() -> None:
    frame = {
        "header": {"msg_id": "m1"},
        "route": {
            "source": "dynamiccontroller",
            "group": "resource",
            "operation": "applicationResponse",
            "resource": "watchapp/sync",
        },
        "content": {},
    }
    assert read_to_edge(decode(json.dumps(frame))) == WatchesAnswered({})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("/core/v1/pods/default/p1", ApiKey("", "v1", "pods", "default", "p1")),
        ("/core/v1/nodes/null/null", ApiKey("", "v1", "nodes", None, None)),
        ("/apps/v1/deployments/null/d", ApiKey("apps", "v1", "deployments", None, "d")),
        ("/version", ApiKey(raw="/version")),
        ("/openapi/v3/apis/apps/v1", ApiKey(raw="/openapi/v3/apis/apps/v1")),
    ],
)
def test_keys_are_read_and_written(text: str, key: ApiKey) -> None:
    assert ApiKey.parse(text) == key
    assert str(key) == text


def test_a_key_of_five_parts_is_an_object_and_tells_its_group_version() -> None:
    assert ApiKey.parse("/core/v1/pods/default/p1").group_version == "v1"
    assert ApiKey.parse("/apps/v1/deployments/null/d").group_version == "apps/v1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version",
        "/../secrets",
        "/a/%2e%2e/b",
        "/core/v1/pods/./p",
        "/a\nb",
        "/" + "x" * 3_000,
        "/core/v1%2Fsecrets?x=/services/null/null",
        "/core/v1%2Fnodes%2Fother%2Fstatus?/x/null/y",
        "/x%2Fy/v1/pods/null/null",
        "/core/v1/pods#/null/null",
    ],
)
def test_a_key_that_leads_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(MalformedPacket):
        ApiKey.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"ID": None},
        {"ID": ""},
        {"Key": 5},
        {"Option": ["x"]},
        {"Error": "no"},
        {"Verb": "x" * 300},
    ],
)
def test_an_application_of_another_form_is_refused(change: dict[str, object]) -> None:
    content = json.dumps({**CREATION, **change})
    frame = f'{{"header":{{"msg_id":"m"}},"route":{{"source":"metaserver"}},"content":{content}}}'
    with pytest.raises(MalformedPacket):
        read_to_cloud(decode(frame))


def test_what_is_no_base64_is_told_with_its_key() -> None:
    app = Application(
        id="a", key="/x", verb="get", node="n", option="%%", request="!", response="?"
    )
    for name, read in (
        ("Option", app.option_json),
        ("ReqBody", app.request_bytes),
        ("RespBody", app.response_bytes),
    ):
        with pytest.raises(MalformedPacket, match=name):
            read()


_parts = st.text("abcdefghijklmnopqrstuvwxyz.-0123456789", min_size=1, max_size=20).filter(
    lambda part: part not in (".", "..", "null", "core")
)
_words = _parts.filter(lambda part: part.strip(".-") == part)


@given(
    st.builds(
        ApiKey,
        st.one_of(st.just(""), _words),
        _words,
        _words,
        st.one_of(st.none(), _parts),
        st.one_of(st.none(), _parts),
    )
)
def test_every_key_survives_the_wire(key: ApiKey) -> None:
    assert ApiKey.parse(str(key)) == key


@given(st.binary(max_size=200), st.sampled_from(list(Verb)), st.text(max_size=20))
def test_every_application_survives_the_wire(body: bytes, verb: Verb, sub: str) -> None:
    app = make_application(
        "n", ApiKey("", "v1", "pods", "a", "b"), verb, body=body, subresource=sub
    )
    message = read_to_cloud(over_the_wire(ask_application(STAMP, approved(app, body))))
    assert isinstance(message, ApplicationAsked)
    assert message.application.request_bytes() == body
    assert message.application.response_bytes() == body
