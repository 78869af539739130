"""Computation dtypes."""

from typing import Any

import jax
from flax.linen.dtypes import promote_dtype


def promote(tree: Any, dtype: Any = None) -> Any:
    """Casts a tree's arrays to `dtype`, or to their common inexact type where it is None."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, promote_dtype(*leaves, dtype=dtype))
