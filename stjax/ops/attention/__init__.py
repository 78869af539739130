"""Attention: one entry that takes the description of a mask and picks the kernel.

No model writes its own softmax over keys: full, causal, windowed and sparse attention all call
`attention`, which knows what is fast where.
"""

from stjax.ops.attention.cache import Cache, extend, latest
from stjax.ops.attention.dense import naive_attention
from stjax.ops.attention.entry import METHODS, attention
from stjax.ops.attention.masks import (
    EMPTY,
    FULL,
    PARTIAL,
    Blocks,
    BlockSparse,
    Both,
    Causal,
    Dilated,
    Either,
    FrameCausal,
    Full,
    GlobalLocal,
    Mask,
    Neighbourhood,
    SameFrame,
    SlidingWindow,
    Windows,
)
from stjax.ops.attention.parts import merge
from stjax.ops.attention.radial import Radial, RadialBlocks

__all__ = [
    "EMPTY",
    "FULL",
    "METHODS",
    "PARTIAL",
    "BlockSparse",
    "Blocks",
    "Both",
    "Cache",
    "Causal",
    "Dilated",
    "Either",
    "FrameCausal",
    "Full",
    "GlobalLocal",
    "Mask",
    "Neighbourhood",
    "Radial",
    "RadialBlocks",
    "SameFrame",
    "SlidingWindow",
    "Windows",
    "attention",
    "extend",
    "latest",
    "merge",
    "naive_attention",
]
