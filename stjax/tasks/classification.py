"""Recognition: the class of a clip."""

import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from stjax.metrics.classification import top_k_error
from stjax.ops import mixing
from stjax.ops.pixels import unit_range
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.viz import classes as pictures

Scores = Float[Array, "b classes"]

VIEWS = ("probabilities", "logits")


@dataclasses.dataclass(frozen=True)
class VideoClassification:
    """Trains and evaluates classifiers `model(video, *, train=False) -> logits`.

    A model may give several heads' logits in training; their losses are averaged.

    Batches hold clips under "video", (b, t, h, w, c), or several views of each, (b, v, t, h, w, c),
    and "label" (b,). In training views are samples of their own (repeated augmentation); in
    evaluation their scores are averaged (clips x crops).

    Attributes:
        classes: how many.
        names: of the classes, for pictures; empty: their numbers.
        smoothing: share of the targets that is spread over all classes.
        mixup, cutmix: parameters of their distributions, 0 for none (`stjax.ops.mixing.mix`).
        erase: probability that a box of a clip is replaced by noise.
        mean, std: clips in [0, 1] are shown to the model as (clip - mean) / std.
        average: of views, "probabilities", or "logits" as the published code has it.
    """

    model: nn.Module
    classes: int
    names: tuple[str, ...] = ()
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erase: float = 0.0
    mean: float = 0.45
    std: float = 0.225
    average: str = "probabilities"

    headline = "top1_error"

    def __post_init__(self):
        if self.average not in VIEWS:
            raise ValueError(f"task.average: {self.average!r} is none of {', '.join(VIEWS)}")
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"task.names: {len(self.names)} names of {self.classes} classes")

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        rngs = dict(zip(("params", "dropout"), jax.random.split(key)))
        return self.model.init(rngs, self._views(batch)[0])

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del step
        erase_key, mix_key, model_key = jax.random.split(key, 3)
        video, views = self._views(batch)
        targets = mixing.smoothed(batch["label"], self.classes, self.smoothing)
        targets = jnp.repeat(targets, views, axis=0)
        if self.erase:
            video = mixing.erase(erase_key, video, self.erase)
        video, targets = mixing.mix(mix_key, video, targets, self.mixup, self.cutmix)
        logits, updates = self.model.apply(
            variables, video, train=True, rngs={"dropout": model_key},
            mutable=[name for name in variables if name != "params"],
        )
        heads = logits if isinstance(logits, tuple) else (logits,)
        losses = [optax.softmax_cross_entropy(head.astype(jnp.float32), targets) for head in heads]
        return jnp.mean(jnp.stack(losses)), Aux(metrics={}, updates=updates)

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Scores:
        """Probabilities, those of all views of a clip averaged."""
        del key
        video, views = self._views(batch)
        logits = self.model.apply(variables, video).astype(jnp.float32)
        logits = einops.rearrange(logits, "(b v) classes -> b v classes", v=views)
        if self.average == "logits":
            return jax.nn.softmax(logits.mean(1))
        return jax.nn.softmax(logits).mean(1)

    def metrics(self, predictions: Scores, batch: Batch) -> Metrics:
        labels = batch["label"]
        weight = batch.get("weight", jnp.ones(len(labels)))
        kinds = {f"top{k}_error": k for k in (1, 5) if k < self.classes}
        return {name: (top_k_error(predictions, labels, k), weight) for name, k in kinds.items()}

    def render(self, predictions: Scores, batch: Batch) -> dict[str, Any]:
        """The first clips with what was predicted of them; the batch's confusion matrix."""
        real = np.asarray(batch["weight"]) > 0 if "weight" in batch else slice(None)
        labels, scores = np.asarray(batch["label"])[real], np.asarray(predictions)[real]
        video = np.asarray(unit_range(np.asarray(batch["video"])[real][:8]))
        video = video[:, video.shape[1] // 2] if video.ndim == 6 else video
        names = self.names or tuple(map(str, range(self.classes)))
        return {
            "clips": pictures.predicted_clips(video, labels, scores, names),
            "confusion": pictures.confusion(labels, scores.argmax(1), names),
        }

    def summary(self, batch: Batch) -> dict[str, jax.Array]:
        """Clips of each class, and the sum of their features."""
        belongs = jax.nn.one_hot(batch["label"], self.classes)
        sums = {name: belongs.T @ x for name, x in _features(batch["video"]).items()}
        return {"count": belongs.sum(0), **sums}

    def trivial(self, summary: dict[str, jax.Array], batch: Batch) -> dict[str, Scores]:
        """The commonest class, and the class whose mean is nearest, by several features."""
        count = summary["count"]
        labels = batch["label"]
        predictions = {"class_prior": jnp.broadcast_to(count, (len(labels), self.classes))}
        for name, x in _features(batch["video"]).items():
            means = summary[name] / jnp.maximum(count, 1e-6)[:, None]
            distance = jnp.sum((x[:, None] - means) ** 2, -1)
            predictions[f"nearest_{name}"] = jnp.where(count > 0, -distance, -jnp.inf)
        return predictions

    def _views(self, batch: Batch) -> tuple[Float[Array, "n t h w c"], int]:
        """All views as clips of their own, in the model's range, and how many there are of each."""
        video = batch["video"]
        if video.ndim not in (5, 6):
            raise ValueError(
                f"batch['video'] {video.shape}: wanted (batch, time, height, width, channels), or "
                "views after the batch"
            )
        views = video.shape[1] if video.ndim == 6 else 1
        video = (unit_range(video) - self.mean) / self.std
        return video.reshape(-1, *video.shape[-4:]), views


def _features(video: Any) -> dict[str, Float[Array, "b f"]]:
    """What the nearest class is found by, on a coarse grid: frames, the mean one, differences."""
    video = unit_range(video)
    video = video[:, video.shape[1] // 2] if video.ndim == 6 else video
    clip = _coarse(video)
    changes = _coarse(jnp.abs(video[:, 1:] - video[:, :-1]))
    flat = lambda x: x.reshape(len(x), -1)
    return {
        "mean_clip": flat(clip), "mean_frame": flat(clip.mean(1)),
        "mean_difference": flat(changes.mean(1)),
    }


def _coarse(video: Float[Array, "b t h w c"]) -> Float[Array, "b t p q c"]:
    """Means over at most 8 x 8 equal cells."""
    rows, columns = (max(side // 8, 1) for side in video.shape[2:4])
    height, width = (side // cell * cell for side, cell in zip(video.shape[2:4], (rows, columns)))
    cut = video[:, :, :height, :width]
    return einops.reduce(cut, "b t (p r) (q s) c -> b t p q c", "mean", r=rows, s=columns)
