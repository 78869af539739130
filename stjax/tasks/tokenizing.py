"""Video tokenizers: clips through a code of finitely many values, and back."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from stjax.metrics import video
from stjax.ops.pixels import unit_range
from stjax.ops.quantize import perplexity
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.tasks.losses import LOSSES
from stjax.viz import frames as pictures

Video = Float[Array, "b t h w c"]
Codes = Int[Array, "b t h w"]


@dataclasses.dataclass(frozen=True)
class Tokenizing:
    """Trains a tokenizer to give clips back.

    Attributes:
        tokenizer: `model(video, *, train=False) -> (reconstruction, codes)`, with methods `encode`
            and `decode`, both halves of that. `tokenizer.codes` is how many values a code has,
            `tokenizer.grid(frames, height, width)` how many codes a clip.
        loss_name: a key of `losses.LOSSES`.
        value_range: the range that the tokenizer works in; batches are uint8 or in [0, 1].
    """

    tokenizer: nn.Module
    loss_name: str = "mse"
    value_range: tuple[float, float] = (-1.0, 1.0)

    headline = "mse_sum"

    def __post_init__(self):
        if self.loss_name not in LOSSES:
            raise ValueError(f"task.loss_name: {self.loss_name!r} is none of {sorted(LOSSES)}")

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return self.tokenizer.init(key, self._ranged(unit_range(batch["video"])))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key, step
        clips = self._ranged(unit_range(batch["video"]))
        reconstruction, codes = self.tokenizer.apply(variables, clips, train=True)
        value = LOSSES[self.loss_name](reconstruction.astype(clips.dtype), clips)
        use = perplexity(codes, self.tokenizer.codes)
        return value, Aux({"perplexity": use}, {})

    def encode(self, variables: Variables, clips: Video) -> Codes:
        """Codes of clips in [0, 1]."""
        return self.tokenizer.apply(variables, self._ranged(clips), method="encode")

    def decode(self, variables: Variables, codes: Codes) -> Video:
        """Clips in [0, 1] (not clipped) of codes."""
        clips = self.tokenizer.apply(variables, codes, method="decode")
        low, high = self.value_range
        return (clips.astype(jnp.float32) - low) / (high - low)

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Video:
        """The reconstruction, in [0, 1] (not clipped)."""
        del key
        return self.decode(variables, self.encode(variables, unit_range(batch["video"])))

    def metrics(self, predictions: Video, batch: Batch) -> Metrics:
        truth = unit_range(batch["video"])
        weight = batch.get("weight", jnp.ones(len(truth)))
        names = ("mse", "mse_sum", "mae_sum", "psnr")
        return {name: (video.METRICS[name](predictions, truth).mean(1), weight) for name in names}

    def render(self, predictions: Video, batch: Batch) -> dict[str, Any]:
        """The first clips, their reconstructions and the differences."""
        truth, predictions = (np.asarray(x)[:4] for x in (unit_range(batch["video"]), predictions))
        return {"sheet": pictures.sheet(truth[:, :1], truth, predictions)}

    def summary(self, batch: Batch) -> Float[Array, "h w c"]:
        """The batch's mean frame."""
        return unit_range(batch["video"]).mean((0, 1))

    def trivial(self, summary: Float[Array, "h w c"], batch: Batch) -> dict[str, Video]:
        """What a code without content would give, and what one frame of the clip would."""
        clips = unit_range(batch["video"])
        like = lambda frame: jnp.broadcast_to(frame, clips.shape).astype(clips.dtype)
        return {"training_mean": like(summary), "clip_mean": like(clips.mean(1, keepdims=True))}

    def _ranged(self, clips: Video) -> Video:
        low, high = self.value_range
        return clips * (high - low) + low
