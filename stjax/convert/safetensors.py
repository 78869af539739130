"""Checkpoints in Hugging Face's format: one `.safetensors` file, or several with an index.

    variables = jax.eval_shape(module.init, key, ids)
    variables = safetensors.load("Meta-Llama-3-8B", llama.rules(config), variables, llama.LEFT_OUT)
"""

import difflib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from stjax.convert.rules import Rule, from_official, matches, to_official

INDEX = "model.safetensors.index.json"
_SHOWN = 5  # names in an error


def load(
    path: str | pathlib.Path,
    rules: Iterable[Rule],
    variables: Any,
    left_out: Sequence[str] = (),
    *,
    only: str = "",
) -> dict[str, Any]:
    """Our variables out of a checkpoint, each tensor in its own dtype.

    Args:
        path: a file, an index, or a folder that holds "model.safetensors" or its index.
        rules: the converter's table.
        variables: shapes of our variables, as `jax.eval_shape` of `init` gives them.
        left_out: patterns of official names that hold nothing we need.
        only: what the names that are read begin with; there may be others.

    Raises:
        FileNotFoundError: no such file, or a part that the index names is not there.
        ValueError: a file that cannot be read; tensors that are missing, too many or of another
            shape, by name, with the nearest names there are.
    """
    rules = tuple(rules)
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), variables)
    wanted = {name: array.shape for name, array in to_official(rules, zeros).items()}
    parts = [(file, list(_headers(file, only))) for file in files(pathlib.Path(path))]
    found = {
        name: shape for _, headers in parts for name, shape in headers
        if not matches(name, left_out)
    }
    if wrong := _differences(found, wanted):
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:_SHOWN])}{more}")
    state = {}
    for file, headers in parts:
        with _opened(file) as tensors:
            state |= {name: tensors.get_tensor(name) for name, _ in headers if name in wanted}
    return from_official(rules, state)


def files(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The files that a checkpoint lies in."""
    if path.is_dir():
        one = path / "model.safetensors"
        path = one if one.is_file() else path / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if path.suffix != ".json":
        return (path,)
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{path}: not an index with a 'weight_map'") from None
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(names)} files are not there, first {missing[0]}"
        )
    return tuple(path.parent / name for name in names)


def _headers(file: pathlib.Path, only: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    with _opened(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118, it is no dict
            if name.startswith(only):
                yield name, tuple(tensors.get_slice(name).get_shape())


def _opened(file):
    try:
        return safe_open(file, "np")
    except SafetensorError as error:
        raise ValueError(f"{file}: not a readable .safetensors file ({error})") from None


def _differences(found: Mapping[str, tuple], wanted: Mapping[str, tuple]) -> list[str]:
    lines = []
    for name in wanted:
        if name not in found:
            lines.append(f"{name} is missing{_near(name, found)}")
        elif found[name] != wanted[name]:
            lines.append(f"{name} is {found[name]} instead of {wanted[name]}")
    return lines + [
        f"{name} is no tensor of ours{_near(name, wanted)}" for name in found if name not in wanted
    ]


def _near(name, names):
    near = difflib.get_close_matches(name, names, n=1)
    return f" (nearest: {near[0]})" if near else ""
