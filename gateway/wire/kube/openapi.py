"""OpenAPI documents of the served kinds: version 3 per group/version, version 2 as an empty shell.

kubectl reads from a document whether writes take `fieldValidation` and `dryRun` (the query parameters of
`patch` on the named object) and, for `explain`, the types. Descriptions are ours, where we have any.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.resources import Registry, ResourceType
from gateway.wire.kube.schema import Catalogue

V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_REF = "#/components/schemas/"


def document_path(group_version: str) -> str:
    """`api/v1` or `apis/GROUP/VERSION`: the key of a document in the index."""
    return f"apis/{group_version}" if "/" in group_version else f"api/{group_version}"


def index(hashes: dict[str, str]) -> JsonObject:
    """`/openapi/v3`: where each document is; `hashes` maps group/versions to content hashes."""
    paths: JsonObject = {}
    for group_version, digest in hashes.items():
        path = document_path(group_version)
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def document(
    registry: Registry, catalogue: Catalogue, group_version: str, title: str, version: str
) -> JsonObject | None:
    """`/openapi/v3/apis/GROUP/VERSION`; None when it is not served."""
    items = [item for item in registry if item.group_version == group_version]
    if not items:
        return None
    paths: JsonObject = {}
    schemas: JsonObject = {}
    for item in items:
        paths |= _paths(item)
        schemas |= _schemas(item, catalogue)
    return {
        "openapi": "3.0.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


# --- paths ----------------------------------------------------------------------------------------


def everywhere_path(item: ResourceType) -> str:
    return f"/{document_path(item.group_version)}/{item.plural}"


def collection_path(item: ResourceType) -> str:
    if not item.namespaced:
        return everywhere_path(item)
    return f"/{document_path(item.group_version)}/namespaces/{{namespace}}/{item.plural}"


def _paths(item: ResourceType) -> JsonObject:
    collection = collection_path(item)
    paths: JsonObject = {}
    on_collection = _operations(item, (("list", "get"), ("create", "post")))
    if on_collection:
        paths[collection] = on_collection
    if item.namespaced and "list" in item.verbs:  # some kubectls look for a kind here alone
        paths[everywhere_path(item)] = _operations(item, (("list", "get"),))
    on_name = _operations(
        item, (("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete"))
    )
    if on_name:
        paths[collection + "/{name}"] = on_name
    return paths


def _operations(item: ResourceType, verbs: Iterable[tuple[str, str]]) -> JsonObject:
    return {method: _operation(item, verb) for verb, method in verbs if verb in item.verbs}


_ACTIONS = {"create": "post", "update": "put"}
_WRITES = ("create", "update", "patch", "delete")
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")


def _operation(item: ResourceType, verb: str) -> JsonObject:
    names = list(_WRITE_PARAMETERS) if verb in _WRITES else []
    if verb == "patch":
        names.append("force")
    return {
        "operationId": f"{verb}{item.kind}",
        "parameters": [_parameter(name) for name in names],
        "responses": {
            "200": {
                "description": "OK",
                "content": {"application/json": {"schema": {"$ref": _REF + schema_name(item)}}},
            }
        },
        "x-kubernetes-action": _ACTIONS.get(verb, verb),
        "x-kubernetes-group-version-kind": _gvk(item),
    }


def _parameter(name: str) -> Json:
    kind = "boolean" if name == "force" else "string"
    return {"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": True}}


def _gvk(item: ResourceType) -> JsonObject:
    return {"group": item.group, "version": item.version, "kind": item.kind}


# --- types ----------------------------------------------------------------------------------------


def schema_name(item: ResourceType) -> str:
    """The type's name: the catalogue's for built-in kinds, reversed group for custom resources."""
    if item.type_name:
        return item.type_name
    return ".".join([*reversed(item.group.split(".")), item.version, item.kind])


def _schemas(item: ResourceType, catalogue: Catalogue) -> JsonObject:
    if item.type_name:
        return _closure(catalogue, item.type_name)
    schema = dict(item.schema.source)
    fields = schema.get("properties")
    properties: JsonObject = dict(fields) if isinstance(fields, dict) else {}
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"allOf": [{"$ref": _REF + _META + "ObjectMeta"}]}
    schema["properties"] = properties
    schema["type"] = "object"
    schema["x-kubernetes-group-version-kind"] = [_gvk(item)]
    return {schema_name(item): schema} | _closure(catalogue, _META + "ObjectMeta")


def _closure(catalogue: Catalogue, root: str) -> JsonObject:
    found: JsonObject = {}
    todo = [root]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = _linked(catalogue.source(name), todo)
    return found


def _linked(node: Json, todo: list[str]) -> Json:
    """A copy whose references point into this document; what they name is added to `todo`."""
    if isinstance(node, list):
        return [_linked(item, todo) for item in node]
    if not isinstance(node, dict):
        return node
    name = node.get("$ref")
    if isinstance(name, str):
        todo.append(name)
        rest: JsonObject = {
            key: _linked(value, todo) for key, value in node.items() if key != "$ref"
        }
        link: JsonObject = {"$ref": _REF + name}
        return {"allOf": [link], **rest} if rest else link
    return {key: _linked(value, todo) for key, value in node.items()}


# --- version 2 --------------------------------------------------------------------------------------


def v2_json(title: str, version: str) -> JsonObject:
    """`/openapi/v2` without paths: clients then trust the server to validate."""
    return {"swagger": "2.0", "info": {"title": title, "version": version}, "paths": {}}


def v2_protobuf(title: str, version: str) -> bytes:
    """The same shell in the protobuf form that kubectl asks for."""
    info = _field(1, title.encode()) + _field(2, version.encode())
    return _field(1, b"2.0") + _field(2, info) + _field(8, b"")


def _field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2, len(data))) + data
