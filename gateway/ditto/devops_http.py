"""`/devops/logging` and `/devops/config`: what operators look at and turn while the service runs."""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from gateway.ditto.endpoint import json_response, not_allowed, unknown_path
from gateway.ditto.health import INSTANCE, ROLES
from gateway.ditto.operations_http import only_get
from gateway.ditto.request import JSON_TYPE, ApiCall, parse_json, read_body, require_type
from gateway.errors import NotFound
from gateway.model.json import Json, JsonObject
from gateway.observe import levels
from gateway.twin.ditto_errors import ditto_error

MAX_BODY = 16_384
MASK = "*****"
_SECRET = re.compile(
    r"password$|secret$|passphrase$|authorization$|api[._-]?key$|jaas|^sasl\.username$|key\.pem$|keystore\.key$",
    re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"(//)[^/@\s]+@")


class DevopsRoutes:
    """The handlers.

    Shape:  `settings` is what the process was started with, as plain data.
    """

    def __init__(self, settings: Json) -> None:
        self._settings = masked(settings)

    # --- /devops/logging --------------------------------------------------------------------------

    async def logging(self, call: ApiCall) -> web.StreamResponse:
        """`/devops/logging[/{service}[/{instance}]]`: all services are one process, with the same loggers."""
        service = _service_of(call, "/devops/logging")
        if call.request.method == hdrs.METH_GET:
            all_of_them = call.query("includeDisabledLoggers") == "true"
            shown: list[Json] = [
                {"level": level, "logger": name}
                for name, level in levels.loggers(with_silent=all_of_them)
            ]
            return json_response(_each(service, "retrieveLoggerConfig", {"loggerConfigs": shown}))
        if call.request.method != hdrs.METH_PUT:
            raise not_allowed(call.request.method, ("GET", "PUT"))
        logger, level = await _change_of(call)
        levels.set_level(logger, level)
        told: JsonObject = {"successful": True, "logger": logger, "level": level}
        return json_response(_each(service, "changeLogLevel", told))

    # --- /devops/config ---------------------------------------------------------------------------

    async def config(self, call: ApiCall) -> web.StreamResponse:
        """`/devops/config[/{service}[/{instance}]]?path=ditto.http`: settings in force, without secrets."""
        only_get(call)
        service = _service_of(call, "/devops/config")
        return json_response(
            _each(
                service,
                "retrieveConfig",
                {"config": self.config_at(call.query("path") or "")},
                "common",
            )
        )

    def config_at(self, path: str) -> Json:
        """The settings below a dotted path.

        Errors: NotFound.
        """
        found = self._settings
        for name in path.split(".") if path else ():
            if not isinstance(found, dict) or name not in found:
                raise NotFound(
                    f"There is no setting '{path[:200]}'.",
                    description="Paths are those of the settings file, e.g. 'ditto.http'.",
                )
            found = found[name]
        return found


async def _change_of(call: ApiCall) -> tuple[str, str]:
    require_type(call.request, (JSON_TYPE,))
    body = parse_json(await read_body(call.request, MAX_BODY))
    asked = body if isinstance(body, dict) else {}
    return _text(asked, "logger"), _text(asked, "level")


def _text(asked: JsonObject, name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise ditto_error("json.field.missing", field=name)
    return value


def _service_of(call: ApiCall, prefix: str) -> str | None:
    """The service that a path names, None for all.

    Errors: NotFound for one that is none.
    """
    parts = [part for part in call.request.path.removeprefix(prefix).split("/") if part]
    if not parts:
        return None
    if len(parts) > 2 or parts[0] not in ROLES:
        raise unknown_path(call.request.path)
    return parts[0]


def _each(service: str | None, kind: str, told: JsonObject, family: str = "devops") -> JsonObject:
    """The same from each service: service -> instance -> response."""
    return {
        role: {
            INSTANCE: {
                "type": f"{family}.responses:{kind}",
                "status": 200,
                "serviceName": role,
                "instance": INSTANCE,
                **told,
            }
        }
        for role in ((service,) if service else ROLES)
    }


def masked(value: Json, name: str = "") -> Json:
    """Settings without what should stay secret."""
    if isinstance(value, dict):
        return {key: masked(below, key) for key, below in value.items()}
    if isinstance(value, list):
        return [masked(below, name) for below in value]
    if not isinstance(value, str) or not value:
        return value
    return MASK if _SECRET.search(name) else _USER_IN_URL.sub(rf"\g<1>{MASK}@", value)
