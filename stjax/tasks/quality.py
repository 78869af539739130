"""Video quality told by a language model: instruction tuning, and the scores in its answers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from stjax.data.tokenizer import Tokenizer
from stjax.layers.lora import Lora
from stjax.metrics import quality
from stjax.models.backbones import clip
from stjax.ops.pixels import unit_range
from stjax.processes.autoregressive import greedy
from stjax.tasks.base import Aux, Batch, Metrics, Phase, Variables
from stjax.viz import quality as pictures

# Of the pixels that PyTorchVideo's networks were trained on.
_MEAN, _STD = 0.45, 0.225
_UNIT = 25  # of the numbers that are regressed, in points


@dataclasses.dataclass(frozen=True)
class VideoQuality:
    """Trains a model to answer what a video's score and level are, and reads its answers.

    Batches are those of `stjax.data.quality`; both questions are asked of every video, which is
    seen once for them. Answers are generated greedily, up to as many tokens as the longest true one
    may have.

    Attributes:
        model: see `stjax.models.language.lmm_vqa.LmmVqa`; says what is frozen.
        tokenizer: of the texts.
        cuts: between levels, see `stjax.metrics.quality.level`.
        lora: of the language model's kernels, trained beside what is not frozen; None for none.
    """

    model: nn.Module
    tokenizer: Tokenizer
    cuts: tuple[float, float]
    lora: Lora | None = None

    headline = "rmse"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One update, of what is not frozen."""
        trained = [name for name in self.model.parts if name not in self.model.frozen]
        return (Phase("", self.loss, (*trained, *["lora"] * (self.lora is not None))),)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        key, own = jax.random.split(key)
        variables = dict(self.model.init(key, *self._seen(batch), *self._texts(batch)))
        if self.lora is not None:
            params = dict(variables["params"])
            params["lora"] = self.lora.init(own, params["language"])
            variables["params"] = params
        return variables

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """Mean cross-entropy over the tokens of the answers, their ends included.

        To it comes, where the model regresses, the squared error of its number: `_UNIT`s from 50.
        """
        del key, step
        prompts, answers = self._texts(batch)
        (logits, number), updates = self.model.apply(
            self._whole(variables), *self._seen(batch), prompts, answers, train=True,
            mutable=[name for name in variables if name != "params"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), answers
        )
        said = answers != self.tokenizer.pad
        mean = lambda x: jnp.sum(x * said) / said.sum()
        right = jnp.argmax(logits, -1) == answers
        loss, metrics = mean(losses), {"right_tokens": mean(right)}
        if number is not None:
            error = number.astype(jnp.float32) - (batch["mos"][:, None] - 50) / _UNIT
            metrics["regression"] = jnp.mean(jnp.square(error))
            loss = loss + metrics["regression"]
        return loss, Aux(metrics, updates)

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> dict[str, Array]:
        """The answers' tokens (b, a): "score" and "level".

        Raises:
            ValueError: prompts that, with the video and an answer, do not fit the context.
        """
        del key
        variables = self._whole(variables)
        apply = lambda method, *inputs: self.model.apply(variables, *inputs, method=method)
        visual = apply("see", *self._seen(batch))
        prompts, answers = self._texts(batch)
        tokens = prompts.shape[-1] - 1 + visual.shape[1] + answers.shape[-1]
        if tokens > (context := self.model.language.capacity):
            raise ValueError(
                f"batch['prompts'] {prompts.shape}: with {visual.shape[1]} tokens of the video and "
                f"{answers.shape[-1]} of an answer, {tokens} in all, where the context is {context}"
            )
        kinds, length = answers.shape[1:]
        flat = prompts.reshape(-1, prompts.shape[-1])
        logits, state = apply("start", jnp.repeat(visual, kinds, 0), flat)
        step = lambda token, state: apply("step", token, state)
        said = greedy(step, logits, state, length, self.tokenizer.end)
        said = said.reshape(-1, kinds, length)
        return {"score": said[:, 0], "level": said[:, 1]}

    def metrics(self, predictions: dict[str, Array], batch: Batch) -> Metrics:
        """What was said, or the number that a trivial predictor gives, and the truth."""
        weight = batch.get("weight", jnp.ones(len(batch["mos"])))
        values = {**predictions, "mos": batch["mos"]}
        return {name: (value, weight) for name, value in values.items()}

    def summarise(self, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`stjax.metrics.quality.agreement`, and how often the level is wrong, over a whole set."""
        true = np.asarray(samples["mos"], np.float64)
        levels = [quality.level(score, self.cuts) for score in true]
        if "number" in samples:
            scores = np.asarray(samples["number"], np.float64)
            said = [quality.level(max(score, 1e-6), self.cuts) for score in scores]
        else:
            scores = self.scores(samples["score"])
            said = [self.tokenizer.decode(answer).strip() for answer in samples["level"]]
        wrong = float(np.mean([a != b for a, b in zip(said, levels)]))
        return {**quality.agreement(scores, true), "level_error": wrong}

    def scores(self, answers: np.ndarray) -> Float[np.ndarray, " b"]:
        """The scores that answers give."""
        decode = self.tokenizer.decode
        return np.array([quality.parse_score(decode(answer)) for answer in answers.tolist()])

    def render(self, predictions: dict[str, Array], batch: Batch) -> dict[str, Any]:
        """Videos with what was asked and said of them; said scores against true ones."""
        real = np.asarray(batch["weight"]) > 0 if "weight" in batch else slice(None)
        pick = lambda x: np.asarray(x)[real]
        said = {name: pick(answers) for name, answers in predictions.items()}
        true, clips = pick(batch["mos"]), np.asarray(unit_range(pick(batch["clips"])[:6]))
        lines = []
        for row in range(len(clips)):
            level = quality.level(float(true[row]), self.cuts)
            answers = [self.tokenizer.decode(said[name][row].tolist()) for name in said]
            question = self.tokenizer.decode(pick(batch["prompts"])[row, 0].tolist())
            lines.append((
                question.split("### question :")[-1].split("###")[0].strip(" :"),
                f"said {' and '.join(answers)}; true {true[row]:.3f} and {level}",
            ))
        return {
            "answers": pictures.asked(clips, lines),
            "scatter": pictures.scatter(
                true, self.scores(said["score"]), "mean opinion score", "said score"
            ),
        }

    def summary(self, batch: Batch) -> dict[str, jax.Array]:
        """Moments of the scores and of simple statistics of the pixels."""
        x, y = _statistics(unit_range(batch["clips"])), batch["mos"]
        return {"xx": x.T @ x / len(x), "xy": y @ x / len(x)}

    def trivial(self, summary: dict[str, jax.Array], batch: Batch) -> dict[str, Any]:
        """The mean score, and a linear regression on the statistics."""
        x = _statistics(unit_range(batch["clips"]))
        ridge = 1e-5 * jnp.eye(x.shape[1])
        line = jnp.clip(x @ jnp.linalg.solve(summary["xx"] + ridge, summary["xy"]), 0, 100)
        mean = jnp.broadcast_to(summary["xy"][0], line.shape)
        return {"mean_score": {"number": mean}, "linear_statistics": {"number": line}}

    def _whole(self, variables: Variables) -> Variables:
        """Variables of the model: LoRA's changes in the language model's kernels."""
        if self.lora is None:
            return variables
        params = dict(variables["params"])
        params["language"] = self.lora.merged(params["language"], params.pop("lora"))
        return {**variables, "params": params}

    def _seen(self, batch: Batch) -> tuple[Array, Array]:
        """Key frames as CLIP wants them, and clips as SlowFast does."""
        frames, clips = batch["frames"], batch["clips"]
        if frames.ndim != 5 or clips.ndim != 6 or frames.shape[:2] != clips.shape[:2]:
            raise ValueError(
                f"batch['frames'] {frames.shape}, batch['clips'] {clips.shape}: wanted (batch, "
                "seconds, height, width, channels), and frames of each second after the seconds"
            )
        frames = (unit_range(frames) - jnp.array(clip.MEAN)) / jnp.array(clip.STD)
        return frames, (unit_range(clips) - _MEAN) / _STD

    def _texts(self, batch: Batch) -> tuple[Array, Array]:
        return batch["prompts"], batch["answers"]


def _statistics(clips: Float[Array, "b s f h w c"]) -> Float[Array, "b n"]:
    """One, and what anyone would measure: changes over time, contrast, edges, and grain."""
    change = jnp.abs(clips[:, :, 1:] - clips[:, :, :-1]).mean((3, 4, 5)).reshape(len(clips), -1)
    down = jnp.abs(jnp.diff(clips, axis=3)).mean((1, 2, 3, 4, 5))
    along = jnp.abs(jnp.diff(clips, axis=4)).mean((1, 2, 3, 4, 5))
    bend = jnp.abs(jnp.diff(clips, 2, axis=3)).mean((1, 2, 3, 4, 5))
    contrast = clips.std((3, 4, 5)).mean((1, 2))
    moments = [change.mean(1), change.std(1), change.min(1), change.max(1)]
    measured = jnp.stack([*moments, down, along, bend, contrast], 1)
    logs = jnp.log(measured + 1e-3)
    return jnp.concatenate([jnp.ones((len(clips), 1)), 10 * measured, logs], 1)
