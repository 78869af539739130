"""LoRA (Hu et al. 2021, arXiv 2106.09685): a low-rank change of a frozen network's kernels.

Functions of a tree of parameters: no network knows of it, and every network can have it. What is
trained is the adapters; `Lora.merged` gives the parameters that the network is then called with,
or that a checkpoint without adapters holds.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

Adapters = dict[str, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Lora:
    """W + (alpha / rank) A B, for the kernels that a pattern names.

    Attributes:
        rank: of the changes.
        alpha: their factor, times the rank.
        targets: pattern of a path ("blocks/attention/query/kernel"), which must match to its end,
            -> (leading axes on which layers are stacked, axes after them that are summed over).
    """

    rank: int
    alpha: float
    targets: Mapping[str, tuple[int, int]]

    def init(self, key: jax.Array, params: Any) -> Adapters:
        """Adapters that change nothing yet: path -> {"a": normal, "b": zeros}.

        Raises:
            ValueError: a pattern that names no parameter.
        """
        flat = traverse_util.flatten_dict(params, sep="/")
        adapters = {}
        for pattern, (stacked, summed) in self.targets.items():
            paths = [path for path in flat if re.search(rf"(?:^|/){pattern}$", path)]
            if not paths:
                raise ValueError(f"lora.targets: {pattern!r} names none of {sorted(flat)}")
            for path in paths:
                shape, dtype = flat[path].shape, flat[path].dtype
                layers, inputs = shape[:stacked], math.prod(shape[stacked : stacked + summed])
                outputs = math.prod(shape[stacked + summed :])
                key, own = jax.random.split(key)
                a = jax.random.normal(own, (*layers, inputs, self.rank), dtype) * inputs**-0.5
                adapters[path] = {"a": a, "b": jnp.zeros((*layers, self.rank, outputs), dtype)}
        return adapters

    def merged(self, params: Any, adapters: Adapters) -> Any:
        """The parameters with their changes."""
        flat = dict(traverse_util.flatten_dict(params, sep="/"))
        for path, adapter in adapters.items():
            change = self.alpha / self.rank * adapter["a"] @ adapter["b"]
            flat[path] = flat[path] + change.reshape(flat[path].shape)
        return traverse_util.unflatten_dict(flat, sep="/")
