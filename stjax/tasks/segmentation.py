"""Video segmentation: the class of every pixel, of clips whose frames are labelled in part."""

import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from stjax.metrics.segmentation import overlaps, surface_distances
from stjax.ops.pixels import unit_range
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.tasks.losses import point_losses
from stjax.viz import masks as pictures

Probabilities = Float[Array, "b t h w classes"]

# What the trivial predictors tell classes by: brightness in so many steps, averaged over squares of
# so many pixels.
_SHADES, _SQUARES = 32, (3, 5, 9)


@dataclasses.dataclass(frozen=True)
class VideoSegmentation:
    """Trains and evaluates models of clips that give logits of every pixel's class.

    `model(video, prompt=None, *, train=False) -> (logits (b, t, h, w, classes), auxiliary)`, the
    latter more such logits by their names, maybe of coarser maps, which are learned beside.

    Batches hold "video" (b, t, h, w, c), "mask" (b, t, h, w), numbers of classes of which 0 is the
    background, and "labelled" (b, t), 1 for frames whose mask is known.

    Attributes:
        classes: how many, the background counted.
        supervised: frames that are learned from, where they are labelled; negative from the end.
        evaluated: frames that are scored, where they are labelled; none: all.
        prompted: whether the model is shown the first frame's mask.
        points: of each frame that a loss looks at (`losses.point_losses`).
        oversampling: candidates for uncertain points to each point.
        certain_share: share of the points that are drawn anywhere.
        auxiliary: weight of the losses of the auxiliary logits.
    """

    model: nn.Module
    classes: int = 2
    supervised: tuple[int, ...] = (0, -1)
    evaluated: tuple[int, ...] = ()
    prompted: bool = False
    points: int = 12_544
    oversampling: int = 3
    certain_share: float = 0.25
    auxiliary: float = 0.01

    headline = "dice_error"

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return self.model.init(key, *self._seen(batch))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """Cross entropy and Dice at points drawn anew for every head."""
        del step
        rest = [name for name in variables if name != "params"]
        (logits, auxiliary), updates = self.model.apply(
            variables, *self._seen(batch), train=True, mutable=rest
        )
        frames = jnp.asarray(self.supervised)
        labels, labelled = batch["mask"][:, frames], batch["labelled"][:, frames]
        uncertain = int((1 - self.certain_share) * self.points)

        def head(key, logits):
            shape = labels.shape[:2]
            keys = jax.random.split(key)
            candidates = jax.random.uniform(keys[0], (*shape, self.oversampling * self.points, 2))
            anywhere = jax.random.uniform(keys[1], (*shape, self.points - uncertain, 2))
            logits = logits[:, frames].astype(jnp.float32)
            return point_losses(logits, labels, candidates, anywhere, uncertain, labelled)

        keys = jax.random.split(key, 1 + len(auxiliary))
        cross_entropy, dice = head(keys[0], logits)
        beside = [sum(head(*each)) for each in zip(keys[1:], auxiliary.values())]
        loss = cross_entropy + dice + self.auxiliary * sum(beside)
        return loss, Aux({"cross_entropy": cross_entropy, "dice_loss": dice}, updates)

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Probabilities:
        del key
        logits, _ = self.model.apply(variables, *self._seen(batch))
        return jax.nn.softmax(logits.astype(jnp.float32))

    def metrics(self, predictions: Probabilities, batch: Batch) -> Metrics:
        """Means over the scored frames and over the classes but the background."""
        frames = jnp.asarray(self.evaluated) if self.evaluated else slice(None)
        objects = jnp.arange(1, self.classes)[:, None, None]
        masks = lambda classes: classes[:, frames, None] == objects
        pairs = masks(predictions.argmax(-1)), masks(batch["mask"])
        scores = {**overlaps(*pairs), **surface_distances(*pairs)}
        scores["dice_error"] = 1 - scores["dice"]
        labelled = batch["labelled"][:, frames].astype(jnp.float32)
        known = labelled.sum(1)
        mean = lambda x: (x.mean(-1) * labelled).sum(1) / jnp.maximum(known, 1)
        weight = known * batch.get("weight", 1.0)
        return {name: (mean(values), weight) for name, values in scores.items()}

    def render(self, predictions: Probabilities, batch: Batch) -> dict[str, Any]:
        """The first clips with the contours of truth and prediction, side by side in time."""
        real = np.asarray(batch["weight"]) > 0 if "weight" in batch else slice(None)
        first = lambda x: np.asarray(x)[real][:4]
        arrays = [first(batch[name]) for name in ("mask", "labelled")]
        video, predicted = first(unit_range(batch["video"])), first(predictions).argmax(-1)
        return {
            "masks": pictures.mask_sheet(video, predicted, *arrays),
            "moving": pictures.moving_masks(video[:3], predicted[:3], *(x[:3] for x in arrays)),
        }

    def summary(self, batch: Batch) -> dict[str, Any]:
        """How often each class is at each place, and of each shade."""
        labelled = jnp.asarray(batch["labelled"], jnp.float32)[..., None, None, None]
        belongs = jax.nn.one_hot(batch["mask"], self.classes) * labelled
        shades = _shades(batch["video"])
        return {
            "place": belongs.sum(0),
            **{name: _counts(belongs, shade) for name, shade in shades.items()},
        }

    def trivial(self, summary: dict[str, Any], batch: Batch) -> dict[str, Probabilities]:
        """The mean shape; what brightness says, alone and, by Bayes, with the mean shape.

        With a prompt, the first frame's mask for all frames, as well.
        """
        likely = lambda counts: counts / jnp.maximum(counts.sum(-1, keepdims=True), 1e-9)
        place = likely(summary["place"])
        overall = likely(summary["place"].sum((0, 1, 2)))
        shape = (len(batch["video"]), *place.shape)
        predictions = {"mean_shape": jnp.broadcast_to(place, shape)}
        for name, shade in _shades(batch["video"]).items():
            evidence = (likely(summary[name]) / jnp.maximum(overall, 1e-9))[shade]
            predictions[name] = likely(evidence)
            predictions[f"{name}_and_shape"] = likely(evidence * place)
        if self.prompted:
            first = jax.nn.one_hot(batch["mask"][:, :1], self.classes)
            predictions["first_mask"] = jnp.broadcast_to(first, shape)
        return predictions

    def _seen(self, batch: Batch):
        """What the model is shown: frames in [-1, 1], and the first masks or None."""
        video, mask = batch["video"], batch["mask"]
        if video.ndim != 5 or mask.shape != video.shape[:4]:
            raise ValueError(
                f"batch['mask'] {mask.shape} of batch['video'] {video.shape}; wanted "
                "(batch, time, height, width) and channels after it"
            )
        prompt = jax.nn.one_hot(mask[:, 0], self.classes)[..., 1:] if self.prompted else None
        return 2 * unit_range(video) - 1, prompt


def _shades(video: Any) -> dict[str, Int[Array, "b t h w"]]:
    """Brightness of frames, averaged over three of them and over squares, in whole steps."""
    grey = unit_range(video).mean(-1)

    def shade(side):
        reach = side // 2
        around = jnp.pad(grey, ((0, 0), (1, 1), (reach, reach), (reach, reach)), mode="edge")
        total = jax.lax.reduce_window(
            around, 0.0, jax.lax.add, (1, 3, side, side), (1,) * 4, "VALID"
        )
        level = (total * (_SHADES / (3 * side * side))).astype(jnp.int32)
        return jnp.clip(level, 0, _SHADES - 1)

    return {f"brightness_{side}": shade(side) for side in _SQUARES}


def _counts(belongs, shade) -> Float[Array, "shades classes"]:
    """Pixels of each shade that belong to each class."""
    flat = einops.rearrange(belongs, "b t h w c -> (b t h w) c")
    return jax.ops.segment_sum(flat, shade.reshape(-1), _SHADES)
