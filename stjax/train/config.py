"""Command-line overrides of a config, refused by name where they do not fit."""

import ast
import difflib
import inspect
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict


def configured(
    get_config: Callable[..., ConfigDict], scale: str, assignments: dict[str, str]
) -> ConfigDict:
    """The config of a scale with fields replaced, see `override`.

    Fields that `get_config` itself takes as arguments are passed to it: what other fields there
    are, and their values, depends on them.

    Raises:
        ValueError: what `override` refuses, and a choice that `get_config` does.
    """
    choices = {
        name: value for name, value in assignments.items()
        if name != "scale" and name in inspect.signature(get_config).parameters
    }
    rest = {name: value for name, value in assignments.items() if name not in choices}
    return override(get_config(scale, **choices), rest)


def override(config: ConfigDict, assignments: dict[str, str]) -> ConfigDict:
    """A copy of `config` with fields replaced: {"model.depth": "4"}.

    A value is read as Python literal where it is one, else as text, and must be of the field's
    type (an int serves for a float; a field of None takes anything).

    Raises:
        ValueError: an unknown field (the nearest names are given) or a value of a wrong type.
    """
    config = config.copy_and_resolve_references().unlock()
    for field, text in assignments.items():
        parent, leaf = _find(config, field)
        parent[leaf] = _cast(field, text, parent[leaf])
    return config.lock()


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Fields in which two nested dicts differ, as "field: ours, not theirs"."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        same = _plain(ours) == _plain(theirs)
        return [] if same else [f"{prefix[:-1]}: {ours!r}, not {theirs!r}"]
    missing = object()
    lines = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key, missing), theirs.get(key, missing)
        if mine is missing or other is missing:
            lines.append(f"{prefix}{key}: only in one of them")
        else:
            lines += differences(mine, other, f"{prefix}{key}.")
    return lines


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _find(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
    names = field.split(".")
    node = config
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        known = isinstance(node, ConfigDict) and name in node
        if not known or (isinstance(node[name], ConfigDict) == last):
            fields = _fields(config)
            near = difflib.get_close_matches(field, fields, n=3) or fields
            raise ValueError(f"unknown config field {field!r}; did you mean {', '.join(near)}?")
        if not last:
            node = node[name]
    return node, names[-1]


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
    fields = []
    for name, value in config.items():
        inner = isinstance(value, ConfigDict)
        fields += _fields(value, f"{prefix}{name}.") if inner else [prefix + name]
    return fields


def _cast(field: str, text: str, old: Any) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(old, str) and not isinstance(value, str):
        value = text
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if old is not None and type(value) is not type(old):
        raise ValueError(
            f"config field {field!r} is of type {type(old).__name__} ({old!r}); "
            f"{text!r} is {type(value).__name__}"
        )
    return value
