"""Reads settings: defaults, then a YAML file, then what jobs of the cloud changed on this edge node
(`<data-dir>/edge/overlay.yaml`), then the environment, then `--set`; later ones win.

`TWINSPAN__DITTO__HTTP__BIND=...` in the environment and `--set ditto.http.bind=...` mean the same as
`ditto: {http: {bind: ...}}` in the file. An unknown key or a bad value is an error with its full path.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gateway.config.switch import Switch
from gateway.config.tree import Settings
from gateway.errors import InvalidSetting
from gateway.model.json import Json, JsonObject

log = logging.getLogger(__name__)

ENV_PREFIX = "TWINSPAN__"
OVERLAY = Path("edge") / "overlay.yaml"
"""What ConfigUpdateJobs changed, below the data directory; settings of `edge` alone."""
MAX_FILE_BYTES = 1_048_576


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return `/var/lib/twinspan` for root, else `$XDG_DATA_HOME/twinspan`."""
    if os.geteuid() == 0:
        return Path("/var/lib/twinspan")
    home = environ.get("XDG_DATA_HOME") or os.path.join(environ.get("HOME", "."), ".local/share")
    return Path(home) / "twinspan"


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    defaults: JsonObject | None = None,
) -> Settings:
    """Build the tree.

    Shape:  `sets` as `a.b.c=value`; values are read as YAML, so `0`, `true`, `[a, b]` mean what they say;
            `defaults` come before the file (what a data directory has kept).
    Errors: InvalidSetting, naming the full path, what was expected and what came.
    """
    environ = os.environ if environ is None else environ
    tree: JsonObject = {}
    _merge(tree, defaults or {})
    if file is not None:
        _merge(tree, read_yaml(file))
    _merge(tree, _overlay(_data_dir(tree, environ, sets)))
    for key, value in sorted(environ.items()):
        if key.startswith(ENV_PREFIX):
            path = key.removeprefix(ENV_PREFIX).lower().split("__")
            _put(tree, path, _scalar(value, key))
    for text in sets:
        name, sep, value = text.partition("=")
        if not sep or not name:
            raise InvalidSetting(f"--set: expected path=value, got {text!r}")
        _put(tree, name.strip().split("."), _scalar(value, name))
    tree.setdefault("data_dir", str(default_data_dir(environ)))
    settings = build(Settings, tree, "")
    assert isinstance(settings, Settings)  # noqa: S101  build returns what it was asked for
    return settings


def _data_dir(tree: JsonObject, environ: Mapping[str, str], sets: Sequence[str]) -> Path:
    """Return where state will live, before the tree is whole."""
    given = [text.partition("=")[2] for text in sets if text.startswith("data_dir=")]
    found = [*given, environ.get(f"{ENV_PREFIX}DATA_DIR"), tree.get("data_dir")]
    return next((Path(str(each)) for each in found if each), default_data_dir(environ))


def _overlay(data_dir: Path) -> JsonObject:
    """Return the overlay; one that is of no use is left out, or the node would be lost."""
    path = data_dir / OVERLAY
    if not os.path.isfile(path):
        return {}
    try:
        content = read_yaml(path)
        check_overlay(content)
    except InvalidSetting as error:
        log.warning("settings of a job are left out", extra={"cause": error.message})
        return {}
    return content


def check_overlay(content: JsonObject) -> None:
    """Refuse an overlay that a start would refuse. Errors: InvalidSetting, naming the full path."""
    others = [key for key in content if key != "edge"]
    if others:
        raise InvalidSetting(f"{others[0]}: only settings of edge may be changed by jobs")
    build(Settings, content, "")


def read_yaml(file: Path) -> JsonObject:
    """Read a settings file.

    Errors: InvalidSetting when it is missing, too large, not YAML or not a mapping.
    """
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise InvalidSetting(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSetting(f"{file}: not UTF-8: {error}") from error
    if len(text) > MAX_FILE_BYTES:
        raise InvalidSetting(f"{file}: at most {MAX_FILE_BYTES} bytes, got {len(text)}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSetting(f"{file}: not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidSetting(f"{file}: expected a mapping, got {type(content).__name__}")
    return typing.cast(JsonObject, content)


def build(cls: type[Any], value: Json, path: str, over: Any = None) -> object:
    """Make a frozen settings class from plain data; what is not given comes from `over`.

    Errors: InvalidSetting, naming the full path.
    """
    if not isinstance(value, dict):
        raise InvalidSetting(f"{path}: expected a mapping, got {value!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in value:
        if key not in known:
            where = f"{path}.{key}" if path else str(key)
            raise InvalidSetting(
                f"{where}: unknown setting; known here: {', '.join(sorted(known))}"
            )
    given = {
        name: _convert(hints[name], item, f"{path}.{name}" if path else name, known[name])
        for name, item in value.items()
    }
    try:
        return cls(**given) if over is None else dataclasses.replace(over, **given)
    except TypeError as error:
        raise InvalidSetting(f"{path}: {error}") from error


def _convert(hint: Any, value: Json, path: str, field: dataclasses.Field[Any]) -> object:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build_over_default(hint, value, path, field)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        return None if value is None else _convert(options[0], value, path, field)
    if origin is tuple:
        items = value if isinstance(value, list) else str(value).split(",") if value else []
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item, f"{path}[{i}]", field) for i, item in enumerate(items))
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidSetting(f"{path}: expected a mapping, got {value!r}")
        inner = typing.get_args(hint)[1]
        return {k: _convert(inner, item, f"{path}.{k}", field) for k, item in value.items()}
    return _convert_scalar(hint, value, path)


def _build_over_default(
    hint: type[Any], value: Json, path: str, field: dataclasses.Field[Any]
) -> object:
    """Keep what the parent sets by default in a branch that is given in part."""
    if field.default_factory is dataclasses.MISSING or not isinstance(value, dict):
        return build(hint, value, path)
    return build(hint, value, path, over=field.default_factory())


_WANTED: dict[type[Any], tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "int"),
    float: ((int, float), "number"),
    str: ((str, int, float), "text"),
    Switch: ((str, bool), "on, off or another word"),
    Path: ((str,), "path"),
}


def _convert_scalar(hint: Any, value: Json, path: str) -> object:
    accepted, name = _WANTED[hint]
    if isinstance(value, bool) and bool not in accepted:
        raise InvalidSetting(f"{path}: expected {name}, got {value!r}")
    if not isinstance(value, accepted):
        raise InvalidSetting(f"{path}: expected {name}, got {value!r}")
    return hint(value)


def _scalar(text: str, path: str) -> Json:
    try:
        return typing.cast(Json, yaml.safe_load(text)) if text else ""
    except yaml.YAMLError as error:
        raise InvalidSetting(f"{path}: not a YAML value: {text!r}") from error


def _put(tree: JsonObject, path: Sequence[str], value: Json) -> None:
    for at, key in enumerate(path[:-1]):
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise InvalidSetting(f"{'.'.join(path[: at + 1])}: is a value, not a branch")
        tree = branch
    tree[path[-1]] = value


def _merge(tree: JsonObject, other: JsonObject) -> None:
    for key, value in other.items():
        mine = tree.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            _merge(mine, value)
        else:
            tree[key] = value
