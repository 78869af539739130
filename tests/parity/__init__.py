"""How each official network's golden files are computed with ours.

A driver builds our module from a manifest alone and says what to compare. Drivers are found by
the official repository and class that the manifest names, so that a new file, of another depth or
option, is a new test without a new line.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stjax.convert.rules import Rule
from tests.golden_files import Golden


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden file, made computable.

    Attributes:
        forward: `(variables, inputs) -> (scalar, outputs)`. The scalar is what the file's
            gradients are of (None where it has none); the outputs carry the file's names and
            layouts. Traced once, in one jitted call with the gradients.
        rules: the converter's table, official names to ours; names the gradients too.
        left_out: official names that the converter does not read.
        tolerances: output name -> relative tolerance, for named exceptions to the file's own.
        in_float32: the same for float32 alone, where rounding crosses a kink.
        texts: outputs that are texts, which are the same or not; no jitted call gives them.
        products: whether to compute within `tests.quick.products`.
    """

    forward: Callable[[Any, Mapping[str, Any]], tuple[Any, dict[str, Any]]]
    rules: tuple[Rule, ...] = ()
    left_out: tuple[str, ...] = ()
    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    in_float32: Mapping[str, float] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    products: bool = False


Driver = Callable[[Golden], Case]
