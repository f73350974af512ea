"""Thing Descriptions over HTTP: `Accept: application/td+json` on things and features, and the directory."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.config.wot import WotDescription
from gateway.ditto.endpoint import not_allowed
from gateway.ditto.request import ApiCall
from gateway.ditto.search_options import MAX_SIZE, SearchQuery
from gateway.ditto.service import ThingsService
from gateway.ditto.wot_models import Found, ThingModels
from gateway.errors import GatewayError
from gateway.model.entity_id import check_entity_id
from gateway.model.json import Json, JsonObject, Pointer
from gateway.twin.conditions import check_tags, value_tag
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.policy import Permissions
from gateway.twin.resources import Part, not_found
from gateway.twin.wot.description import DescriptionRules, Subject, describe, model_url
from gateway.twin.wot.directory import TD_TYPE, directory
from gateway.twin.wot.filtering import may_see, reduced
from gateway.twin.wot.model import ThingModel, url_of

PAGE: Final = 25


def asks_for_description(call: ApiCall) -> bool:
    """True where the caller would rather have a Thing Description than anything else."""
    first = call.request.headers.get(hdrs.ACCEPT, "").partition(",")[0]
    return first.partition(";")[0].strip().lower() == TD_TYPE


def is_describable(path: Pointer) -> bool:
    """True for a thing and for a feature."""
    return not path or (len(path) == 2 and path[0] == "features")


class Descriptions:
    """Makes descriptions for callers."""

    def __init__(
        self, things: ThingsService, models: ThingModels, settings: WotDescription
    ) -> None:
        self._things = things
        self._models = models
        self._settings = settings

    @property
    def is_public(self) -> bool:
        """True where everyone may ask for the directory."""
        return not self._settings.directory_authentication

    async def one(self, call: ApiCall, thing_id: str, path: Pointer) -> web.Response:
        """A thing's, or a feature's.

        Shape:  `etag` is a hash of what the caller sees; of the preconditions only `if-none-match` counts.
        Errors: 404 of thing and feature, `wot:definition.invalid`; `wot:tm.notfound` 421; 400 for models
                that are not valid; 304.
        """
        check_entity_id(thing_id, "things:id.invalid")
        thing = await self._things.load(thing_id)
        if thing is None:
            raise ditto_error("things:thing.notfound", id=thing_id)
        subject = Subject(thing, path[1] if path else None)
        self._permitted(call, subject)
        td = self._made(call, subject, await self._models.model(model_url(subject)))
        tag = value_tag(td)
        unwanted = {k: v for k, v in call.headers.items() if k == "if-none-match"}
        check_tags(unwanted, tag, service="things", is_read=True)
        return _answer(td, {hdrs.ETAG: tag})

    async def several(self, call: ApiCall, thing_ids: tuple[str, ...]) -> web.Response:
        """Those of things that have one, in the order asked."""
        things = [await self._things.load(thing_id) for thing_id in thing_ids]
        subjects = [Subject(thing) for thing in things if thing is not None]
        subjects = [one for one in subjects if may_see(one, self._permissions(call, one))]
        urls = [url for one in subjects if (url := url_of(one.definition())) is not None]
        found = await self._models.each(urls)
        tried = (self._tried(call, subject, found) for subject in subjects)
        return _answer([td for td in tried if td is not None])

    async def page(self, call: ApiCall) -> web.Response:
        """Those of all things that the caller may read: `offset` and `limit` count things."""
        offset, limit = _number(call, "offset", 0, 0), _number(call, "limit", PAGE, 1)
        found = await self._things.search(
            SearchQuery(
                subjects=call.subjects,
                fields="thingId",
                options=f"sort(+thingId),limit({offset},{min(limit, MAX_SIZE)})",
                scope=call.caller.access.things,
            )
        )
        return await self.several(call, found.ids)

    async def directory(self, call: ApiCall) -> web.StreamResponse:
        """`/.well-known/wot`."""
        method = call.request.method
        if method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise not_allowed(method, ("GET", "HEAD"))
        return _answer(directory(self._base(call), self._settings.template))

    def _tried(self, call: ApiCall, subject: Subject, found: Found) -> JsonObject | None:
        try:
            model = found[model_url(subject)]
            return self._made(call, subject, model) if isinstance(model, ThingModel) else None
        except GatewayError:
            return None

    def _made(self, call: ApiCall, subject: Subject, model: ThingModel) -> JsonObject:
        """The description as the caller sees it.

        Errors: 404 for who may nothing; 400 of the model.
        """
        permissions = self._permitted(call, subject)
        td = describe(subject, model, self._rules(call))
        return reduced(td, subject, model, permissions) if self._settings.filtered else td

    def _permitted(self, call: ApiCall, subject: Subject) -> Permissions:
        permissions = self._permissions(call, subject)
        if not may_see(subject, permissions):
            raise _absent(subject)
        return permissions

    def _permissions(self, call: ApiCall, subject: Subject) -> Permissions:
        return self._things.permissions(subject.thing, call.subjects)

    def _rules(self, call: ApiCall) -> DescriptionRules:
        settings = self._settings
        return DescriptionRules(
            base=self._base(call),
            template=settings.template,
            placeholders=settings.placeholders,
            created=settings.created,
            modified=settings.modified,
            uri_variables=settings.uri_variables,
        )

    def _base(self, call: ApiCall) -> str:
        """Where callers find the API."""
        called = f"{call.request.scheme}://{call.request.host}"
        return (self._settings.base_url or called).rstrip("/")


def _absent(subject: Subject) -> GatewayError:
    thing_id = subject.thing.thing_id
    if subject.feature_id is None:
        return ditto_error("things:thing.notfound", id=thing_id)
    return not_found(thing_id, Part.FEATURE, ("features", subject.feature_id))


def _answer(value: Json, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        headers={**(headers or {}), hdrs.VARY: hdrs.ACCEPT},
        content_type=TD_TYPE,
    )


def _number(call: ApiCall, name: str, default: int, least: int) -> int:
    text = call.query(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise ditto_error(
            "thing-search:search.option.invalid", reason=f"'{name}' is a number from {least}"
        )
    return int(text)
