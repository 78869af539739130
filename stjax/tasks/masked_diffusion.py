"""Clips completed by diffusion: some parts are given, the others are noise that is taken off."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from stjax.metrics import baselines, video
from stjax.ops.patches import patchify, unpatchify
from stjax.ops.pixels import unit_range
from stjax.processes import gaussian_diffusion as diffusion
from stjax.processes.gaussian_diffusion import GaussianDiffusion
from stjax.processes.space_time_masks import FAMILIES, SpaceTimeMasks, uniforms
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.viz import frames as pictures

Latents = Float[Array, "b t h w c"]
Network = Callable[[Latents, Array], Float[Array, "b t h w k"]]

MASKS_PER = ("batch", "sample")
SAMPLERS = ("ddpm", "ddim")
# One seed, so that every predictor meets the same masks.
_TEST_SEED = 0


def masked_losses(
    process: GaussianDiffusion,
    network: Network,
    x0: Latents,
    mask: Bool[Array, "#b t h w 1"],
    step: Int[Array, "b"],
    noise: Latents,
) -> dict[str, Float[Array, "b"]]:
    """The loss of VDT (arXiv 2305.13311), a value a sample: "mse", "vb" and their sum "loss".

    The network sees clean values where they are given and noised ones where the mask is True. The
    squared error counts under the mask, but is divided by the number of all values. Where the
    variance is learned, the variational bound teaches it, and it alone, over all values.
    """
    channels, over = x0.shape[-1], tuple(range(1, x0.ndim))
    x = diffusion.q_sample(process, x0, step, noise)
    output = network(jnp.where(mask, x, x0), jnp.asarray(process.times)[step]).astype(x.dtype)
    predicted, variance = output[..., :channels], output[..., channels:]
    error = predicted - diffusion.target(process, x0, step, noise)
    losses = {"mse": jnp.square(jnp.where(mask, error, 0)).mean(over)}
    if process.variance == "learned_range":
        frozen = jnp.concatenate([jax.lax.stop_gradient(predicted), variance], -1)
        estimate = diffusion.reverse(process, frozen, x, step)
        losses["vb"] = diffusion.variational_bound(process, estimate, x0, x, step)
    return {**losses, "loss": sum(losses.values())}


def masked_estimate(
    process: GaussianDiffusion,
    network: Network,
    x0: Latents,
    mask: Bool[Array, "#b t h w 1"],
    x: Latents,
    step: diffusion.Steps,
    clip: bool = False,
) -> diffusion.Reverse:
    """The reverse step from x; the network sees the clean values where they are given."""
    times = jnp.broadcast_to(jnp.asarray(process.times)[step], (len(x),))
    output = network(jnp.where(mask, x, x0), times).astype(x.dtype)
    return diffusion.reverse(process, output, x, step, clip)


@dataclasses.dataclass(frozen=True)
class MaskedDiffusion:
    """Trains one model to complete clips of which any part is given, and samples completions.

    Predictions are `(b, tests, samples, t, h, w, c)`: whole clips, what is given of them included.

    Attributes:
        model: `(x, times, condition, train=...) -> prediction`, and a field `conditioning`: see
            `stjax.models.generation.vdt.VDT`.
        context, horizon: frames of a clip; "predict" gives the first, "backward" the last
            `context` of them.
        process: what the model is trained on.
        spacing: the steps of it that sampling takes (see `gaussian_diffusion.spaced_times`).
        sampler: "ddpm" or "ddim".
        eta: noise of DDIM's steps.
        clip: whether sampling keeps estimates of clean values in [-1, 1].
        masks: what is given in training; `context` is theirs too.
        masks_per: a mask for the whole "batch", as published, or one for every "sample".
        tests: families of masks to complete in evaluation, the headline's first; a random one is
            drawn once and for all.
        samples: completions drawn of every clip and test.
        value_range: the range that the model works in; batches are uint8 or in [0, 1].
        fold: squares of fold x fold pixels become the channels of one latent. It stands where the
            published systems have the frozen encoder and decoder of Stable Diffusion, which is not
            here; 1 is pixel space, or latents that were encoded elsewhere.

    Raises:
        ValueError: names the field.
    """

    model: nn.Module
    context: int
    horizon: int
    process: GaussianDiffusion
    spacing: str = "250"
    sampler: str = "ddpm"
    eta: float = 0.0
    clip: bool = False
    masks: SpaceTimeMasks = SpaceTimeMasks()  # noqa: RUF009
    masks_per: str = "batch"
    tests: tuple[str, ...] = ("predict", "interpolate", "complete", "unconditional")
    samples: int = 1
    value_range: tuple[float, float] = (-1.0, 1.0)
    fold: int = 1

    def __post_init__(self):
        for field, known in {"sampler": SAMPLERS, "masks_per": MASKS_PER}.items():
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"task.{field}: {value!r} is none of {', '.join(known)}")
        if not self.tests or set(self.tests) - set(FAMILIES):
            raise ValueError(f"task.tests: {self.tests} are not all of {', '.join(FAMILIES)}")
        if min(self.context, self.horizon) < 1:
            raise ValueError(f"context {self.context} and horizon {self.horizon}: one at least")
        masks = dataclasses.replace(self.masks, context=self.context)
        object.__setattr__(self, "masks", masks)
        families = {*self.masks.families, *self.tests, *["complete"] * (self.masks.complete > 0)}
        if not self._in_place and families != {"predict"}:
            raise ValueError(
                f"model.conditioning: {self.model.conditioning!r} only predicts; masks and tests "
                f"ask for {', '.join(sorted(families))}"
            )

    @property
    def headline(self) -> str:
        return f"mse_sum_{self.tests[0]}"

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        x0 = self._latents(batch)
        x0, _, told = self._posed(x0, jnp.ones((*x0.shape[:-1], 1), bool))
        return self.model.init(key, x0, jnp.zeros(len(x0)), **told)

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del step
        keys = jax.random.split(key, 4)
        x0 = self._latents(batch)
        drawn = lambda key: self.masks.sample(uniforms(key), x0.shape[1:4])[0]
        count = len(x0) if self.masks_per == "sample" else 1
        mask = jax.vmap(drawn)(jax.random.split(keys[0], count))[..., None]
        x0, mask, told = self._posed(x0, mask)
        times = jax.random.randint(keys[1], (len(x0),), 0, self.process.steps)
        noise = jax.random.normal(keys[2], x0.shape, x0.dtype)

        def network(x, times):
            rngs = {"dropout": keys[3]}
            return self.model.apply(variables, x, times, **told, train=True, rngs=rngs)

        losses = masked_losses(self.process, network, x0, mask, times, noise)
        means = {name: value.mean() for name, value in losses.items()}
        return means.pop("loss"), Aux(metrics=means, updates={})

    def predict(
        self, variables: Variables, batch: Batch, key: jax.Array
    ) -> Float[Array, "b tests samples t h w c"]:
        """Completions in [0, 1] (not clipped), all drawn side by side in one loop."""
        clips = self._latents(batch)
        shape = (len(clips), len(self.tests), self.samples)
        spread = lambda x, axes: jnp.broadcast_to(
            jnp.expand_dims(x, axes), (*shape, *clips.shape[1:4], x.shape[-1])
        ).reshape(-1, *clips.shape[1:4], x.shape[-1])
        masks = jnp.stack(list(self.test_masks(clips.shape[1:4]).values()))[..., None]
        clips = self.sample(variables, spread(clips, (1, 2)), spread(masks, (0, 2)), key)
        return self._frames(clips).reshape(*shape, *batch["video"].shape[1:])

    def sample(
        self, variables: Variables, clips: Latents, mask: Bool[Array, "b t h w 1"], key: jax.Array
    ) -> Latents:
        """Completions of clips in the model's range; what they hold under the mask is not read."""
        process = diffusion.respaced(self.process, self.spacing)
        x0, asked, told = self._posed(clips, mask)
        network = lambda x, times: self.model.apply(variables, x, times, **told)

        def step(x, k, key):
            noise = jax.random.normal(key, x.shape, x.dtype)
            estimate = masked_estimate(process, network, x0, asked, x, k, self.clip)
            if self.sampler == "ddpm":
                return diffusion.ddpm_step(estimate, k, noise)
            return diffusion.ddim_step(process, estimate.x0, x, k, noise, self.eta)

        first, *keys = jax.random.split(key, process.steps + 1)
        noise = jax.random.normal(first, x0.shape, x0.dtype)
        x = diffusion.sample(step, noise, process.steps, jnp.stack(keys))
        x = x if self._in_place else jnp.concatenate([clips[:, : self.context], x], 1)
        return jnp.where(mask, x, clips)

    def test_masks(self, shape: tuple[int, int, int]) -> dict[str, Bool[Array, "t h w"]]:
        """The masks of the tests by name, on a grid (t, h, w)."""
        draw = uniforms(jax.random.key(_TEST_SEED))
        return {name: self.masks.of(name, draw, shape)[0] for name in self.tests}

    def metrics(
        self, predictions: Float[Array, "b tests samples t h w c"], batch: Batch
    ) -> Metrics:
        """Of every test, over the frames that have something to generate, mean over samples.

        `mse_sum` is summed over the generated values of a frame, `mean_mse_sum` that of the
        samples' mean, which knows nothing of their spread. SSIM where its window fits.
        """
        truth = unit_range(batch["video"])
        weight = batch.get("weight", jnp.ones(len(truth)))
        truth = truth[:, None]
        names = [name for name, side in _SIDES.items() if min(truth.shape[3:5]) >= side]
        values = {}
        for k, (test, mask) in enumerate(self._pixel_masks(truth.shape[2:5]).items()):
            drawn, touched = predictions[:, k], mask.any((1, 2))
            whole = jnp.broadcast_to(truth, drawn.shape)
            values[f"mse_sum_{test}"] = video.masked_mse_sum(drawn, whole, mask).mean(1)
            if drawn.shape[1] > 1:
                mean = drawn.mean(1, keepdims=True)
                error = video.masked_mse_sum(mean, truth, mask)
                values[f"mean_mse_sum_{test}"] = error.mean(1)
            for name in names:
                of_frames = jnp.where(touched, video.METRICS[name](drawn, whole), 0)
                values[f"{name}_{test}"] = (of_frames.sum(2) / touched.sum()).mean(1)
        return {name: (value, weight) for name, value in values.items()}

    def render(
        self, predictions: Float[np.ndarray, "b tests samples t h w c"], batch: Batch
    ) -> dict[str, Any]:
        """What is given, the truth and samples of every test, each of another clip."""
        clips = np.asarray(unit_range(batch["video"]))
        masks = self._pixel_masks(clips.shape[1:4])
        rows = []
        for k, mask in enumerate(masks.values()):
            clip = k % len(clips)
            drawn = {f"sample {i + 1}": x for i, x in enumerate(predictions[clip, k, :3])}
            shaded = pictures.shaded(clips[clip], np.asarray(mask))
            rows.append({"given": shaded, "truth": clips[clip], **drawn})
        times = [str(1 + time) for time in range(clips.shape[1])]
        blocks = [
            [(name, row[name], None if i else times) for i, name in enumerate(row)] for row in rows
        ]
        for block, test in zip(blocks, masks):
            block[0] = (f"{test}:", *block[0][1:])
        return {
            "sheet": pictures.strips(blocks),
            "clip": pictures.moving(rows, times, names=list(masks)),
        }

    def summary(self, batch: Batch) -> Float[Array, "h w c"]:
        """The batch's mean frame."""
        return unit_range(batch["video"]).mean((0, 1))

    def trivial(self, summary: Float[Array, "h w c"], batch: Batch) -> dict[str, Array]:
        clips = unit_range(batch["video"])
        masks = self._pixel_masks(clips.shape[1:4]).values()
        tests = [baselines.completions(clips, mask, summary) for mask in masks]
        return jax.tree.map(lambda *tests: jnp.stack(tests, 1)[:, :, None], *tests)

    @property
    def _in_place(self) -> bool:
        """Whether what is given stands in the clip, not beside it."""
        return self.model.conditioning == "token"

    def _posed(self, clips, mask):
        """What is noised, where it is to be generated, and what the model is told besides."""
        if self._in_place:
            return clips, mask, {}
        given, x0 = jnp.split(clips, [self.context], 1)
        return x0, mask[:, self.context :], {"condition": given}

    def _pixel_masks(self, shape):
        """`test_masks` for clips of (t, height, width) pixels."""
        length, *sides = shape
        masks = self.test_masks((length, *(side // self.fold for side in sides)))
        grow = lambda mask: mask.repeat(self.fold, 1).repeat(self.fold, 2)
        return {name: grow(mask) for name, mask in masks.items()}

    def _latents(self, batch: Batch) -> Latents:
        low, high = self.value_range
        clips, length = batch["video"], self.context + self.horizon
        if clips.ndim != 5 or clips.shape[1] != length:
            raise ValueError(
                f"batch['video'] {clips.shape}: wanted (batch, time, height, width, channels) "
                f"of {length} frames"
            )
        return patchify(unit_range(clips) * (high - low) + low, self.fold)

    def _frames(self, latents: Latents) -> Float[Array, "b t h w c"]:
        low, high = self.value_range
        return (unpatchify(latents, self.fold) - low) / (high - low)


# Sides of the windows that a frame has to hold.
_SIDES = {"psnr": 1, "ssim": 11, "ssim_openstl": 7}
