"""The sample connections and things of `--demo`, written as users write them.

DEFAULT_TENANT gets a connection and, for device 4711, the thing `org.acme:4711` under the policy
`org.acme:demo`: telemetry in Ditto Protocol changes it, and so does plain JSON with `temp` and `hum`. Tenant
`org.eclipse.packages.c2e` is the one that the public cloud2edge package comes with, with its device,
connection and thing. What is there already stays as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress

from gateway.connectivity.hub import Connections
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import Conflict, PreconditionFailed
from gateway.hono.registry import Registry
from gateway.model.json import Json, JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, Headers, ThingCommand

OWNER = "nginx:ditto"
DEFAULT_TENANT = "DEFAULT_TENANT"
NAMESPACE = "org.acme"
POLICY_ID = f"{NAMESPACE}:demo"
THING_ID = f"{NAMESPACE}:4711"
C2E = "org.eclipse.packages.c2e"
C2E_THING = f"{C2E}:demo-device"
IF_ABSENT: Headers = {"if-none-match": "*"}

JSON_FIELDS: JsonObject = {
    "/features/temperature/properties/value": "$.temp",
    "/features/humidity/properties/value": "$.hum",
}


def subject_of(tenant: str) -> str:
    """The authorization subject of a tenant's connection."""
    return f"pre-authenticated:hono-connection-{tenant}"


def connection(tenant: str, filters: list[Json], device: str, mappers: JsonObject) -> JsonObject:
    """A connection of type `hono`: telemetry and events in, messages out, answers back.

    Shape:  `filters` say whom a device may speak for, `device` is the template of a thing's device id,
            `mappers` are further mapping definitions.
    """
    subjects: list[Json] = [subject_of(tenant)]
    sources: list[Json] = [
        {
            "addresses": ["telemetry", "event"],
            "authorizationContext": subjects,
            "enforcement": {"input": "{{ header:device_id }}", "filters": filters},
            "payloadMapping": ["Ditto", *mappers],
            "replyTarget": {"enabled": False},
        },
        {
            "addresses": ["command_response"],
            "authorizationContext": subjects,
            "enforcement": {"input": "{{ header:device_id }}", "filters": filters},
            "replyTarget": {"enabled": False},
        },
    ]
    targets: list[Json] = [
        {
            "address": "command",
            "authorizationContext": subjects,
            "topics": ["_/_/things/live/messages"],
            "headerMapping": {"device_id": device},
        }
    ]
    return {
        "name": f"[Hono] {tenant}",
        "connectionType": "hono",
        "connectionStatus": "open",
        "specificConfig": {"honoTenantId": tenant},
        "mappingDefinitions": mappers,
        "sources": sources,
        "targets": targets,
    }


def _json_mapper(thing_id: str, devices: str) -> JsonObject:
    return {
        "mappingEngine": "JsonPath",
        "options": {"thingId": thing_id, "fields": JSON_FIELDS},
        "incomingConditions": {"devices": f"fn:filter(header:device_id,'like','{devices}')"},
    }


def default_connection() -> JsonObject:
    """That of DEFAULT_TENANT: device `4711` is thing `org.acme:4711`, device `ns:name` is thing `ns:name`."""
    short = f"fn:substring-after('{NAMESPACE}:')"
    return connection(
        DEFAULT_TENANT,
        ["{{ entity:id }}", f"{{{{ entity:id | {short} }}}}"],
        f"{{{{ thing:id | {short} | fn:default(thing:id) }}}}",
        {
            "json": _json_mapper("{{ header:device_id }}", "*:*"),
            "json-short": _json_mapper(f"{NAMESPACE}:{{{{ header:device_id }}}}", "471?"),
        },
    )


def c2e_connection() -> JsonObject:
    """That of the cloud2edge package's tenant."""
    return connection(
        C2E,
        ["{{ entity:id }}"],
        "{{ thing:id }}",
        {"json": _json_mapper("{{ header:device_id }}", "*:*")},
    )


def policy(tenant: str) -> JsonObject:
    """The user `ditto` owns, the tenant's connection reads and writes."""
    full: JsonObject = {"grant": ["READ", "WRITE"], "revoke": []}
    return {
        "entries": {
            "DEFAULT": {
                "subjects": {OWNER: {"type": "Ditto user authenticated via nginx"}},
                "resources": {"thing:/": full, "policy:/": full, "message:/": full},
            },
            "HONO": {
                "subjects": {subject_of(tenant): {"type": "Connection to Hono"}},
                "resources": {"thing:/": full, "message:/": full},
            },
        }
    }


def thing() -> JsonObject:
    """A sensor that has not measured yet."""
    nothing: JsonObject = {"properties": {"value": None}}
    return {
        "attributes": {"location": "Germany"},
        "features": {"temperature": nothing, "humidity": nothing},
    }


# --- provisioning -------------------------------------------------------------------------------


async def provision(
    registry: Registry, connections: Connections, things: ThingsService, policies: PoliciesService
) -> None:
    """Make what is not there yet. The connections, things and policies rooms are running."""
    await _put_policy(policies, POLICY_ID, policy(DEFAULT_TENANT))
    await _put_thing(things, THING_ID, {**thing(), "policyId": POLICY_ID})
    await _unless_there(connections.create(default_connection(), "hono-default-tenant"))
    await _register_c2e(registry)
    await _put_policy(policies, C2E_THING, policy(C2E))
    await _put_thing(things, C2E_THING, {**thing(), "policyId": C2E_THING})
    await _unless_there(connections.create(c2e_connection(), "hono-connection-for-c2e"))


async def _register_c2e(registry: Registry) -> None:
    await _unless_there(registry.create_tenant(C2E, {}))
    await _unless_there(registry.create_device(C2E, C2E_THING, {}))
    stored, version = await registry.read_credentials(C2E, C2E_THING)
    secret: Json = {
        "type": "hashed-password",
        "auth-id": "demo-device",
        "secrets": [{"pwd-plain": "demo-secret"}],
    }
    if not stored:
        await registry.update_credentials(C2E, C2E_THING, [secret], version)


async def _put_policy(policies: PoliciesService, policy_id: str, document: JsonObject) -> None:
    command = PolicyCommand(
        policy_id=policy_id,
        action=Action.MODIFY,
        subjects=(OWNER,),
        value=document,
        headers=IF_ABSENT,
    )
    await _unless_there(policies.execute(command))


async def _put_thing(things: ThingsService, thing_id: str, document: JsonObject) -> None:
    command = ThingCommand(
        thing_id=thing_id,
        action=Action.MODIFY,
        subjects=(OWNER,),
        value=document,
        headers=IF_ABSENT,
    )
    await _unless_there(things.execute(command))


async def _unless_there(work: Awaitable[object]) -> None:
    with suppress(Conflict, PreconditionFailed):
        await work
