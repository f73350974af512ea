"""Names of container images, in parts. Pure.

Shape:  `[registry/]repository[:tag][@digest]`; the part before the first `/` is a registry when it has a dot
        or a port, or is `localhost`. Source: the grammar of image references of the Distribution project.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import BadRequest

MAX_NAME = 1_024
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
_REPOSITORY = re.compile(rf"{_WORD}(?:/{_WORD})*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image's name; parts that it has not are empty."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read a name. Errors: BadRequest."""
        if len(text) > MAX_NAME:
            raise BadRequest(f"an image's name of {len(text)} characters, {MAX_NAME} are allowed")
        rest, at, digest = text.partition("@")
        if at and not digest:
            raise BadRequest(f"expected a digest after @ in the image {text!r}")
        path, _, last = rest.rpartition("/")
        base, colon, tag = last.partition(":")
        if colon and not tag:
            raise BadRequest(f"expected a tag after the colon in the image {text!r}")
        registry, repository = _split(f"{path}/{base}" if path else base)
        return cls(registry, repository, tag, digest).checked()

    def checked(self) -> ImageName:
        """Return this name. Errors: BadRequest, naming the part that cannot be."""
        parts = (
            ("registry", self.registry, _REGISTRY, True),
            ("repository", self.repository, _REPOSITORY, False),
            ("tag", self.tag, TAG, True),
            ("digest", self.digest, DIGEST, True),
        )
        for what, value, rule, may_lack in parts:
            if not (may_lack and not value) and not rule.fullmatch(value):
                raise BadRequest(f"{value[:200]!r} is no {what} of an image")
        return self

    def __str__(self) -> str:
        registry = f"{self.registry}/" if self.registry else ""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{registry}{self.repository}{tag}{digest}"


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return first, rest
    return "", name
