"""A setting of words where one is `on` or `off`."""

from __future__ import annotations


class Switch(str):
    """`on`, `off` or another word. YAML reads a bare `on` as true: that is meant, too."""

    __slots__ = ()

    def __new__(cls, value: object = "") -> Switch:
        if isinstance(value, bool):
            value = "on" if value else "off"
        return super().__new__(cls, str(value))


AUTO = Switch("auto")
