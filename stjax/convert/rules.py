"""Foreign checkpoints as tables of rules, read in both directions.

A converter is a tuple of `Rule`s: the official name (a numeric wildcard such as `{i}` stands for
the depth), the path of our variable, and how the axes move, as an einops pattern. Forwards the
table turns an official state dict into our variables; backwards it gives our parameters, or their
gradients, their official names and layouts.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import einops
import numpy as np
from flax import traverse_util

_WILDCARD = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a converter's table.

    Attributes:
        official: official name; `{i}` matches a number.
            Several names: their arrays, of `sections` entries along `axis`, are ours put together.
        ours: path below the variables, "params/encoder/conv_{i}/kernel". A wildcard of `official`
            that is missing here is stacked on a new leading axis (the layout of `nn.scan`); where
            several are, they lead in the order of `official`.
            Several paths: the official array is cut along `axis` into parts of `sections` entries.
        pattern: einops pattern from the official layout to ours; None leaves the axes alone.
        sizes: lengths of axes that the pattern composes or takes apart.
        axis, sections: how an array that feeds several of our variables is cut (after `pattern`),
            or how one of ours is made of several official ones; there `axis` counts from the end.
        starts: the first number of a stacked wildcard, where that is not 0.
    """

    official: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    pattern: str | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    axis: int = 0
    sections: tuple[int, ...] = ()
    starts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.official,) if isinstance(self.official, str) else self.official

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def stacked(self) -> tuple[str, ...]:
        """The wildcards whose entries our variable stacks on its leading axes, in their order."""
        kept = _WILDCARD.findall(self.paths[0])
        found = dict.fromkeys(_WILDCARD.findall(self.names[0]))
        return tuple(name for name in found if name not in kept)

    def forward(self, array: np.ndarray) -> list[np.ndarray]:
        array = _rearrange(array, self.pattern, self.sizes)
        if len(self.paths) == 1:
            return [array]
        if sum(self.sections) != array.shape[self.axis]:
            raise ValueError(
                f"{self.official}: sections {self.sections} do not add up to axis {self.axis} "
                f"of {array.shape}"
            )
        return np.split(array, np.cumsum(self.sections)[:-1], axis=self.axis)

    def backward(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, self.axis)
        reverse = None if self.pattern is None else " -> ".join(reversed(self.pattern.split("->")))
        return _rearrange(array, reverse, self.sizes)


def from_official(
    rules: Iterable[Rule], state: Mapping[str, np.ndarray], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Turns an official state dict into our variables, {"params": ..., "batch_stats": ...}.

    Args:
        rules: the converter's table.
        state: official name -> array.
        left_out: patterns of official names that hold nothing we need (fixed tables, counters,
            weights that the official forward never reads).

    Raises:
        ValueError: an official name that no rule matches, or a rule that no name matches.
    """
    rules = tuple(rules)
    patterns = [
        (rule, part, _regex(name)) for rule in rules for part, name in enumerate(rule.names)
    ]
    stacks: dict[str, dict[int, dict[tuple[int, ...], np.ndarray]]] = {}
    axes, used, unknown = {}, set(), []
    for name, array in state.items():
        if matches(name, left_out):
            continue
        hits = [(k, m) for k, (*_, p) in enumerate(patterns) if (m := p.fullmatch(name))]
        if not hits:
            unknown.append(name)
            continue
        k, match = hits[0]
        used.add(k)
        (rule, part, _), index = patterns[k], match.groupdict()
        for path, entry in zip(rule.paths, rule.forward(np.asarray(array))):
            place = tuple(int(index[wildcard]) for wildcard in rule.stacked)
            path = path.format(**index)
            stacks.setdefault(path, {}).setdefault(part, {})[place] = entry
            axes[path] = rule.axis
    unused = [rule.names[part] for k, (rule, part, _) in enumerate(patterns) if k not in used]
    if unknown or unused:
        raise ValueError(
            f"official names without a rule: {unknown}; rules without a name: {unused}"
        )
    flat = {}
    for path, parts in stacks.items():
        arrays = [_stack(parts[part]) for part in sorted(parts)]
        flat[path] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axes[path])
    return traverse_util.unflatten_dict(flat, sep="/")


def to_official(rules: Iterable[Rule], variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns our variables (or gradients of their shape) into an official state dict."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    official = {}
    for rule in rules:
        first = _regex(rule.paths[0])
        for path in flat:
            match = first.fullmatch(path)
            if match is None:
                continue
            index = match.groupdict()
            arrays = [np.asarray(flat[p.format(**index)]) for p in rule.paths]
            for place in np.ndindex(arrays[0].shape[: len(rule.stacked)]):
                numbers = {w: k + rule.starts.get(w, 0) for w, k in zip(rule.stacked, place)}
                parts = [[array[place] for array in arrays]]
                if len(rule.names) > 1:
                    cuts = np.cumsum(rule.sections)[:-1]
                    parts = [[part] for part in np.split(*parts[0], cuts, rule.axis)]
                for name, part in zip(rule.names, parts):
                    official[name.format(**index, **numbers)] = rule.backward(part)
    return official


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether an official name is one that any of the patterns describes."""
    return any(_regex(pattern).fullmatch(name) for pattern in patterns)


def _stack(parts: Mapping[tuple[int, ...], np.ndarray]) -> np.ndarray:
    """One array from its parts by their places on the leading axes; no axes: the one part."""
    axes = [sorted(set(axis)) for axis in zip(*parts)]
    stacked = np.stack([parts[place] for place in itertools.product(*axes)])
    return stacked.reshape((*map(len, axes), *stacked.shape[1:]))


@functools.cache
def _regex(pattern: str) -> re.Pattern:
    """`{i}` matches a number; the same wildcard twice must match the same number."""
    seen, out, end = set(), "", 0
    for match in _WILDCARD.finditer(pattern):
        out += re.escape(pattern[end : match.start()])
        name = match.group(1)
        out += f"(?P={name})" if name in seen else rf"(?P<{name}>\d+)"
        seen.add(name)
        end = match.end()
    return re.compile(out + re.escape(pattern[end:]))


def _rearrange(array, pattern, sizes):
    if pattern is None:
        return array
    words = set(re.findall(r"\w+", pattern))
    return einops.rearrange(array, pattern, **{k: v for k, v in sizes.items() if k in words})
