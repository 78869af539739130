"""Video prediction: from `context` frames the `horizon` frames after them."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import DenyList
from jaxtyping import Array, Float

from stjax.metrics import baselines, video
from stjax.ops import sequence_parallel
from stjax.ops.pixels import unit_range
from stjax.processes.autoregressive import generate
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.tasks.losses import LOSSES
from stjax.viz import frames as pictures

Video = Float[Array, "b t h w c"]


@dataclasses.dataclass(frozen=True)
class FramePrediction:
    """Trains and evaluates both kinds of video predictors.

    A model that predicts the next frame (`predicts = "next"`) is trained on every position of the
    clip at once and rolled out frame by frame; one that maps clip to clip (`predicts = "clip"`)
    is trained on the future frames and fed its own output where the horizon is longer than its.
    What a model sows as "losses", already weighted, is added to the loss, each the mean of what it
    holds, and logged by its name.

    Attributes:
        model: see docs/architecture.md for the two calls.
        context, horizon: frames given, frames predicted in training.
        test_horizon: frames predicted in evaluation; 0: as in training.
        loss_name: a key of `losses.LOSSES`.
        value_range: the range that the model works in, of numbers or of a number a channel;
            batches are uint8 or in [0, 1].
        sampling: `(key, step, batch, context, horizon) -> (batch, context + horizon - 1) mask` of
            the inputs that are true frames (scheduled sampling); None always shows true frames.
        drop_loss_rate: share of the time steps left out of the loss (drawn with replacement, as
            ConvSSM does); their frames are not even decoded.
    """

    model: nn.Module
    context: int
    horizon: int
    test_horizon: int = 0
    loss_name: str = "mse"
    value_range: tuple[Any, Any] = (0.0, 1.0)
    sampling: Callable[..., jax.Array] | None = None
    drop_loss_rate: float = 0.0

    headline = "mse_sum"

    def __post_init__(self):
        if self.loss_name not in LOSSES:
            raise ValueError(f"task.loss_name: {self.loss_name!r} is none of {sorted(LOSSES)}")
        object.__setattr__(self, "test_horizon", self.test_horizon or self.horizon)
        if min(self.context, self.horizon) < 1:
            raise ValueError(f"context {self.context} and horizon {self.horizon}: one at least")

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        names = ("params", "dropout", "sample")
        rngs = dict(zip(names, jax.random.split(key, len(names))))
        # What a model sows is of one pass, and no variable.
        sown = DenyList(("intermediates", "losses"))
        return self.model.init(rngs, self._clip(batch, self.context), mutable=sown)

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        clip = self._clip(batch, self.context + self.horizon)
        forward = self._next_frames if self.model.predicts == "next" else self._future_frames
        prediction, target, updates = forward(variables, clip, key, step)
        value = LOSSES[self.loss_name](prediction.astype(target.dtype), target)
        own = collections.Counter()
        for path, loss in jax.tree_util.tree_leaves_with_path(updates.pop("losses", {})):
            own[path[-2].key] += jnp.mean(loss)
        return value + sum(own.values()), Aux(metrics=dict(own), updates=updates)

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Video:
        """The `test_horizon` frames after the context, in [0, 1] (not clipped)."""
        del key
        context = self._clip(batch, self.context)
        rollout = self._generate if self.model.predicts == "next" else self._repeat
        low, high = np.float32(self.value_range)
        return (rollout(variables, context) - low) / (high - low)

    def metrics(self, predictions: Video, batch: Batch) -> Metrics:
        """OpenSTL's and the field-standard metrics, a value a sample; `mse_by_frame` one a frame.

        SSIM is left out where frames are smaller than its window.
        """
        truth = self._future(batch)
        weight = batch.get("weight", jnp.ones(len(truth)))
        size = min(truth.shape[2:4])
        by_frame = {
            name: metric(predictions, truth)
            for name, metric in video.METRICS.items()
            if size >= _WINDOWS.get(name, 1)
        }
        values = {name: value.mean(1) for name, value in by_frame.items()}
        values["mse_by_frame"] = by_frame["mse"]
        return {name: (value, weight) for name, value in values.items()}

    def render(self, predictions: Video, batch: Batch) -> dict[str, Any]:
        """Context, truth, prediction and difference of the first clips: a sheet, an animation."""
        context = np.asarray(unit_range(batch["video"]))[:4, : self.context]
        truth, prediction = np.asarray(self._future(batch))[:4], np.asarray(predictions)[:4]
        return {
            "sheet": pictures.sheet(context, truth, prediction),
            "clip": pictures.animation(context, truth, prediction),
        }

    def summary(self, batch: Batch) -> Float[Array, "h w c"]:
        """The batch's mean frame."""
        return unit_range(batch["video"]).mean((0, 1))

    def trivial(self, summary: Float[Array, "h w c"], batch: Batch) -> dict[str, Video]:
        context = unit_range(batch["video"])[:, : self.context]
        return baselines.predictions(context, self.test_horizon, summary)

    def _next_frames(self, variables, clip, key, step):
        """Predictions of frames 1.. from all frames before each, and those frames."""
        mask_key, frame_key, model_key = jax.random.split(key, 3)
        inputs, target, options = clip[:, :-1], clip[:, 1:], {}
        if inputs.shape[1] % sequence_parallel.ways():
            raise ValueError(
                f"run.mesh: sequence {sequence_parallel.ways()} does not divide the "
                f"{inputs.shape[1]} frames that go through the model, data.context + data.horizon "
                f"- 1 ({self.context} + {self.horizon} - 1)"
            )
        if self.sampling is not None:
            options["truth"] = self.sampling(
                mask_key, step, len(clip), self.context, self.horizon
            )
        if self.drop_loss_rate:
            length = target.shape[1]
            count = max(1, int((1 - self.drop_loss_rate) * length))
            options["frames"] = jax.random.randint(frame_key, (count,), 0, length)
            target = target[:, options["frames"]]
        (prediction, _), updates = self._apply(variables, inputs, model_key, **options)
        return prediction, target, updates

    def _future_frames(self, variables, clip, key, step):
        """Predictions of the frames after the context, and those frames."""
        del step
        frames = clip[:, : self.context]
        while frames.shape[1] < self.context + self.horizon:
            key, model_key = jax.random.split(key)
            prediction, updates = self._apply(variables, frames[:, -self.context :], model_key)
            variables = {**variables, **updates}
            frames = jnp.concatenate([frames, prediction.astype(clip.dtype)], 1)
        prediction = frames[:, self.context : self.context + self.horizon]
        target = clip[:, self.context : self.context + self.horizon]
        return prediction, target, updates

    def _apply(self, variables, inputs, key, **options):
        """The training forward pass: its output, and the collections it changed."""
        dropout, sample = jax.random.split(key)
        return self.model.apply(
            variables, inputs, train=True, rngs={"dropout": dropout, "sample": sample},
            mutable=[*(name for name in variables if name != "params"), "losses"], **options,
        )

    def _generate(self, variables, context):
        """Rolls a next-frame model out: reads the context, then its own predictions."""

        def read(clip, state):
            # A model that computes in bfloat16 also answers in it; what is fed back is float32.
            prediction, state = self.model.apply(variables, clip, state=state)
            return prediction.astype(clip.dtype), state

        def step(frame, state):
            prediction, state = read(frame[:, None], state)
            return prediction[:, 0], state

        prediction, state = read(context, None)
        first = prediction[:, -1]
        rest, _ = generate(step, state, first, self.test_horizon - 1)
        return jnp.concatenate([first[:, None], rest], 1)

    def _repeat(self, variables, context):
        """Feeds a clip-to-clip model its own output until the horizon is reached."""
        frames = context
        while frames.shape[1] < self.context + self.test_horizon:
            prediction = self.model.apply(variables, frames[:, -self.context :])
            frames = jnp.concatenate([frames, prediction.astype(context.dtype)], 1)
        return frames[:, self.context : self.context + self.test_horizon]

    def _clip(self, batch: Batch, length: int) -> Video:
        """The first frames in the model's range."""
        low, high = np.float32(self.value_range)
        frames = batch["video"]
        if frames.ndim != 5 or frames.shape[1] < length:
            raise ValueError(
                f"batch['video'] {frames.shape}: wanted (batch, time, height, width, channels) "
                f"with at least {length} frames"
            )
        return unit_range(frames[:, :length]) * (high - low) + low

    def _future(self, batch: Batch) -> Video:
        return unit_range(batch["video"])[:, self.context : self.context + self.test_horizon]


# Sides of the windows that a frame has to hold.
_WINDOWS = {"ssim": 11, "ssim_openstl": 7}
