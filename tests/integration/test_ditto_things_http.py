"""Things over HTTP with the real curl: what the API answers, in which status, with which headers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.ditto_rig import PUMP, Stack, a_ditto, curl, json_body, put

THING = {
    "attributes": {"location": "Germany", "n": 1},
    "features": {"motor": {"properties": {"rpm": 1200}}},
}


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        yield stack


@pytest.fixture
async def pump(ditto: Stack) -> str:
    """The URL of a thing that is there."""
    url = f"{ditto.api}/things/{PUMP}"
    assert (await put(url, THING)).status == 201
    return url


async def test_a_put_creates_with_location_tag_and_body_then_changes_without(ditto: Stack) -> None:
    url = f"{ditto.api}/things/{PUMP}"
    created = await put(url, THING, "-H", "correlation-id: mine")
    assert created.status == 201
    assert created.headers["location"] == url
    assert created.headers["etag"] == '"rev:1"'
    assert created.headers["correlation-id"] == "mine"
    assert created.json == {"thingId": PUMP, "policyId": PUMP, **THING}
    changed = await put(url, THING)
    assert (changed.status, changed.body) == (204, "")
    assert changed.headers["etag"] == '"rev:2"'


async def test_a_post_makes_the_id(ditto: Stack) -> None:
    made = await curl("-X", "POST", f"{ditto.api}/things?namespace=org.acme", *json_body({}))
    assert made.status == 201
    thing_id = made.json["thingId"]
    assert thing_id.startswith("org.acme:")
    assert made.headers["location"] == f"{ditto.api}/things/{thing_id}"
    assert (await curl(f"{ditto.api}/things/{thing_id}")).json["policyId"] == thing_id
    refused = await curl("-X", "POST", f"{ditto.api}/things", *json_body({"thingId": "a:b"}))
    assert (refused.status, refused.error) == (400, "things:id.notsettable")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/attributes", {"location": "Germany", "n": 1}),
        ("/attributes/location", "Germany"),
        ("/features/motor", {"properties": {"rpm": 1200}}),
        ("/features/motor/properties/rpm", 1200),
        ("/policyId", PUMP),
        ("?fields=thingId,attributes/n", {"thingId": PUMP, "attributes": {"n": 1}}),
        ("?fields=_revision", {"_revision": 1}),
        ("/features?fields=motor/properties/rpm", {"motor": {"properties": {"rpm": 1200}}}),
    ],
)
async def test_every_part_can_be_read(pump: str, path: str, expected: Any) -> None:
    found = await curl(f"{pump}{path}")
    assert (found.status, found.json) == (200, expected)
    assert found.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/things/org.acme:nobody", 404, "things:thing.notfound"),
        ("GET", f"/things/{PUMP}/attributes/nope", 404, "things:attribute.notfound"),
        ("GET", f"/things/{PUMP}/features/nope", 404, "things:feature.notfound"),
        ("DELETE", f"/things/{PUMP}/features/nope", 404, "things:feature.notfound"),
        ("DELETE", f"/things/{PUMP}/policyId", 400, "things:policyId.notdeletable"),
        ("GET", "/things/no-colon", 400, "things:id.invalid"),
        ("GET", f"/things/{PUMP}/attributes/a//b", 400, "json.pointer.invalid"),
        ("GET", f"/things/{PUMP}/attributes/n/", 400, "json.pointer.invalid"),
        ("GET", f"/things/{PUMP}?fields=a(b", 400, "json.fieldselector.invalid"),
        ("GET", f"/things/{PUMP}?condition=nonsense", 400, "things:condition.invalid"),
        ("GET", f"/things/{PUMP}?timeout=61", 400, "gateway:timeout.invalid"),
        ("GET", f"/things/{PUMP}?timeout=soon", 400, "header.invalid"),
        ("GET", f"/things/{PUMP}/nonsense", 404, "signals.commands:path.unknown"),
        ("GET", "/nonsense", 404, "signals.commands:path.unknown"),
        ("POST", f"/things/{PUMP}/attributes", 405, "gateway:method.notallowed"),
        ("PUT", "/things", 405, "gateway:method.notallowed"),
        ("POST", f"/things/{PUMP}/migrateDefinition", 415, "mediatype.unsupported"),
    ],
)
async def test_errors_have_dittos_form(
    ditto: Stack, pump: str, method: str, path: str, status: int, code: str
) -> None:
    assert pump
    found = await curl("-X", method, f"{ditto.api}{path}")
    assert (found.status, found.error) == (status, code)


async def test_a_wrong_method_says_which_are_right(pump: str) -> None:
    found = await curl("-X", "POST", pump)
    assert found.headers["allow"] == "GET, PUT, PATCH, DELETE"


@pytest.mark.parametrize(
    ("method", "media_type", "status"),
    [
        ("PUT", "text/plain", 415),
        ("PUT", "application/merge-patch+json", 415),
        ("PATCH", "application/json", 415),
        ("PUT", "application/json; charset=utf-8", 204),
        ("PATCH", "application/merge-patch+json", 204),
    ],
)
async def test_media_types_are_exact(pump: str, method: str, media_type: str, status: int) -> None:
    found = await curl("-X", method, f"{pump}/attributes/n", *json_body(2, media_type))
    assert found.status == status
    if status == 415:
        assert found.error == "mediatype.unsupported"


async def test_broken_json_names_the_place(pump: str) -> None:
    found = await curl(
        "-X", "PUT", pump, "-H", "Content-Type: application/json", "--data-binary", '{"a": '
    )
    assert (found.status, found.error) == (400, "json.invalid")
    assert "truncated" in found.json["message"]


async def test_json_that_is_nested_without_end_is_refused(pump: str) -> None:
    deep = "[" * 100_000
    found = await curl(
        "-X",
        "PUT",
        f"{pump}/attributes/a",
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        "@-",
        stdin=deep.encode(),
    )
    assert found.status == 400


async def test_a_merge_patch_changes_and_deletes(pump: str) -> None:
    patch = {"attributes": {"n": None, "m": 2}}
    done = await curl("-X", "PATCH", pump, *json_body(patch, "application/merge-patch+json"))
    assert done.status == 204
    assert (await curl(f"{pump}/attributes")).json == {"location": "Germany", "m": 2}


async def test_a_json_patch_changes_where_its_tests_hold(pump: str) -> None:
    patch = [
        {"op": "test", "path": "/attributes/n", "value": 1},
        {"op": "replace", "path": "/attributes/n", "value": 5},
    ]
    again = json_body(patch, "application/json-patch+json")
    assert (await curl("-X", "PATCH", pump, *again)).status == 204
    assert (await curl(f"{pump}/attributes/n")).json == 5
    refused = await curl("-X", "PATCH", pump, *again)
    assert 400 <= refused.status < 500


async def test_tags_and_conditions_decide(pump: str) -> None:
    tag = (await curl(pump)).headers["etag"]
    unchanged = await curl(pump, "-H", f"If-None-Match: {tag}")
    assert (unchanged.status, unchanged.body) == (304, "")
    wrong = await put(f"{pump}/attributes/n", 2, "-H", 'If-Match: "rev:99"')
    assert wrong.status == 412
    taken = await put(pump, THING, "-H", "If-None-Match: *")
    assert (taken.status, taken.error) == (412, "things:precondition.failed")
    failed = await put(f"{pump}/attributes/n?condition=eq(attributes/n,7)", 2)
    assert (failed.status, failed.error) == (412, "things:condition.failed")
    assert (await put(f"{pump}/attributes/n?condition=eq(attributes/n,1)", 2)).status == 204
    equal = await put(f"{pump}/attributes/n", 2, "-H", "if-equal: skip")
    assert equal.status == 412


async def test_without_response_the_answer_is_202_but_refusals_are_told(pump: str) -> None:
    taken = await put(f"{pump}/attributes/n?response-required=false", 9)
    assert (taken.status, taken.body) == (202, "")
    assert (await curl(f"{pump}/attributes/n")).json == 9
    refused = await put(f"{pump}/attributes/n?response-required=false", 9, user="alice:wonder")
    assert refused.status == 403
    assert (await put(f"{pump}/attributes/n?timeout=0", 10)).status == 202
    both = await put(f"{pump}/attributes/n?timeout=0&response-required=true", 10)
    assert (both.status, both.error) == (400, "header.invalid")


async def test_requested_acknowledgements_come_as_one_answer(pump: str) -> None:
    acks = "requested-acks=twin-persisted,search-persisted"
    found = await put(f"{pump}/attributes/new?{acks}", 1)
    assert found.status == 200
    assert found.json["twin-persisted"]["status"] == 201
    assert found.json["twin-persisted"]["payload"] == 1
    assert found.json["search-persisted"]["status"] == 204


async def test_who_may_not_read_sees_nothing_and_who_may_not_write_is_refused(pump: str) -> None:
    hidden = await curl(pump, user="alice:wonder")
    assert (hidden.status, hidden.error) == (404, "things:thing.notfound")
    refused = await put(f"{pump}/attributes/n", 2, user="alice:wonder")
    assert (refused.status, refused.error) == (403, "things:attribute.notmodifiable")


async def test_several_things_come_in_the_order_asked(ditto: Stack, pump: str) -> None:
    assert pump
    await put(f"{ditto.api}/things/org.acme:b", {})
    await put(f"{ditto.api}/things/org.acme:secret", {}, user="alice:wonder")
    ids = f"org.acme:b,org.acme:nobody,org.acme:secret,{PUMP}"
    found = await curl(f"{ditto.api}/things?ids={ids}&fields=thingId")
    assert found.json == [{"thingId": "org.acme:b"}, {"thingId": PUMP}]
    every = await curl(f"{ditto.api}/things?fields=thingId")
    assert every.json == [{"thingId": "org.acme:b"}, {"thingId": PUMP}]
    assert 'rel="canonical"' in every.headers["link"]


async def test_a_listing_leads_to_its_next_page(ditto: Stack) -> None:
    for name in ("a", "b", "c"):
        await put(f"{ditto.api}/things/org.acme:{name}", {})
    first = await curl(f"{ditto.api}/things?option=size(2)&fields=thingId")
    assert [one["thingId"] for one in first.json] == ["org.acme:a", "org.acme:b"]
    following = first.headers["link"].split("<")[-1].partition(">")[0]
    second = await curl("-g", following)
    assert [one["thingId"] for one in second.json] == ["org.acme:c"]


async def test_searching_by_get_and_form_and_counting(ditto: Stack, pump: str) -> None:
    assert pump
    await put(f"{ditto.api}/things/org.acme:b", {"attributes": {"n": 5}})
    search = f"{ditto.api}/search/things"
    found = await curl("-g", f"{search}?filter=gt(attributes/n,2)&fields=thingId")
    assert found.json == {"items": [{"thingId": "org.acme:b"}], "nextPageOffset": -1}
    both = await curl("-g", f"{search}?filter=gt(attributes/n,0)&filter=lt(attributes/n,2)")
    assert [item["thingId"] for item in both.json["items"]] == [PUMP]
    sorted_ = await curl("-g", f"{search}?option=sort(-attributes/n),size(1)&fields=thingId")
    assert sorted_.json["items"] == [{"thingId": "org.acme:b"}]
    form = await curl("-X", "POST", search, "--data-urlencode", "filter=eq(attributes/n,5)")
    assert len(form.json["items"]) == 1
    count = await curl("-g", f"{search}/count?filter=exists(attributes/n)")
    assert count.json == 2
    bad = await curl("-g", f"{search}?filter=eq(")
    assert (bad.status, bad.error) == (400, "rql.expression.invalid")
    typed = await curl("-X", "POST", search, *json_body({}))
    assert typed.status == 415


async def test_limits_are_told_in_dittos_form(ditto: Stack, pump: str) -> None:
    big = json.dumps("x" * 300_000)
    body = await curl(
        "-X",
        "PUT",
        f"{pump}/attributes/big",
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        "@-",
        stdin=big.encode(),
    )
    assert body.status == 413
    thing = await curl(
        "-X",
        "PUT",
        f"{pump}/attributes/big",
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        "@-",
        stdin=json.dumps("x" * 110_000).encode(),
    )
    assert (thing.status, thing.error) == (413, "things:thing.toolarge")
    uri = await curl(f"{ditto.api}/things?ids={'a' * 9_000}")
    assert uri.status == 414
    headers = await curl(pump, "-H", f"my-header: {'x' * 6_000}")
    assert (headers.status, headers.error) == (431, "headers.too.large")
    twice = await curl(f"{pump}?timeout=5", "-H", "timeout: 6")
    assert (twice.status, twice.error) == (400, "gateway:duplicate.header.field")


async def test_percent_encoded_paths_are_decoded_once(pump: str) -> None:
    assert (await put(f"{pump}/attributes/a%20b/c~0d", 1)).status == 201
    assert (await curl(f"{pump}/attributes")).json["a b"] == {"c~d": 1}


async def test_policies_have_their_resources(ditto: Stack, pump: str) -> None:
    assert pump
    url = f"{ditto.api}/policies/{PUMP}"
    found = await curl(url)
    assert found.json["entries"]["DEFAULT"]["subjects"].keys() == {"nginx:ditto"}
    entry = {
        "subjects": {"nginx:alice": {"type": "user"}},
        "resources": {"thing:/attributes": {"grant": ["READ"], "revoke": []}},
    }
    added = await put(f"{url}/entries/readers", entry)
    assert added.status == 201
    seen = await curl(f"{ditto.api}/things/{PUMP}", user="alice:wonder")
    assert seen.json == {"thingId": PUMP, "attributes": {"location": "Germany", "n": 1}}
    resource = await curl(f"{url}/entries/readers/resources/thing:/attributes")
    assert resource.json == {"grant": ["READ"], "revoke": []}
    subject = await put(f"{url}/entries/readers/subjects/nginx:bob", {"type": "x"})
    assert subject.status == 201
    assert (await curl("-X", "DELETE", f"{url}/entries/readers")).status == 204
    patch = await curl("-X", "PATCH", url, *json_body({}))
    assert (patch.status, patch.headers["allow"]) == (405, "GET, PUT, DELETE")
    action = await curl("-X", "POST", f"{url}/actions/activateTokenIntegration")
    assert (action.status, action.error) == (400, "policies:action.failed")
    made = await curl("-X", "POST", f"{ditto.api}/policies", *json_body(found.json))
    assert (made.status, made.error) == (400, "policies:id.notsettable")


async def test_permissions_are_checked_before_a_button_is_shown(ditto: Stack, pump: str) -> None:
    assert pump
    questions = {
        "write": {"resource": "thing:/features", "entityId": PUMP, "hasPermissions": ["WRITE"]},
        "gone": {"resource": "thing:/", "entityId": "a:b", "hasPermissions": ["READ"]},
        "policy": {"resource": "policy:/", "entityId": PUMP, "hasPermissions": ["READ", "WRITE"]},
    }
    url = f"{ditto.api}/checkPermissions"
    mine = await curl("-X", "POST", url, *json_body(questions))
    assert mine.json == {"write": True, "gone": False, "policy": True}
    hers = await curl("-X", "POST", url, *json_body(questions), user="alice:wonder")
    assert hers.json == {"write": False, "gone": False, "policy": False}
    bad = await curl("-X", "POST", url, *json_body({"a": {"resource": "sky:/"}}))
    assert bad.status == 400


async def test_bytes_that_are_no_text_are_refused_and_break_nothing(
    ditto: Stack, pump: str
) -> None:
    header = await curl(pump, "-H", b"my-header: \xff\xfe")  # type: ignore[arg-type]
    assert (header.status, header.error) == (400, "header.invalid")
    correlation = await curl(pump, "-H", b"correlation-id: \xff")  # type: ignore[arg-type]
    assert (correlation.status, correlation.error) == (400, "header.invalid")
    path = await curl(f"{ditto.api}/things/a:%ff")
    assert (path.status, path.error) == (400, "json.pointer.invalid")
    zipped = ["-H", "Content-Encoding: gzip", "-H", "Content-Type: application/json"]
    body = await curl("-X", "PUT", f"{pump}/attributes/n", *zipped, "-d", "no gzip")
    assert (body.status, body.error) == (400, "bad.request")
    surrogate = ["-H", "Content-Type: application/json", "-d", '"\\ud800"']
    lone = await curl("-X", "PUT", f"{pump}/attributes/n", *surrogate)
    assert (lone.status, lone.error) == (400, "json.invalid")
    assert (await curl(f"{pump}/attributes/n")).json == 1
