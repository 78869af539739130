"""Scenes from posed frames: what cameras see of a moving scene at times that were not given."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from stjax.metrics import video
from stjax.metrics.scene_flow import masked_mean, scene_flow_metrics
from stjax.ops.cameras import Cameras
from stjax.ops.pixels import unit_range
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.viz import frames as pictures
from stjax.viz import scenes as colours

# What the channels of a prediction are: colour in [0, 1], depth in metres, velocity in metres a
# second, and the number of the part that moves so (-1: no parts).
Predictions = Float[Array, "b s v h w 8"]
IMAGE, DEPTH, FLOW, PART = slice(0, 3), 3, slice(4, 7), 7
_SKY_DEPTH = 1000.0  # metres
_KNOWN = 0.01  # depths below it are not known
_FAST = 1.0  # metres a second: clips without anything faster do not count for flow


@dataclasses.dataclass(frozen=True)
class SceneReconstruction:
    """Trains and evaluates `model(video, cameras, targets, *, train) -> rendered`.

    `stjax.models.world.storm.Rendered` says what is rendered; the model's video is in [-1, 1].

    Batches hold, of context and of target frames alike, "<which>_video" (b, t, v, h, w, 3) uint8 or
    in [0, 1], "<which>_intrinsics" (b, t, v, 3, 3) in pixels, "<which>_pose" (b, t, v, 4, 4), from
    the camera's space to the world's, "<which>_time" (b, t, v) in seconds; "target_depth"
    (b, s, v, h, w) in metres, 0 where unknown, and "target_sky". To be evaluated on, where there:
    "target_dynamic", "target_ground" and "target_flow" (b, s, v, h, w, 3) in metres a second, in
    the world's axes.

    Attributes:
        depth: weight of the depth's absolute error, over the largest depth of the batch.
        sky: weight of the absolute error of what Gaussians cover, against what is not sky.
        flow: weight of the mean squared velocity.
        sky_depth: weight of decoded depths' squared relative error in the sky, against 1 km.
        perceptual: `(rendered, true) -> scalar` of frames in [0, 1] (*n, h, w, 3), such as LPIPS;
            no such network is here. None: no such term.
        perceptual_weight, perceptual_start: its weight, from that step on.
    """

    model: nn.Module
    depth: float = 1.0
    sky: float = 0.1
    flow: float = 0.005
    sky_depth: float = 0.01
    perceptual: Callable[[Array, Array], Float[Array, ""]] | None = None
    perceptual_weight: float = 0.0
    perceptual_start: int = 5_000

    headline = "mse"

    def __post_init__(self):
        if self.perceptual_weight and self.perceptual is None:
            raise ValueError(
                f"task.perceptual_weight: {self.perceptual_weight}, and no perceptual network is "
                "here; give the task one as `perceptual`"
            )

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return self.model.init(key, *self._inputs(batch))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key
        rendered = self.model.apply(variables, *self._inputs(batch), train=True)
        losses = self.losses(rendered, batch)
        if self.perceptual is not None:
            value = self.perceptual(_unit(rendered.image), unit_range(batch["target_video"]))
            on = jnp.where(step >= self.perceptual_start, self.perceptual_weight, 0.0)
            losses["perceptual"] = on * value
        left_out = jnp.mean(rendered.left_out, dtype=jnp.float32)
        return sum(losses.values()), Aux(metrics={**losses, "left_out": left_out}, updates={})

    def losses(self, rendered: Any, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The terms of the loss, with their weights."""
        truth, depth = unit_range(batch["target_video"]), batch["target_depth"]
        sky = jnp.asarray(batch["target_sky"], depth.dtype)
        known, size = depth > _KNOWN, depth.shape[-2:]

        def depth_error(estimate):
            error = jnp.abs(_resized(estimate, size) - depth) / depth.max()
            return self.depth * masked_mean(error.ravel(), known.ravel())

        losses = {
            "colour": jnp.mean(jnp.square(_unit(rendered.image) - truth)),
            "depth": depth_error(rendered.depth),
            "flow": self.flow * jnp.mean(jnp.square(rendered.velocities)),
            "sky": self.sky * jnp.mean(jnp.abs(_resized(rendered.alpha, size) - (1 - sky))),
        }
        if rendered.decoded_depth is not None:
            losses["decoded_depth"] = depth_error(rendered.decoded_depth)
            error = jnp.square(rendered.decoded_depth / _SKY_DEPTH - 1)
            losses["sky_depth"] = self.sky_depth * masked_mean(error.ravel(), sky.ravel() > 0)
        return losses

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Predictions:
        del key
        rendered = self.model.apply(variables, *self._inputs(batch))
        depth, parts = rendered.decoded_depth, rendered.parts
        depth = rendered.depth if depth is None else depth
        parts = jnp.full(rendered.alpha.shape, -1) if parts is None else parts
        # Latent-STORM's flow and parts are those of patches.
        cell = depth.shape[-1] // parts.shape[-1]
        grow = lambda x: x.repeat(cell, 3).repeat(cell, 4)
        return _joined(_unit(rendered.image), depth, grow(rendered.flow), grow(parts))

    def metrics(self, predictions: Predictions, batch: Batch) -> Metrics:
        """Of each sample the sum of every metric over its images, and of how many: (b, 2).

        Of images at times that were not given: of whole ones, of what is not sky ("_occupied") and
        of what moves ("_dynamic"). Of flow at the context's own times, as published: what is of
        known depth and not ground, in clips where anything is faster than 1 m/s.
        """
        image, depth, flow = (predictions[..., k] for k in (IMAGE, DEPTH, FLOW))
        image, truth = jnp.clip(image, 0, 1), unit_range(batch["target_video"])
        target, context = batch["target_time"], batch["context_time"]
        given = (jnp.abs(target[:, :, None] - context[:, None]) < 1e-4).any(2)
        known = batch["target_depth"] > 0
        areas = {"": None, "_occupied": ~(batch["target_sky"] > 0)}
        if "target_dynamic" in batch:
            areas["_dynamic"] = batch["target_dynamic"] > 0
        scores = {"mse": (video.mse(image, truth), ~given)}
        for suffix, area in areas.items():
            counted = ~given if area is None else ~given & area.any((-2, -1))
            scores[f"psnr{suffix}"] = video.area_psnr(image, truth, area), counted
            scores[f"ssim{suffix}"] = video.area_ssim(image, truth, area), counted
            points = known if area is None else known & area
            squares = _in_area(jnp.square(depth - batch["target_depth"]), points)
            counted = ~given & points.any((-2, -1))
            scores[f"depth_rmse{suffix}"] = jnp.sqrt(squares), counted
        if "target_flow" in batch:
            true = batch["target_flow"]
            points = known & ~(batch["target_ground"] > 0) if "target_ground" in batch else known
            fast = (jnp.linalg.norm(true, axis=-1) > _FAST).any((1, 2, 3, 4))
            counted = given & points.any((-2, -1)) & fast[:, None, None]
            flat = lambda x: x.reshape(*given.shape, -1, *x.shape[5:])
            found = scene_flow_metrics(flat(flow), flat(true), flat(points))
            scores |= {name: (value, counted) for name, value in found.items()}
        weight = batch.get("weight", jnp.ones(len(truth)))
        total = lambda values, counted: jnp.stack(
            [jnp.where(counted, values, 0).sum((1, 2)), counted.sum((1, 2))], -1
        )
        return {name: (total(*score), weight) for name, score in scores.items()}

    def summarise(self, samples: Mapping[str, Float[np.ndarray, "samples 2"]]) -> dict[str, float]:
        """Means over all images that count, not over clips."""
        totals = {name: values.sum(0, dtype=np.float64) for name, values in samples.items()}
        return {name: float(value / max(count, 1)) for name, (value, count) in totals.items()}

    def render(self, predictions: Predictions, batch: Batch) -> dict[str, Any]:
        """Truth beside what was rendered: colour, depth, flow and the parts that move alike."""
        shown, views = min(2, len(predictions)), predictions.shape[2]
        rows = [
            self._pictures(predictions, batch, clip, (clip + views // 2) % views)
            for clip in range(shown)
        ]
        times = np.asarray(batch["target_time"])[:shown, :, 0]
        columns = pictures.spread(times.shape[1], 10)
        texts = [[f"{time:.1f} s" for time in clip] for clip in times]
        blocks = [
            [
                (name, frames[columns], [texts[k][i] for i in columns] if not place else None)
                for place, (name, frames) in enumerate(row.items())
            ]
            for k, row in enumerate(rows)
        ]
        return {
            "sheet": pictures.strips(blocks),
            "scene": pictures.moving(rows, texts[0]),
        }

    def summary(self, batch: Batch) -> dict[str, Array]:
        """Each camera's mean target frame and depth, and the mean velocity of what moves."""
        depth = batch["target_depth"]
        known = depth > 0
        mean = jnp.where(known, depth, 0).sum((0, 1)) / jnp.maximum(known.sum((0, 1)), 1)
        found = {"image": unit_range(batch["target_video"]).mean((0, 1)), "depth": mean}
        if "target_flow" in batch:
            flow = batch["target_flow"].reshape(-1, 3)
            moves = jnp.linalg.norm(flow, axis=-1) > _FAST
            found["velocity"] = masked_mean(flow.T, moves)
        return found

    def trivial(self, summary: dict[str, Array], batch: Batch) -> dict[str, Predictions]:
        """Context frames of the same camera, and means; nothing moves, or all as things do."""
        context = unit_range(batch["context_video"])
        target, times = batch["target_time"], batch["context_time"]
        away = jnp.abs(target[:, :, None] - times[:, None])  # (b, s, t, v)
        nearest = jax.nn.one_hot(away.argmin(2), away.shape[2], axis=2)
        mix = lambda weights: jnp.einsum("bstv,btvhwc->bsvhwc", weights, context)
        shape = (*target.shape, *context.shape[3:])
        hold = lambda x: jnp.broadcast_to(x, shape)
        depth = jnp.broadcast_to(summary["depth"], shape[:-1])
        still, parts = jnp.zeros(shape), jnp.full(shape[:-1], -1)
        moving = still + summary.get("velocity", 0)
        return {
            "nearest_frame": _joined(mix(nearest), depth, still, parts),
            "linear_blend": _joined(mix(_neighbours(target, times)), depth, still, parts),
            "context_mean": _joined(hold(context.mean(1)[:, None]), depth, still, parts),
            "training_mean": _joined(hold(summary["image"]), depth, moving, parts),
        }

    def _inputs(self, batch):
        """The model's arguments."""
        of = lambda which: Cameras(
            *(batch[f"{which}_{name}"] for name in ("intrinsics", "pose", "time"))
        )
        clip, target = batch["context_video"], batch["target_time"]
        if clip.ndim != 6 or target.ndim != 3:
            raise ValueError(
                f"batch['context_video'] {clip.shape}, batch['target_time'] {target.shape}: wanted "
                "(b, t, v, h, w, 3) and (b, s, v)"
            )
        return 2 * unit_range(clip) - 1, of("context"), of("target")

    def _pictures(self, predictions, batch, clip, view):
        """Rows of one clip as one camera sees it, by their names."""
        rendered = np.asarray(predictions[clip, :, view], np.float32)
        true = {
            name: np.asarray(batch[f"target_{name}"][clip, :, view])
            for name in ("video", "depth", "flow") if f"target_{name}" in batch
        }  # fmt: skip
        far = max(float(true["depth"].max()), 1e-6)
        rows = {
            "truth": np.asarray(unit_range(true["video"])),
            "rendered": np.clip(rendered[..., IMAGE], 0, 1),
            "true depth": colours.of_depth(true["depth"], far),
            "depth": colours.of_depth(rendered[..., DEPTH], far),
        }
        fastest = 0.0
        if "flow" in true:
            fastest = float(np.linalg.norm(true["flow"], axis=-1).max())
            rows["true flow"] = colours.of_flow(true["flow"], fastest)
        rows["flow"] = colours.of_flow(rendered[..., FLOW], fastest or None)
        if (rendered[..., PART] >= 0).any():
            rows["parts"] = colours.of_parts(rendered[..., PART].astype(int))
        return rows


def _joined(image, depth, flow, parts) -> Predictions:
    parts = parts[..., None].astype(image.dtype)
    return jnp.concatenate([image, depth[..., None], flow, parts], -1)


def _unit(image):
    """From the model's range to [0, 1], not clipped."""
    return (image + 1) / 2


def _resized(x: Float[Array, "... h w"], size: tuple[int, int]) -> Float[Array, "... H W"]:
    if x.shape[-2:] == size:
        return x
    return jax.image.resize(x, (*x.shape[:-2], *size), "linear", antialias=False)


def _in_area(values: Float[Array, "... h w"], area: Bool[Array, "... h w"]) -> Float[Array, "..."]:
    flat = lambda x: x.reshape(*x.shape[:-2], -1)
    return masked_mean(flat(values), flat(area))


def _neighbours(target, times):
    """Weights (b, s, t, v) of the two context frames about a time, linear; of one beyond the ends.

    Context frames are in the order of their times.
    """
    target, times = target[:, :, None], times[:, None]
    gap = jnp.diff(times, axis=2)
    share = jnp.clip((target - times[:, :, :-1]) / gap, 0, 1)
    # Each frame holds from when it is reached until the next one is.
    one = jnp.ones_like(share[:, :, :1])
    return jnp.concatenate([one, share], 2) - jnp.concatenate([share, 0 * one], 2)
