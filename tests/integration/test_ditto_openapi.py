"""Every path and method of Ditto's own OpenAPI document, asked of the running service with made-up data.

The document is not part of this project: `TWINSPAN_DITTO_OPENAPI` names the file. With
`TWINSPAN_DITTO_OPENAPI_EXAMPLES` more examples are tried, chosen anew each time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from gateway.errors import BadRequest
from gateway.wire.ditto.headers import duration
from tests.ditto_rig import PUMP
from tests.openapi_rig import served

DOCUMENT = os.environ.get("TWINSPAN_DITTO_OPENAPI", "")
pytestmark = pytest.mark.skipif(
    not DOCUMENT,
    reason="conformance with Ditto's OpenAPI is NOT tested: TWINSPAN_DITTO_OPENAPI names no document",
)
USUAL_EXAMPLES = 3
EXAMPLES = int(os.environ.get("TWINSPAN_DITTO_OPENAPI_EXAMPLES", USUAL_EXAMPLES))
ANSWER_SECONDS = 30.0
Case: TypeAlias = "schemathesis.Case[Any]"
DEVOPS, DITTO = ("devops", "foobar"), ("ditto", "ditto")


@dataclass(frozen=True)
class Gap:
    """Where the document says less, or other things, than Ditto does.

    Shape:  `what` a status, or words of a broken schema; `where` a pattern of `<METHOD> <path>`.
    """

    what: int | str
    where: str
    why: str


WRITES = "(POST|PUT|PATCH|DELETE) "
THINGS = "[A-Z]+ /api/2/things"
STATUSES = (
    Gap(
        415,
        "(POST|PUT|PATCH) ",
        "media types are exact; the document says so for cloud events alone",
    ),
    Gap(413, "(POST|PUT|PATCH) ", "an entity over the server's limit"),
    Gap(431, "", "headers over their limit"),
    Gap(414, "", "a URI over its limit"),
    Gap(202, WRITES + "/api/2/(things|policies)", "response-required=false"),
    Gap(408, THINGS, "nobody answers on the live channel, or acknowledges"),
    Gap(405, "(POST|PUT|PATCH|DELETE) /api/2/things", "nothing is made on the live channel"),
    Gap(400, "POST /api/2/checkPermissions", "questions that cannot be read"),
    Gap(408, "(GET|POST) /api/2/search", "the time of a query is over; the document says 504"),
    Gap(409, "(PUT|DELETE) /api/2/policies/{policyId}/(entries|imports)", "what others refer to"),
    Gap(403, "POST /api/2/things/{thingId}/migrateDefinition", "no WRITE"),
    Gap(421, "(POST|PUT|PATCH|GET) /api/2/things", "a Thing Model that cannot be fetched"),
    Gap(
        201,
        "PUT /api/2/connections",
        "its summary says that it creates; cloud2edge's scripts do so",
    ),
    Gap(409, "POST /api/2/connections", "a connection with this ID is there"),
    Gap(
        404,
        "[A-Z]+ /devops/(logging|config|piggyback)",
        "services, settings and entities that are not there",
    ),
    Gap(400, "[A-Z]+ /devops/", "bodies and log levels that cannot be read"),
    Gap(200, "PUT /devops/logging", "the answer of Ditto; the document says 201"),
    Gap(201, "PUT /devops/wot/config", "made, not changed"),
    Gap(409, "POST /devops/piggyback", "what is asked for conflicts, as elsewhere"),
    Gap(201, "POST /devops/piggyback", "the status of the command's own response"),
    Gap(501, "POST /devops/piggyback", "commands of a cluster that has no such part here"),
)
SHAPES = (
    Gap('is not of type "object"', "GET /api/2/connections", "`ids-only` gives the IDs"),
    Gap(
        '"thingId" is a required',
        "(GET|POST) /api/2/(things|search)",
        "`fields` leaves out what is not asked for",
    ),
    Gap("is a required property", "GET .*", "`fields` leaves out what is not asked for"),
    Gap(
        '"connectedSince" is a required', "GET /api/2/connections", "one that is not open has none"
    ),
    Gap('"lastMessageAt"', "GET /api/2/connections", "null while there was no message"),
    Gap("null is not of type", "GET /api/2/connections/{connectionId}/metrics", "as above"),
    Gap('is not of type "array"', "GET /devops/config", "the document's own example is an object"),
    Gap("@context", "GET /.well-known/wot", "a directory has the context of WoT Discovery too"),
)


def known_gap(gaps: tuple[Gap, ...], label: str, found: int | str) -> bool:
    return any(
        re.match(gap.where, label)
        and (gap.what == found if isinstance(gap.what, int) else gap.what in str(found))
        for gap in gaps
    )


# --- what is there -----------------------------------------------------------------------------

POLICY, BASE = "org.acme:fleet", "org.acme:base"
FULL: Any = {"grant": ["READ", "WRITE"], "revoke": []}
OWNER: Any = {
    "subjects": {"nginx:ditto": {"type": "test"}},
    "resources": {"thing:/": FULL, "policy:/": FULL, "message:/": FULL},
}
OTHER: Any = {
    "subjects": {},
    "resources": {},
    "references": [{"entry": "owner"}],
    "allowedAdditions": ["subjects"],
    "namespaces": ["org.acme"],
}
POLICIES: Any = {
    BASE: {"entries": {"owner": OWNER}},
    POLICY: {
        "entries": {"owner": OWNER, "other": OTHER},
        "imports": {BASE: {"entries": ["owner"], "transitiveImports": []}},
    },
}
THING: Any = {
    "policyId": POLICY,
    "definition": "org.acme:pump:1.0.0",
    "attributes": {"a": {"b": 1}, "s": "x"},
    "features": {
        "motor": {
            "definition": ["org.acme:motor:1.0.0"],
            "properties": {"p": {"q": 1}},
            "desiredProperties": {"p": {"q": 2}},
        }
    },
}
CONNECTION: Any = {
    "id": "c1",
    "name": "test",
    "connectionType": "hono",
    "connectionStatus": "closed",
    "sources": [{"addresses": ["telemetry"], "authorizationContext": ["nginx:ditto"]}],
}
KNOWN = {
    "thingId": [PUMP],
    "policyId": [POLICY],
    "label": ["owner", "other"],
    "subjectId": ["nginx:ditto"],
    "resourcePath": ["thing:/"],
    "importedPolicyId": [BASE],
    "featureId": ["motor"],
    "attributePath": ["a", "a/b", "n/ew"],
    "propertyPath": ["p", "p/q", "n/ew"],
    "messageSubject": ["ask", "a/b"],
    "connectionId": ["c1"],
    "moduleName": ["gateway", "things"],
    "podName": ["twinspan"],
    "serviceName": ["things", "connectivity"],
    "instanceIndex": ["1"],
    "scopeId": ["scope"],
}
"""Names of what is there, by the parameter of a path that stands for them."""


class Service:
    """The running service, and a client that puts back what the last request may have changed."""

    def __init__(self, url: str, session: requests.Session) -> None:
        self.url = url
        self.session = session
        self._changed = {"policies", "things", "connections"}

    def call(self, case: Case) -> schemathesis.Response:
        self._put_back()
        operator = "/devops/" in case.path or "/connections" in case.path
        answer = case.call(
            base_url=self.url,
            session=self.session,
            auth=DEVOPS if operator else DITTO,
            timeout=ANSWER_SECONDS,
        )
        if case.method.upper() != "GET" and answer.status_code < 400:
            self._changed = {
                kind for kind in ("policies", "things", "connections") if kind in case.path
            }
        return answer

    def _put_back(self) -> None:
        changed, self._changed = self._changed, set()
        if "policies" in changed:
            for policy_id, policy in POLICIES.items():
                self._put(f"/policies/{policy_id}", policy)
        if changed & {"policies", "things"}:
            self._put(f"/things/{PUMP}", THING)
        if "connections" in changed:
            command = {"type": "connectivity.commands:createConnection", "connection": CONNECTION}
            self.session.post(
                f"{self.url}/devops/piggyback/connectivity",
                json={"piggybackCommand": command},
                auth=DEVOPS,
            )

    def _put(self, path: str, value: Any) -> None:
        answer = self.session.put(f"{self.url}/api/2{path}", json=value, auth=DITTO)
        assert answer.status_code in (201, 204), answer.text


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with served() as url, requests.Session() as session:
        yield Service(url, session)


# --- cases -------------------------------------------------------------------------------------


def operations() -> dict[str, Any]:
    """The document's operations by method and path; none without a document."""
    if not DOCUMENT:
        return {}
    found = schemathesis.openapi.from_path(DOCUMENT).get_all_operations()
    return {one.ok().label: one.ok() for one in found if isinstance(one, Ok)}


OPERATIONS = operations()


def aimed(case: Case, data: st.DataObject) -> Case:
    """Most cases speak of what is there, and none waits long for devices that are not."""
    if case.path_parameters and data.draw(st.sampled_from((True, True, True, False))):
        for name in list(case.path_parameters):
            if name in KNOWN:
                case.path_parameters[name] = data.draw(st.sampled_from(KNOWN[name]))
    if case.path.startswith(("/api/2/things", "/api/2/search")):
        query = dict(case.query or {})
        if _waits(query.get("timeout")):
            case.query = {**query, "timeout": "20ms"}
    return case


def _waits(timeout: Any) -> bool:
    try:
        return timeout is None or duration(timeout) > 0.02
    except BadRequest:
        return False


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", list(OPERATIONS) or ["no document"])
def test_answers_are_as_the_document_says(service: Service, label: str, mode: Any) -> None:
    operation = OPERATIONS[label]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES == USUAL_EXAMPLES,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def conforms(case: Case, data: st.DataObject) -> None:
        answer = service.call(aimed(case, data))
        check_status(label, case, answer)
        check_error(case, answer)
        check_schema(label, case, answer)

    conforms()


def told(case: Case, answer: schemathesis.Response) -> str:
    """What was asked and answered, to ask again by hand."""
    return f"{case.as_curl_command()}\n{answer.status_code} {answer.text[:600]}"


def check_status(label: str, case: Case, answer: schemathesis.Response) -> None:
    status = answer.status_code
    documented = str(status) in case.operation.definition.raw["responses"]
    assert documented or known_gap(STATUSES, label, status), told(case, answer)
    assert status < 500 or status == 501, told(case, answer)


def check_error(case: Case, answer: schemathesis.Response) -> None:
    """Every refusal is in Ditto's form, and what is not built says what it is."""
    if answer.status_code < 400 or case.method.upper() == "HEAD":
        return
    error = answer.json()
    if error and all(isinstance(one, dict) and "status" in one for one in error.values()):
        return  # acknowledgements by their labels
    assert error["status"] == answer.status_code, told(case, answer)
    assert error["error"], told(case, answer)
    assert len(error["message"]) > 10, told(case, answer)
    assert (answer.status_code == 501) == (error["error"] == "notimplemented"), told(case, answer)


def check_schema(label: str, case: Case, answer: schemathesis.Response) -> None:
    try:
        case.validate_response(
            answer,
            checks=[
                checks.content_type_conformance,
                checks.response_schema_conformance,
                checks.response_headers_conformance,
            ],
        )
    except FailureGroup as group:
        for failure in group.exceptions:
            assert known_gap(SHAPES, label, str(failure)), f"{failure}\n{told(case, answer)}"


def test_the_document_is_ditto() -> None:
    assert len(OPERATIONS) > 100
    assert "PATCH /api/2/things/{thingId}" in OPERATIONS
