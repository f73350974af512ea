"""By what a container's make is known again: its name and image, the parts of it that may be edited."""

from __future__ import annotations

import hashlib

from edge.pods.podspec import Container

HASH = "io.kubernetes.container.hash"
"""Annotation of containers."""


def spec_hash(container: Container) -> str:
    """Return the hash by which a container is judged changed: of what the kubelet hashes."""
    return hashlib.sha256(f"{container.name}\0{container.image}".encode()).hexdigest()[:16]
