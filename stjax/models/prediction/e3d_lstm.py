"""Eidetic 3D LSTM (Wang et al. 2019, openreview.net/forum?id=B1lKS2AqtX)."""

import functools
from typing import Literal

import einops
import flax.linen as nn
import jax.numpy as jnp
from jax.nn import sigmoid

from stjax.layers.recurrent_stack import Gated
from stjax.models.prediction.recurrent import RecurrentPredictor
from stjax.ops.attention import attention, latest


class Window(nn.Module):
    """Shows the frame before and this one, side by side as channels; before the first are zeros."""

    def start(self, frame):
        return jnp.zeros_like(frame)

    def __call__(self, x, state, passed):
        return jnp.concatenate([state, x], -1), x, passed


class EideticLSTM(Gated):
    """An LSTM over windows of two frames that recalls all its former cells by attention.

    Hidden state and cell are maps of (window, channels) side by side. The convolutions in time are
    as long as the window, so that their outputs are one map, which holds for both of its frames;
    likewise the memory. (The paper pads, OpenSTL does not.)

    Attributes:
        recalled: cells that are remembered, the latest ones.
        recall, frozen_memory: see `E3DLSTM`.
    """

    recalled: int = 19
    recall: Literal["places", "scrambled"] = "places"
    frozen_memory: bool = False

    def start(self, frame):
        hidden = _twice(self.zeros(frame))
        tokens = self._tokens(hidden)
        history = jnp.zeros((len(tokens), self.recalled * tokens.shape[1], self.features))
        return hidden, hidden, history.astype(frame.dtype), jnp.int32(0)

    @nn.compact
    def __call__(self, x, state, passed):
        hidden, cell, history, seen = state
        memory = passed["memory"]
        tokens = self._tokens(cell)
        history = latest(jnp.concatenate([history, tokens], 1), history.shape[1])
        seen = seen + tokens.shape[1]

        by_x = self.gates("x", x, "i g r o i' g' f'")
        by_hidden = self.gates("hidden", hidden, "i g r o")
        by_memory = self.gates("memory", _twice(memory), "i' f' g' m")
        query = sigmoid(by_x["r"] + by_hidden["r"])
        kept = self.norm("norm", cell + self._recall(query, history, seen))
        put = sigmoid(by_x["i"] + by_hidden["i"]) * jnp.tanh(by_x["g"] + by_hidden["g"])
        cell = kept + _twice(put)

        forget = sigmoid(by_x["f'"] + by_memory["f'"] + 1)
        put = sigmoid(by_x["i'"] + by_memory["i'"]) * jnp.tanh(by_x["g'"] + by_memory["g'"])
        new = forget * jnp.tanh(by_memory["m"]) + put

        by_cell = self.gates("new_cell", cell, "o")
        by_new = self.gates("new_memory", _twice(new), "o")
        output = jnp.tanh(by_x["o"] + by_hidden["o"] + by_cell["o"] + by_new["o"])
        frames = functools.partial(einops.rearrange, pattern="b h w (t c) -> b h (w t) c", t=2)
        both = jnp.concatenate([frames(cell), frames(_twice(new))], -1)
        merged = self.conv("merge", both, self.features).reshape(cell.shape)
        hidden = _twice(sigmoid(output)) * jnp.tanh(merged)
        passed = passed if self.frozen_memory else passed | {"memory": new}
        return hidden, (hidden, cell, history, seen), passed

    def _recall(self, query, history, seen):
        """What the query finds among the cells that there were (equation 2)."""
        look = lambda query: attention(
            query[:, :, None], history[:, :, None], history[:, :, None], scale=1.0,
            key_start=seen - history.shape[1],
        )[:, :, 0]
        if self.recall == "scrambled":
            b, h, w, c = query.shape
            found = look(self._tokens(_twice(query))).reshape(b, c, 2, h, w)
            return einops.rearrange(found, "b c t h w -> b h w (t c)")
        found = look(query.reshape(len(query), -1, self.features))
        return _twice(found.reshape(query.shape))

    def _tokens(self, cell):
        """A cell as what can be recalled of it: a token for each place of either frame."""
        if self.recall == "scrambled":
            cell = einops.rearrange(cell, "b h w (t c) -> b c t h w", t=2)
        elif self.recall != "places":
            raise ValueError(f"recall: {self.recall!r} is neither 'places' nor 'scrambled'")
        return cell.reshape(len(cell), -1, self.features)


def _twice(x):
    """The same for both frames of the window."""
    return jnp.concatenate([x, x], -1)


class E3DLSTM(RecurrentPredictor):
    """Stacked `EideticLSTM`s over windows of two frames.

    Attributes:
        recalled: cells that are remembered; the rollout's frames, less one, to remember all.
        recall: what attends to what: "places", every place's channels to those of all places of
            all cells, as the paper says and its first code does; "scrambled", as OpenSTL published
            it, rows that reshaping without moving the channels' axis gives, which mix places.
        frozen_memory: the layers hand on the memory as they got it, which therefore stays zero, as
            in all published code.
    """

    recalled: int = 19
    recall: Literal["places", "scrambled"] = "places"
    frozen_memory: bool = False

    def layers(self):
        eidetic = self.alike(
            EideticLSTM, recalled=self.recalled, recall=self.recall,
            frozen_memory=self.frozen_memory,
        )
        return {"window": Window, **eidetic}
