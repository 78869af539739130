"""PredRNN (Wang et al. 2017) and PredRNN-V2 (Wang et al. 2022, arXiv 2103.09504)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from stjax.layers.convolution import Conv
from stjax.layers.recurrent_stack import Gated
from stjax.models.prediction.recurrent import RecurrentPredictor


class STLSTM(Gated):
    """Spatiotemporal LSTM: a cell of its own, and the memory that passes through all layers.

    (arXiv 2103.09504, equation 3.) What it adds to each is handed on under "added".
    """

    @nn.compact
    def __call__(self, x, state, passed):
        hidden, cell = state
        memory = passed["memory"]
        by_x = self.gates("x", x, "i f g i' f' g' o")
        by_hidden = self.gates("hidden", hidden, "i f g o")
        by_memory = self.gates("memory", memory, "i' f' g'")

        forget = sigmoid(by_x["f"] + by_hidden["f"] + 1)
        added = sigmoid(by_x["i"] + by_hidden["i"]) * jnp.tanh(by_x["g"] + by_hidden["g"])
        cell = forget * cell + added

        forget = sigmoid(by_x["f'"] + by_memory["f'"] + 1)
        to_memory = sigmoid(by_x["i'"] + by_memory["i'"]) * jnp.tanh(by_x["g'"] + by_memory["g'"])
        memory = forget * memory + to_memory

        both = jnp.concatenate([cell, memory], -1)
        output = sigmoid(by_x["o"] + by_hidden["o"] + self.gates("output", both, "o")["o"])
        hidden = output * jnp.tanh(self.conv("merge", both, self.features))
        added = *passed.get("added", ()), (added, to_memory)
        return hidden, (hidden, cell), passed | {"memory": memory, "added": added}


class Decoupling(nn.Module):
    """Sows PredRNN-V2's memory decoupling loss of what the `STLSTM`s of a step added.

    The mean, over layers, samples and channels, of how alike (absolute cosine over space) the
    additions to cell and memory are after a 1x1 convolution that all share (arXiv 2103.09504,
    section 3.4).

    Attributes:
        weight: of the loss.
    """

    weight: float
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    def start(self, frame):
        return ()

    @nn.compact
    def __call__(self, x, state, passed):
        # Its parameter has to be there from the start, whoever asks for the loss.
        if self.is_initializing() or self.is_mutable_collection("losses"):
            added = jnp.stack(jax.tree.leaves(passed["added"]))
            adapter = Conv(
                added.shape[-1], (1, 1), use_bias=False, dtype=self.dtype,
                param_dtype=self.param_dtype, name="adapter",
            )
            adapted = adapter(added.reshape(-1, *added.shape[2:]))
            cells, memories = jnp.moveaxis(adapted.reshape(-1, 2, *added.shape[1:]), 1, 0)
            over_space = functools.partial(jnp.sum, axis=(-3, -2))
            lengths = over_space(cells**2) * over_space(memories**2)
            cosine = over_space(cells * memories) * jax.lax.rsqrt(jnp.maximum(lengths, 1e-24))
            self.sow("losses", "decoupling", self.weight * jnp.mean(jnp.abs(cosine)))
        return x, state, passed


class PredRNN(RecurrentPredictor):
    """Stacked `STLSTM`s.

    Attributes:
        decoupling: weight of the memory decoupling loss, which is sown under "losses"; PredRNN-V2
            has 0.1, PredRNN none. V2 is trained with reverse scheduled sampling, too.
    """

    decoupling: float = 0.0

    def layers(self):
        layers = self.alike(STLSTM)
        if self.decoupling:
            layers["decoupling"] = functools.partial(Decoupling, self.decoupling, **self.types)
        return layers
