"""Anomaly detection: learn to predict the next frame of normal videos; what is missed is odd."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from stjax.metrics import anomaly, baselines
from stjax.ops.pixels import unit_range
from stjax.tasks.adversarial import FORMS, gradient_difference, gradient_penalty
from stjax.tasks.base import Aux, Batch, Metrics, Phase, Variables
from stjax.tasks.losses import mse
from stjax.viz import frames as pictures
from stjax.viz.curves import curves

Frame = Float[Array, "b h w c"]
Past = Float[Array, "b t h w c"]
Losses = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class AnomalyDetection:
    """Trains a generator of the next frame and its critics in turns; scores frames by the error.

    A step updates the critics, then the generator against them; without critics it is one update.
    The generator's running statistics are those that its own update sees.

    Attributes:
        generator: `model(past, *, train=False) -> frame`, both in [-1, 1].
        critics: name -> `model(x) -> map`, which judges what its `sees` says: the "frame", or the
            "clip" of past and frame.
        context: frames of the past.
        form: a key of `adversarial.FORMS`; "wgan_gp" goes with a gradient penalty.
        penalty: its weight.
        intensity, gradient: weights of the squared error and of the gradient difference.
        adversarial: weight of each critic's opinion.
        decidable: frames of each clip that are not scored, from its first on; those of the first
            context never are. (The published baseline says 4, its context.)
    """

    generator: nn.Module
    critics: Mapping[str, nn.Module]
    context: int
    form: str = "wgan_gp"
    penalty: float = 10.0
    intensity: float = 1.0
    gradient: float = 1.0
    adversarial: Mapping[str, float] = dataclasses.field(default_factory=dict)
    decidable: int = 0

    headline = "one_minus_auc"

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"task.form: {self.form!r} is none of {sorted(FORMS)}")
        if missing := set(self.critics) - set(self.adversarial):
            raise ValueError(f"task.adversarial: no weight for {sorted(missing)}")

    @property
    def phases(self) -> tuple[Phase, ...]:
        generator = Phase("generator", self.generate, ("generator",))
        if not self.critics:
            return (generator,)
        return Phase("critics", self.criticise, tuple(self.critics)), generator

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        past, frame = self._clip(batch)
        keys = jax.random.split(key, 1 + len(self.critics))
        variables = dict(self.generator.init(keys[0], past))
        own = {"generator": variables.pop("params")}
        for key, (name, critic) in zip(keys[1:], self.critics.items()):
            own[name] = critic.init(key, _seen(critic, past, frame))["params"]
        return {"params": own, **variables}

    def criticise(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The critics' loss: to tell predictions from true frames, with a slope of one."""
        del step
        past, frame = self._clip(batch)
        predicted, _ = self._train(variables, past)
        mix = jax.random.uniform(key, (len(past),), frame.dtype)
        losses = self.critic_losses(variables, past, frame, predicted, mix)
        total = sum(
            value * (self.penalty if name.startswith("penalty") else 1)
            for name, value in losses.items()
        )
        return total, Aux(losses, {})

    def generate(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The generator's loss: to be near the true frame, and to please the critics."""
        del key, step
        past, frame = self._clip(batch)
        predicted, updates = self._train(variables, past)
        losses = self.generator_losses(variables, past, frame, predicted)
        weights = {"intensity": self.intensity, "gradient": self.gradient, **self.adversarial}
        return sum(weights[name] * value for name, value in losses.items()), Aux(losses, updates)

    def critic_losses(
        self,
        variables: Variables,
        past: Past,
        frame: Frame,
        predicted: Frame,
        mix: Float[Array, " b"],
    ) -> Losses:
        """For each critic what it minimises, and "penalty_<name>" at mixtures of the frames.

        Args:
            mix: the true frames' share in the mixtures.
        """
        mix = mix.reshape(-1, 1, 1, 1)
        between = mix * frame + (1 - mix) * predicted
        value, losses = FORMS[self.form][0], {}
        for name, critic in self.critics.items():
            judge = lambda x, name=name: self._judge(variables, name, x)
            real, fake, mixed = (_seen(critic, past, x) for x in (frame, predicted, between))
            losses[name] = value(judge(real), judge(fake))
            if self.form == "wgan_gp":
                losses[f"penalty_{name}"] = gradient_penalty(judge, mixed)
        return losses

    def generator_losses(
        self, variables: Variables, past: Past, frame: Frame, predicted: Frame
    ) -> Losses:
        """"intensity", "gradient", and what each critic holds against the predictions."""
        losses = {
            "intensity": mse(predicted, frame),
            "gradient": gradient_difference(predicted, frame),
        }
        for name, critic in self.critics.items():
            opinion = self._judge(variables, name, _seen(critic, past, predicted))
            losses[name] = FORMS[self.form][1](opinion)
        return losses

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Frame:
        """The frame after the context, in [0, 1]."""
        del key
        past, _ = self._clip(batch)
        variables = {**variables, "params": variables["params"]["generator"]}
        return (self.generator.apply(variables, past).astype(past.dtype) + 1) / 2

    def metrics(self, predictions: Frame, batch: Batch) -> Metrics:
        """The PSNR of each frame, and which frame it is of, whether abnormal."""
        psnr = anomaly.psnr(predictions, self._unit(batch)[:, -1])
        values = {"psnr": psnr, **{name: batch[name] for name in ("label", "clip", "frame")}}
        weight = batch.get("weight", jnp.ones(len(psnr)))
        return {name: (value, weight) for name, value in values.items()}

    def summarise(self, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Frame-level area under the ROC curve of the regularity score, over all clips together."""
        scores = anomaly.regularity(samples["psnr"], samples["clip"])
        decided = samples["frame"] >= self.decidable
        scores, labels, psnr = (x[decided] for x in (scores, samples["label"], samples["psnr"]))
        auc = anomaly.auc(scores, labels)
        return {
            "one_minus_auc": 1 - auc,
            "auc": auc,
            "equal_error_rate": anomaly.equal_error_rate(scores, labels),
            "psnr_normal": float(psnr[labels == 0].mean()),
            "psnr_abnormal": float(psnr[labels == 1].mean()),
        }

    def render(self, predictions: Frame, batch: Batch) -> dict[str, Any]:
        """Two normal and two abnormal windows with their errors; scores of a few clips over time.

        A clip's scores are normalised over what the batch holds of it.
        """
        video, predictions = np.asarray(self._unit(batch)), np.asarray(predictions)
        labels, clips = np.asarray(batch["label"]), np.asarray(batch["clip"])
        middle = lambda rows: rows[[len(rows) // 3, 2 * len(rows) // 3]] if len(rows) else rows
        rows = np.concatenate([middle(np.flatnonzero(labels == kind)) for kind in (0, 1)])
        windows = video[rows]
        sheet = pictures.sheet(
            windows[:, :-1], windows[:, -1:], predictions[rows][:, None], scale=None
        )
        scores = anomaly.regularity(np.asarray(anomaly.psnr(predictions, video[:, -1])), clips)
        charts = []
        for clip in np.unique(clips)[:4]:
            own = clips == clip
            own &= np.asarray(batch["weight"] > 0) if "weight" in batch else True
            first = int(np.asarray(batch["frame"])[own][0]) + 1
            odd = first + np.flatnonzero(labels[own])
            charts.append(
                curves(
                    {"regularity": scores[own]}, first=first, marked=odd,
                    title=f"test clip {clip + 1}: regularity score; labelled abnormal where shaded",
                )
            )
        return {"sheet": sheet, "scores": np.concatenate(charts)}

    def summary(self, batch: Batch) -> Float[Array, "h w c"]:
        """The batch's mean frame."""
        return self._unit(batch).mean((0, 1))

    def trivial(self, summary: Float[Array, "h w c"], batch: Batch) -> dict[str, Frame]:
        """Beside the usual ones what goes on as in the last step, and in the one before."""
        past = self._unit(batch)[:, :-1]
        named = baselines.predictions(past, 1, summary)
        named = {name: frames[:, 0] for name, frames in named.items()}
        named["linear_extrapolation"] = jnp.clip(2 * past[:, -1] - past[:, -2], 0, 1)
        return named

    def _judge(self, variables, name, x):
        params = {"params": variables["params"][name]}
        return self.critics[name].apply(params, x).astype(x.dtype)

    def _train(self, variables, past):
        """The training forward pass: the frame, and the collections it changed."""
        variables = {**variables, "params": variables["params"]["generator"]}
        mutable = [name for name in variables if name != "params"]
        frame, updates = self.generator.apply(variables, past, train=True, mutable=mutable)
        return frame.astype(past.dtype), updates

    def _clip(self, batch: Batch) -> tuple[Past, Frame]:
        """Past and frame in [-1, 1]."""
        video = 2 * self._unit(batch) - 1
        return video[:, :-1], video[:, -1]

    def _unit(self, batch: Batch) -> Float[Array, "b t h w c"]:
        video = batch["video"]
        if video.ndim != 5 or video.shape[1] != self.context + 1:
            raise ValueError(
                f"batch['video'] {video.shape}: wanted (batch, {self.context + 1}, height, width, "
                "channels)"
            )
        return unit_range(video)


def _seen(critic: nn.Module, past: Past, frame: Frame) -> Array:
    """What a critic judges of a frame."""
    if critic.sees == "frame":
        return frame
    return jnp.concatenate([past, frame[:, None]], 1)
