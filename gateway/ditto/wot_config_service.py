"""The configuration of WoT validation: what the settings say, and what operators put over it.

What is put is durable before it is answered, and holds for the next command.
Source: Ditto 3.9, WoT validation config.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from gateway.config.wot_validation import WotValidation, WotValidationSection
from gateway.ditto.clock import Clock, text_of, utc_now
from gateway.ditto.wot_config_store import GLOBAL, StoredConfig, WotConfigStore
from gateway.errors import BadRequest, GatewayError, InvalidSetting
from gateway.model.json import Json, JsonObject
from gateway.model.thing import HeaderValue
from gateway.twin.conditions import check_tags, revision_tag
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.wot.validation import Definitions
from gateway.twin.wot.validation_rules import (
    Rules,
    as_json,
    checked_switches,
    invalid_config,
    with_switches,
)
from gateway.twin.wot.validation_sections import (
    MAX_SECTIONS,
    RuleBook,
    Section,
    read_section,
    read_sections,
)

MERGED: Final = "ditto:merged"
_SECTIONS: Final = "dynamic-config"
_FACTS: Final = ("revision", "created", "modified", "deleted", "metadata")
_READ_ONLY: Final = frozenset(("configId", *_FACTS, *(f"_{name}" for name in _FACTS)))
_SERVICE: Final = "wot.validation.config"


@dataclass(frozen=True, slots=True)
class _Put:
    """What operators put: checked switches, and sections."""

    switches: JsonObject
    sections: tuple[Section, ...] = ()

    @classmethod
    def parse(cls, value: Json) -> _Put:
        if not isinstance(value, dict):
            raise invalid_config("it is a JSON object")
        given = {name: below for name, below in value.items() if name not in _READ_ONLY}
        sections = given.pop(_SECTIONS, None) or given.pop("dynamicConfig", None) or []
        return cls(checked_switches(given), read_sections(sections))

    @property
    def document(self) -> JsonObject:
        sections: list[Json] = [section.document for section in self.sections]
        return {**self.switches, _SECTIONS: sections} if sections else dict(self.switches)


class WotConfig:
    """Module: loads what is stored, then answers; holds the rules of the moment."""

    name = "ditto.wot.config"

    def __init__(
        self, store: WotConfigStore, settings: WotValidation, clock: Clock = utc_now
    ) -> None:
        """Errors: InvalidSetting for sections in the settings that cannot be used."""
        self._store = store
        self._clock = clock
        self._static = Rules(
            enabled=settings.enabled,
            log_warning_instead_of_failing_api_calls=settings.log_warning_instead_of_failing_api_calls,
            thing=settings.thing,
            feature=settings.feature,
        )
        self._own = _static_sections(settings)
        self._stored: StoredConfig | None = None
        self._put: _Put | None = None
        self._book = RuleBook(self._static, self._own)
        self._changing = asyncio.Lock()

    async def run(self, ready: Callable[[], None]) -> None:
        """Module."""
        self._hold(await self._store.load())
        ready()
        await asyncio.Event().wait()

    def rules_for(
        self,
        headers: Mapping[str, HeaderValue],
        subjects: tuple[str, ...],
        definitions: Definitions,
    ) -> Rules:
        """The switches as they hold for one command or message of these subjects."""
        if not self._book.sections:
            return self._book.rules

        def header_of(name: str) -> str | None:
            if name == "ditto-originator" and subjects:
                return subjects[0]
            value = headers.get(name)
            return value if value is None or isinstance(value, str) else _text(value)

        return self._book.rules_for(header_of, definitions)

    # --- showing ----------------------------------------------------------------------------------

    @property
    def tag(self) -> str | None:
        """The entity tag of what operators put, None while there is nothing."""
        return None if self._put is None or self._stored is None else self._tag_of(self._stored)

    def shown(self) -> JsonObject:
        """What operators put.

        Errors: 404 `wot.validation.config:notaccessible`.
        """
        if self._put is None or self._stored is None:
            raise _absent()
        bare: JsonObject = {"configId": GLOBAL, "thing": {}, "feature": {}}
        return {**bare, **self._put.document, **_facts(self._stored)}

    def merged(self) -> JsonObject:
        """What holds: the settings with what operators put over them, and all sections."""
        sections: list[Json] = [section.document for section in self._book.sections]
        facts = _facts(self._stored) if self._put is not None and self._stored is not None else {}
        return {
            "configId": MERGED,
            **as_json(self._book.rules),
            _SECTIONS: sections,
            **facts,
        }

    def sections(self) -> list[Json]:
        """The sections that operators put."""
        return [section.document for section in self._put.sections] if self._put else []

    def section(self, scope_id: str) -> JsonObject:
        """One of them.

        Errors: 404 `wot.validation.config:notaccessible`.
        """
        for section in self._put.sections if self._put else ():
            if section.scope_id == scope_id:
                return section.document
        raise _absent(scope_id)

    # --- changing ---------------------------------------------------------------------------------

    async def put(self, value: Json, headers: Mapping[str, HeaderValue]) -> bool:
        """Put a configuration in place of the one before; True where there was none.

        Errors: 400 `wot.validation.config:invalid`, 412, StoreUnavailable.
        """
        put = _Put.parse(value)
        async with self._changing:
            self._check(headers)
            is_new = self._put is None
            await self._save(put)
        return is_new

    async def delete(self, headers: Mapping[str, HeaderValue]) -> None:
        """Forget what operators put: the settings hold again.

        Errors: 404, 412, StoreUnavailable.
        """
        async with self._changing:
            if self._put is None:
                raise _absent()
            self._check(headers)
            await self._save(None)

    async def put_section(
        self, scope_id: str, value: Json, headers: Mapping[str, HeaderValue]
    ) -> None:
        """Put a section, new or again; a new one comes last.

        Errors: 400 `wot.validation.config:invalid`, 412, StoreUnavailable.
        """
        section = read_section(value, scope_id)
        async with self._changing:
            self._check(headers)
            put = self._put or _Put({})
            known = [one.scope_id for one in put.sections]
            if scope_id in known:
                sections = tuple(
                    section if one.scope_id == scope_id else one for one in put.sections
                )
            elif len(known) >= MAX_SECTIONS:
                raise invalid_config(f"there are at most {MAX_SECTIONS} sections")
            else:
                sections = (*put.sections, section)
            await self._save(replace(put, sections=sections))

    async def delete_section(self, scope_id: str, headers: Mapping[str, HeaderValue]) -> None:
        """Forget a section.

        Errors: 404, 412, StoreUnavailable.
        """
        async with self._changing:
            self.section(scope_id)
            self._check(headers)
            assert self._put is not None  # noqa: S101  it has the section
            kept = tuple(one for one in self._put.sections if one.scope_id != scope_id)
            await self._save(replace(self._put, sections=kept))

    def _check(self, headers: Mapping[str, HeaderValue]) -> None:
        check_tags(headers, self.tag, service=_SERVICE, is_read=False)

    async def _save(self, put: _Put | None) -> None:
        now = text_of(self._clock())
        before = self._stored
        is_new = before is None or before.document is None
        stored = StoredConfig(
            before.revision + 1 if before else 1,
            None if put is None else put.document,
            now if is_new or before is None else before.created,
            now,
        )
        await self._store.save(stored)
        self._hold(stored)

    def _hold(self, stored: StoredConfig | None) -> None:
        self._stored = stored
        has_some = stored is not None and stored.document is not None
        self._put = _Put.parse(stored.document) if stored is not None and has_some else None
        rules, sections = self._static, self._own
        if self._put is not None:
            rules = with_switches(rules, self._put.switches)
            sections = (*sections, *self._put.sections)
        self._book = RuleBook(rules, sections)

    @staticmethod
    def _tag_of(stored: StoredConfig) -> str:
        return revision_tag(stored.revision)


def _static_sections(settings: WotValidation) -> tuple[Section, ...]:
    sections = []
    for at, section in enumerate(settings.dynamic_configuration):
        try:
            sections.append(read_section(_as_document(section)))
        except BadRequest as error:
            where = f"ditto.wot.validation.dynamic_configuration[{at}]"
            raise InvalidSetting(f"{where}: {error.message}") from error
    return tuple(sections)


def _as_document(section: WotValidationSection) -> JsonObject:
    return {
        "scope-id": section.scope_id,
        "validation-context": {
            "ditto-headers-patterns": [dict(one) for one in section.ditto_headers_patterns],
            "thing-definition-patterns": [*section.thing_definition_patterns],
            "feature-definition-patterns": [*section.feature_definition_patterns],
        },
        "config-overrides": section.config_overrides,
    }


def _facts(stored: StoredConfig) -> JsonObject:
    return {
        "_revision": stored.revision,
        "_created": stored.created,
        "_modified": stored.modified,
    }


def _absent(scope_id: str | None = None) -> GatewayError:
    which = "" if scope_id is None else f" with the scope '{scope_id[:200]}'"
    return ditto_error("wot.validation.config:notaccessible", which=which)


def _text(value: HeaderValue) -> str:
    return msgspec.json.encode(value).decode()
