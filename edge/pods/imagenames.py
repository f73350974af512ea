"""Names of images: what is one, what it leaves unsaid, and when it is pulled.

Source: the reference grammar of `distribution/reference` 0.6; kubelet 1.36 (`applyDefaultImageTag`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import BadRequest

ALWAYS, IF_NOT_PRESENT, NEVER = "Always", "IfNotPresent", "Never"
LATEST = "latest"
DEFAULT_DOMAIN, OTHER_DEFAULT, OFFICIAL = "docker.io", "index.docker.io", "library/"
MAX_REPOSITORY = 255
MAX_NAME = 1_000

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_HOST}(?:\.{_HOST})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_DIGESTS = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True)
class ImageName:
    """A name taken apart. `repository` has its domain (`docker.io/library/busybox`)."""

    repository: str
    tag: str = ""
    digest: str = ""


def parse(name: str) -> ImageName:
    """Take a name apart. Errors: BadRequest in the words of the reference grammar."""
    if len(name) > MAX_NAME or _IDENTIFIER.fullmatch(name):
        raise _bad(name, "invalid reference format")
    domain, rest = _split(name)
    path = re.split("[:@]", rest, maxsplit=1)[0]
    if path != path.lower():
        raise _bad(name, f"invalid reference format: repository name ({path}) must be lowercase")
    found = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if found is None:
        raise _bad(name, "invalid reference format")
    if len(found["name"]) > MAX_REPOSITORY:
        raise _bad(name, f"repository name must not be more than {MAX_REPOSITORY} characters")
    digest = found["digest"] or ""
    _check_digest(name, digest)
    tag = found["tag"] or ""
    return ImageName(found["name"], tag or ("" if digest else LATEST), digest)


def _split(name: str) -> tuple[str, str]:
    """Return domain and path: a first part without dot, port or capitals is no domain."""
    first, slash, rest = name.partition("/")
    is_domain = bool(slash) and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, name)
    domain = DEFAULT_DOMAIN if domain == OTHER_DEFAULT else domain
    return domain, f"{OFFICIAL}{path}" if domain == DEFAULT_DOMAIN and "/" not in path else path


def _check_digest(name: str, digest: str) -> None:
    kind, _, value = digest.partition(":")
    if digest and kind not in _DIGESTS:
        raise _bad(name, "unsupported digest algorithm")
    if digest and len(value) != _DIGESTS[kind]:
        raise _bad(name, "invalid checksum digest length")


def _bad(name: str, why: str) -> BadRequest:
    return BadRequest(f'couldn\'t parse image name "{name[:MAX_NAME]}": {why}')


def with_tag(name: str) -> str:
    """Return the name as the Pod wrote it, with `:latest` where it has neither tag nor digest.

    Errors: as `parse`.
    """
    parsed = parse(name)
    needs = not parsed.digest and not name.endswith(f":{parsed.tag}")
    return f"{name}:{parsed.tag}" if needs else name


def policy_of(policy: str, name: str) -> str:
    """Return the pull policy; unsaid it is Always for `latest`, else IfNotPresent. Errors: as `parse`."""
    return policy or (ALWAYS if parse(name).tag == LATEST else IF_NOT_PRESENT)
