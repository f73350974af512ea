"""What is asked of a running Pod: which container, and how its kubelet is asked.

Source: Kubernetes core/v1 PodLogOptions, PodExecOptions; texts as kube-apiserver 1.36 says them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode

from gateway.errors import BadRequest
from gateway.model.json import JsonObject
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.parts import annotations_of, part, rows, text
from gateway.wire.kube.podstate import is_ended
from gateway.wire.kube.status import Cause, invalid

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
"""What the API calls a stream -> what the kubelet calls it."""
_TRUE = ("1", "true", "True", "TRUE", "t", "T")
_AT_LEAST = {"tailLines": 0, "limitBytes": 1, "sinceSeconds": 1}
_SWITCHES = frozenset({"follow", "previous", "timestamps", "insecureSkipTLSVerifyBackend"})
_LOG_OPTIONS = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines",
                "limitBytes", "stream", "insecureSkipTLSVerifyBackend")  # fmt: skip


def node_of(pod: JsonObject) -> str:
    """Return the node that a Pod is bound to, empty for none."""
    return text(part(pod, "spec").get("nodeName"))


def _names(pod: JsonObject, key: str) -> list[str]:
    return [text(row.get("name")) for row in rows(part(pod, "spec").get(key))]


def container_of(pod: JsonObject, asked: str, *, may_choose: bool) -> str:
    """Return the container that is meant.

    Shape:  `may_choose` takes the first where several are there and none is named.
    Errors: BadRequest when it must be named, or there is none of that name.
    """
    name = text(part(pod, "metadata").get("name"))
    plain = _names(pod, "containers")
    others = _names(pod, "initContainers") + _names(pod, "ephemeralContainers")
    if asked:
        if asked not in (*plain, *others):
            raise BadRequest(f"container {asked} is not valid for pod {name}")
        return asked
    preferred = annotations_of(pod).get(DEFAULT_CONTAINER, "")
    if preferred in plain:
        return preferred
    if len(plain) == 1 or (may_choose and plain):
        return plain[0]
    raise BadRequest(_choices(pod, name, plain))


def _choices(pod: JsonObject, name: str, plain: list[str]) -> str:
    if not plain:
        return f"a container name must be specified for pod {name}"
    told = f"a container name must be specified for pod {name}, choose one of: [{' '.join(plain)}]"
    init, later = _names(pod, "initContainers"), _names(pod, "ephemeralContainers")
    if init:
        told += f" or one of the init containers: [{' '.join(init)}]"
    if later:
        told += f" or one of the ephemeral containers: [{' '.join(later)}]"
    return told


def log_request(pod: JsonObject, query: Mapping[str, str]) -> tuple[str, str]:
    """Return path and query of a kubelet for a Pod's log. Errors: BadRequest; Unprocessable."""
    faults = list(_log_faults(query))
    if faults:
        raise invalid("PodLogOptions", "", text(part(pod, "metadata").get("name")), faults)
    container = container_of(pod, query.get("container", ""), may_choose=False)
    kept = [(key, query[key]) for key in _LOG_OPTIONS if query.get(key)]
    kept = [(key, _said(key, value)) for key, value in kept if value != "false"]
    return f"/containerLogs/{_place(pod)}/{container}", urlencode(kept)


def _said(key: str, value: str) -> str:
    return "true" if key in _SWITCHES and value in _TRUE else value


def _log_faults(query: Mapping[str, str]) -> Iterator[Cause]:
    for key, least in _AT_LEAST.items():
        value = query.get(key)
        if value is None:
            continue
        if not value.removeprefix("-").isdigit():
            raise BadRequest(f'{key}: parsing "{value[:50]}": invalid syntax')
        if int(value) < least:
            why = "must be greater than 0" if least else "must be greater than or equal to 0"
            yield invalid_value(key, int(value), why)
    if query.get("sinceSeconds") and query.get("sinceTime"):
        why = "at most one of `sinceTime` or `sinceSeconds` may be specified"
        yield Cause("FieldValueForbidden", f"Forbidden: {why}", "sinceSeconds")


def _place(pod: JsonObject) -> str:
    meta = part(pod, "metadata")
    return f"{text(meta.get('namespace'))}/{text(meta.get('name'))}"


def stream_request(
    pod: JsonObject, subresource: str, query: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    """Return path and query of a kubelet for exec, attach or port-forward. Errors: BadRequest."""
    name = text(part(pod, "metadata").get("name"))
    if not node_of(pod):
        raise BadRequest(f"pod {name} does not have a host assigned")
    if subresource == "portforward":
        ports = [("ports", port) for port in query.get("ports", ())]
        return f"/portForward/{_place(pod)}", urlencode(ports)
    if subresource == "exec" and is_ended(pod):
        phase = text(part(pod, "status").get("phase"))
        raise BadRequest(
            f"cannot exec into a container in a completed pod; current phase is {phase}"
        )
    streams = [key for key in STREAMS if (query.get(key) or ("",))[-1] in _TRUE]
    if not {"stdin", "stdout", "stderr"} & set(streams):
        raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    if subresource == "exec" and not any(query.get("command", ())):
        raise BadRequest("you must specify at least one command for the container")
    container = container_of(
        pod, (query.get("container") or ("",))[-1], may_choose=subresource == "attach"
    )
    asked = [(STREAMS[key], "1") for key in streams]
    asked += [("command", word) for word in query.get("command", ()) if subresource == "exec"]
    return f"/{subresource}/{_place(pod)}/{container}", urlencode(asked)
