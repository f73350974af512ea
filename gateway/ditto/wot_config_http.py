"""`/devops/wot/config`: the configuration of WoT validation, for operators."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from gateway.ditto.auth import DEVOPS
from gateway.ditto.endpoint import Endpoints, json_response, not_allowed, unknown_path
from gateway.ditto.request import JSON_TYPE, ApiCall, parse_json, read_body, require_type
from gateway.ditto.things_http import rest_of
from gateway.ditto.wot_config_service import WotConfig
from gateway.model.json import Json
from gateway.twin.conditions import check_tags

PREFIX: Final = "/devops/wot/config"
MAX_BODY: Final = 262_144
_SECTIONS: Final = "dynamicConfigs"
_ALL: Final = ("GET", "PUT", "DELETE")


def routes(endpoints: Endpoints, config: WotConfig) -> list[web.RouteDef]:
    """The table of routes, for the server that mounts them."""
    handler = endpoints.devops(WotConfigRoutes(config).answer, DEVOPS)
    return [web.route("*", path, handler) for path in (PREFIX, PREFIX + "/{rest:.*}")]


class WotConfigRoutes:
    """The handlers of the configuration."""

    def __init__(self, config: WotConfig) -> None:
        self._config = config

    async def answer(self, call: ApiCall) -> web.StreamResponse:
        """Everything at and below `/devops/wot/config`."""
        rest = rest_of(call.request, PREFIX).strip("/")
        if not rest:
            return await self._whole(call)
        name, _, scope_id = rest.partition("/")
        if name == _SECTIONS and scope_id:
            return await self._section(call, scope_id)
        shown = {"merged": self._merged, _SECTIONS: self._sections}.get(rest)
        if shown is None:
            raise unknown_path(call.request.path)
        _require(call, ("GET",))
        return json_response(shown())

    def _merged(self) -> Json:
        return self._config.merged()

    def _sections(self) -> Json:
        return self._config.sections()

    async def _whole(self, call: ApiCall) -> web.Response:
        method = _require(call, _ALL)
        if method == hdrs.METH_GET:
            shown = self._config.shown()
            check_tags(
                call.headers, self._config.tag, service="wot.validation.config", is_read=True
            )
            return json_response(shown, headers=self._tagged())
        if method == hdrs.METH_DELETE:
            await self._config.delete(call.headers)
            return web.Response(status=204)
        if await self._config.put(await _body(call), call.headers):
            headers = {**self._tagged(), hdrs.LOCATION: str(call.request.url.with_query(None))}
            return json_response(self._config.shown(), 201, headers)
        return web.Response(status=204, headers=self._tagged())

    async def _section(self, call: ApiCall, scope_id: str) -> web.Response:
        method = _require(call, _ALL)
        if method == hdrs.METH_GET:
            return json_response(self._config.section(scope_id))
        if method == hdrs.METH_DELETE:
            await self._config.delete_section(scope_id, call.headers)
        else:
            await self._config.put_section(scope_id, await _body(call), call.headers)
        return web.Response(status=204, headers=self._tagged())

    def _tagged(self) -> dict[str, str]:
        tag = self._config.tag
        return {} if tag is None else {hdrs.ETAG: tag}


def _require(call: ApiCall, methods: tuple[str, ...]) -> str:
    method = call.request.method
    if method not in methods:
        raise not_allowed(method, methods)
    return method


async def _body(call: ApiCall) -> Json:
    require_type(call.request, (JSON_TYPE,))
    return parse_json(await read_body(call.request, MAX_BODY))
