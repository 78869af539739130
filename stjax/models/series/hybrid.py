"""Gates, recurrence and attention as parts that are exchanged in one forecaster.

(Heidenreich, Vlachas & Koumoutsakos 2024, "Deconstructing recurrence, attention, and gating", arXiv
2410.02654. There is no published code; what the abstract leaves open is our reading of it.)
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers import recurrent
from stjax.layers.attention import StreamingAttention
from stjax.layers.feed_forward import FeedForward
from stjax.layers.gates import Gate
from stjax.layers.partitioning import named
from stjax.layers.retention import MultiScaleRetention
from stjax.layers.s5 import S5
from stjax.layers.segments import PreviousSegment, Segments, StateTokens
from stjax.layers.sequence import Stack

CELLS = ("lstm", "gru", "rhn")
_linear = nn.initializers.lecun_normal()


class HybridLayer(nn.Module):
    """A temporal mixer, attention over its last outputs if any, and gated joints if any; a mixer.

        s = mixer(norm(x));  s <- g(s, attention(norm(s)))
        y = g(x, W s);  y <- g(y, MLP(norm(y)))

    Without joints it is the bare mixer: y = s, of x as it is.

    Attributes:
        mixer: factory of the mixer over time, which keeps the width.
        attention: factory of a mixer over its outputs; None: there is none.
        joint: kind of the gates g, a key of `stjax.ops.gates.LOGITS`; "none": no joints, and what
            attention gives is added.
        project: whether there is a W, for mixers that end in no map of their own.
        mlp_ratio: hidden width of the MLP over that of the layer.
    """

    mixer: Callable[..., nn.Module]
    attention: Callable[..., nn.Module] | None
    joint: str
    project: bool
    mlp_ratio: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: Any = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t d"], Any]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = lambda name: nn.LayerNorm(**types, name=f"{name}_norm")
        bare = self.joint == "none"
        join = lambda name: Gate("additive" if bare else self.joint, **types, name=f"{name}_gate")
        state, cache = (None, None) if state is None else state
        mixed = x if bare else norm("mixer")(x)
        mixed, state = self.mixer(name="mixer")(mixed, state, train=train)
        if self.attention is not None:
            seen = norm("attention")(mixed)
            seen, cache = self.attention(name="attention")(seen, cache, train=train)
            mixed = join("attention")(mixed, seen)
        if bare:
            return mixed, (state, cache)
        if self.project:
            kernel = named(_linear, "embed", "embed")
            mixed = nn.Dense(x.shape[-1], kernel_init=kernel, **types, name="project")(mixed)
        x = join("mixer")(x, mixed)
        hidden = int(self.mlp_ratio * x.shape[-1])
        mlp = FeedForward(hidden, kernel_init=_linear, **types, name="mlp")
        return join("mlp")(x, mlp(norm("mlp")(x), train=train)), (state, cache)


class Hybrid(nn.Module):
    """A linear map, layers, a linear map: from the steps of a series to each one's next.

    Attributes:
        features: width of the layers.
        layers: how many.
        mixer: over time, a key of `MIXERS`: the cells "lstm", "gru", "rhn"; "attention" over the
            last `context` steps (a transformer); "segments" and "tokens", transformers that recur,
            in segments of half the context; "s5", "retention".
        joint: the neural gating of the residual joints, "additive" (none: an ordinary residual),
            "rate", "leaky", "input", "coupled", "uncoupled" (see `stjax.ops.gates`); "none": the
            mixers follow each other bare.
        window: outputs of a cell that attention looks back on; 0: no attention.
        gate: how a cell's candidate enters its state, of the same kinds; "": as in the cell.
        depth: layers of a step of "rhn".
        heads: of attention and retention.
        context: see `mixer`.
        tokens: of the state of "tokens".
        mlp_ratio: see `HybridLayer`.
        dropout: rate on the state of "rhn", one mask for all steps.
        remat: recompute each layer in the backward pass.
    """

    features: int = 64
    layers: int = 1
    mixer: str = "rhn"
    joint: str = "coupled"
    window: int = 32
    gate: str = ""
    depth: int = 3
    heads: int = 4
    context: int = 64
    tokens: int = 8
    mlp_ratio: float = 2.0
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

    @nn.compact
    def __call__(
        self, series: Float[Array, "b t n"], state: Any = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t n"], Any]:
        """What follows each step, and the state after the last.

        Raises:
            ValueError: an unknown mixer, or heads that do not divide the features.
        """
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer: {self.mixer!r} is none of {', '.join(MIXERS)}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = functools.partial(
            StreamingAttention, self.heads, self.window, lags=True, **types
        )
        layer = functools.partial(
            HybridLayer,
            functools.partial(MIXERS[self.mixer](self), **types),
            attention if self.window else None,
            self.joint,
            self.mixer in CELLS,
            self.mlp_ratio,
            **types,
        )
        into = named(_linear, None, "embed")
        x = nn.Dense(self.features, kernel_init=into, **types, name="in")(series)
        x, state = Stack(layer, self.layers, remat=self.remat, name="stack")(x, state, train=train)
        if self.joint != "none":
            x = nn.LayerNorm(**types, name="norm")(x)
        out = named(_linear, "embed", None)
        return nn.Dense(series.shape[-1], kernel_init=out, **types, name="out")(x), state


def _cell(cell: type[nn.Module], *options: str) -> Callable[[Hybrid], Callable[..., nn.Module]]:
    """The cell with the model's width, its gate if it names one, and the named fields."""

    def factory(model):
        fields = {name: getattr(model, name) for name in options}
        gate = {"gate": model.gate} if model.gate else {}
        return functools.partial(cell, model.features, **gate, **fields)

    return factory


# The model -> a factory of its mixer.
MIXERS: Mapping[str, Callable[[Hybrid], Callable[..., nn.Module]]] = {
    "lstm": _cell(recurrent.LSTM),
    "gru": _cell(recurrent.GRU),
    "rhn": _cell(recurrent.RHN, "depth", "dropout"),
    "attention": lambda model: functools.partial(
        StreamingAttention, model.heads, model.context, lags=True
    ),
    "segments": lambda model: functools.partial(
        Segments, functools.partial(PreviousSegment, model.heads), model.context // 2,
        model.context // 2,
    ),
    "tokens": lambda model: functools.partial(
        Segments, functools.partial(StateTokens, model.heads, model.tokens), model.context // 2,
        model.tokens,
    ),
    "s5": lambda model: functools.partial(S5, model.features, 2 * model.features),
    "retention": lambda model: functools.partial(MultiScaleRetention, model.heads),
}
