"""Video generation over discrete codes: frame after frame, each by masked diffusion."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from stjax.ops.cross_entropy import chunked_cross_entropy
from stjax.ops.pixels import unit_range
from stjax.processes import masked_tokens as masked
from stjax.processes.autoregressive import generate
from stjax.tasks.base import Aux, Batch, Metrics, Phase, Variables
from stjax.tasks.frame_prediction import FramePrediction
from stjax.tasks.tokenizing import Tokenizing
from stjax.viz import frames as pictures
from stjax.viz.curves import curves

Codes = Int[Array, "b t h w"]
Predictions = dict[str, Array]
MASKS = ("tube", "random")


@dataclasses.dataclass(frozen=True)
class TokenGeneration:
    """Trains a tokenizer and a model of its codes, and goes on with clips frame by frame.

    Batches hold "video", or "codes" of a tokenizer that is not here; with either there may be
    "text", tokens with negative ones in front of what is shorter. A step updates the tokenizer,
    then the model of its codes; a learning rate of the tokenizer that falls to zero early in the
    run leaves the model codes that stand still.

    Attributes:
        model: see `stjax.models.generation.lumos1.Lumos1`.
        tokenizing: the tokenizer and its loss; None where batches hold codes.
        context, horizon: frames given, frames generated; latent ones where batches hold codes.
        rate: frames a second, which the model is told.
        mask: "tube": all frames hide the same places; "random": each its own.
        least_rate: least share of the places that training hides.
        drop_text: share of the samples that are trained without their text.
        history: share of a finished frame's places that is hidden before the next one sees it.
        hide_given: whether frames that are given are hidden as much; the published code, which sets
            out to, caches them whole.
        steps: of each frame's generation.
        temperature: of the confidence's noise in the first of them.
        compounded: whether the noise falls as in the published code, see `masked_tokens`.
        sharpness: of the logits that codes are drawn from; infinite takes the likeliest.
        guidance: scale of classifier-free guidance; 1 is none, and so is text that is missing.
        chunk: tokens whose logits the loss holds at a time.
    """

    model: nn.Module
    tokenizing: Tokenizing | None
    context: int
    horizon: int
    rate: int = 1
    mask: str = "tube"
    least_rate: float = 0.7
    drop_text: float = 0.1
    history: float = 0.7
    hide_given: bool = True
    steps: int = 50
    temperature: float = 1.0
    compounded: bool = False
    sharpness: float = 1.0
    guidance: float = 15.0
    chunk: int = 200

    def __post_init__(self):
        if self.mask not in MASKS:
            raise ValueError(f"task.mask: {self.mask!r} is none of {', '.join(MASKS)}")
        if min(self.context, self.horizon) < 1:
            raise ValueError(f"context {self.context} and horizon {self.horizon}: one at least")

    @property
    def headline(self) -> str:
        return "mse_sum" if self.tokenizing else "cross_entropy"

    @property
    def phases(self) -> tuple[Phase, ...]:
        model = Phase("model", self.loss, ("model",))
        if self.tokenizing is None:
            return (model,)
        return Phase("tokenizer", self.tokenizer_loss, ("tokenizer",)), model

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        of_tokenizer, of_model = jax.random.split(key)
        params = {}
        if self.tokenizing:
            params["tokenizer"] = self.tokenizing.init(of_tokenizer, batch)["params"]
        codes = self._codes({"params": params}, batch)
        tokens, layout, _ = self._prefix(batch, *codes.shape[1:])
        params["model"] = self.model.init(of_model, tokens, layout)["params"]
        return {"params": params}

    def tokenizer_loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The tokenizer's own."""
        return self.tokenizing.loss(_part(variables, "tokenizer"), batch, key, step)

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """Mean cross-entropy of the hidden codes; that of the first and last frame beside it."""
        del step
        at_time, at_place, without_text = jax.random.split(key, 3)
        codes = self._codes(variables, batch)
        rate = masked.masking_rate(jax.random.uniform(at_time, codes.shape[:1]), self.least_rate)
        dropped = jax.random.bernoulli(without_text, self.drop_text, codes.shape[:1])
        losses, hidden = self._cross_entropy(variables, batch, codes, rate, at_place, dropped)
        by_frame, counts = losses.sum((0, 2)), hidden.sum((0, 2))
        means = by_frame / jnp.maximum(counts, 1)
        scalars = {"first_frame": means[0], "last_frame": means[-1]}
        return by_frame.sum() / counts.sum(), Aux(scalars, {})

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Predictions:
        """The clip's continuation, a few clips from nothing, and what the true codes cost.

        Returns:
            "nats": cross-entropy of each frame's hidden codes under a tube mask of the least rate,
            (b, t); "codes": those of the clip (b, t, h, w); and of video, in [0, 1] (not clipped):
            "video", the `horizon` frames after the context; "ceiling", these frames as the
            tokenizer gives them back; "samples", a few whole clips generated from nothing.
        """
        continued, invented, at_place = jax.random.split(key, 3)
        codes = self._codes(variables, batch)
        rate = jnp.full(len(codes), self.least_rate)
        losses, hidden = self._cross_entropy(variables, batch, codes, rate, at_place)
        predictions = {"codes": codes, "nats": losses.sum(2) / hidden.sum(2)}
        if self.tokenizing is None:
            return predictions
        given = codes[:, : self._latent_context]
        decode = lambda codes: self.tokenizing.decode(_part(variables, "tokenizer"), codes)
        rest = self.generate(variables, batch, given, codes.shape[1] - given.shape[1], continued)
        few = {name: array[:4] for name, array in batch.items()}
        samples = self.generate(variables, few, given[:4, :0], codes.shape[1], invented)
        return predictions | {
            "video": decode(jnp.concatenate([given, rest], 1))[:, self.context :],
            "ceiling": decode(codes)[:, self.context :],
            "samples": decode(samples),
        }

    def generate(
        self, variables: Variables, batch: Batch, given: Codes, frames: int, key: jax.Array
    ) -> Codes:
        """The codes of `frames` frames after those that are given, told the batch's text."""
        b, t, h, w = given.shape
        prefix, layout, begin = self._prefix(batch, t + frames, h, w)
        begins = (begin,)
        if "text" in batch and self.guidance != 1:
            begins = begin, jnp.full(b, batch["text"].shape[1])
        hidden = jnp.zeros(layout.content, bool)
        if self.history:
            hidden = jnp.asarray(masked.history_pattern(layout.content, self.history))
        model = _part(variables, "model")

        def read(states, tokens):
            """Of each branch the features, the head, and what it then remembers."""
            read = lambda state, begin: self.model.apply(
                model, tokens, layout, state, begin=begin
            )
            return [read(*branch) for branch in zip(states, begins)]

        def remember(states, codes, hidden, *before):
            frames = self.model.write(codes, hidden)
            frames = frames.reshape(b, frames.shape[1] * layout.frame)
            read_all = read(states, jnp.concatenate([*before, frames], 1))
            return tuple(state for *_, state in read_all)

        def logits(states, codes):
            unknown = codes == masked.HIDDEN
            rows = jnp.zeros((b, 1, layout.content), bool).at[:, 0, layout.codes].set(unknown)
            frame = jnp.maximum(codes, 0).reshape(b, 1, h, w)
            both = [
                features[:, 3 + layout.codes] @ head
                for features, head, _ in read(states, self.model.write(frame, rows)[:, 0])
            ]
            of_codes = both[0] if len(both) == 1 else masked.guided(*both, self.guidance)
            return of_codes.astype(jnp.promote_types(of_codes.dtype, jnp.float32))

        def step(_, states, key, temperatures):
            codes = masked.unmask(
                lambda codes: logits(states, codes),
                (b, h * w), temperatures, key, sharpness=self.sharpness,
            )
            return codes, remember(states, codes.reshape(b, 1, h, w), hidden)

        nothing = (None,) * len(begins)
        states = remember(nothing, given, hidden & self.hide_given, prefix)
        now = jax.random.split(key, frames), self._temperatures(frames)
        codes, _ = generate(step, states, jnp.zeros((b, h * w), int), frames, now)
        return codes.reshape(b, frames, h, w)

    def metrics(self, predictions: Predictions, batch: Batch) -> Metrics:
        """Those of `FramePrediction`, and the codes' cross-entropy, in nats a code."""
        found, b = {}, len(next(iter(predictions.values())))
        weight = batch.get("weight", jnp.ones(b))
        if "video" in predictions:
            found |= self._pixels.metrics(predictions["video"], batch)
        if "ceiling" in predictions:
            ceiling = self._pixels.metrics(predictions["ceiling"], batch)["mse_sum"]
            found["tokenizer_mse_sum"] = ceiling
        if "nats" in predictions:
            nats = predictions["nats"]
            found |= {"cross_entropy": (nats.mean(1), weight), "nats_by_frame": (nats, weight)}
        if "codes" in predictions:
            found["codes"] = predictions["codes"].reshape(b, -1), weight
        return found

    def summarise(self, samples: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Means; and the entropy of the codes where nothing is known of a clip, in nats."""
        report = {name: x.mean(0).tolist() for name, x in samples.items() if name != "codes"}
        if "codes" in samples:
            share = np.unique(samples["codes"], return_counts=True)[1] / samples["codes"].size
            report["unigram_entropy"] = float(-(share * np.log(share)).sum())
            report["codes_in_use"] = len(share)
        return report

    def render(self, predictions: Predictions, batch: Batch) -> dict[str, Any]:
        """Context, truth, what the tokenizer leaves of it, prediction; clips from nothing."""
        nats = np.asarray(predictions["nats"])
        if "weight" in batch:
            nats = nats[np.asarray(batch["weight"]) > 0]
        title = "cross-entropy of hidden codes, in nats, by latent frame"
        drawn = {"cross_entropy": curves({"model": nats.mean(0)}, title=title)}
        if self.tokenizing is None:
            return drawn
        clips = np.asarray(unit_range(batch["video"]))[:3]
        context, truth = np.split(clips, [self.context], 1)
        shown = {name: np.asarray(predictions[name]) for name in ("video", "ceiling", "samples")}
        times = [str(time + 1) for time in range(clips.shape[1])]
        blocks = [
            [
                ("context", context[k], times[: self.context]),
                ("truth", truth[k], times[self.context :]),
                ("tokenizer", shown["ceiling"][k], None),
                ("prediction", shown["video"][k], None),
            ]
            for k in range(len(clips))
        ]
        blocks.append([(f"sample {k + 1}", x, None) for k, x in enumerate(shown["samples"])])
        moving = pictures.animation(context, truth, shown["video"][:3])
        return drawn | {"sheet": pictures.strips(blocks), "clip": moving}

    def summary(self, batch: Batch) -> Array:
        """The batch's mean frame; or how often each code occurs in it, plus one of all."""
        if self.tokenizing:
            return self._pixels.summary(batch)
        count = self.model.vocabulary.codes
        use = jnp.bincount(batch["codes"].reshape(-1), length=count) + 1 / count
        return use / use.sum()

    def trivial(self, summary: Array, batch: Batch) -> dict[str, Predictions]:
        """Of video, `FramePrediction`'s; of codes, all alike and by their use in training."""
        if self.tokenizing:
            named = self._pixels.trivial(summary, batch)
            return {name: {"video": frames} for name, frames in named.items()}
        codes = batch["codes"]
        uniform = jnp.full(codes.shape[:2], jnp.log(self.model.vocabulary.codes))
        return {
            "uniform": {"nats": uniform},
            "unigram": {"nats": -jnp.log(summary)[codes].mean((2, 3))},
        }

    @property
    def _pixels(self) -> FramePrediction:
        """The task of the same frames in pixels: its metrics, and who does without a model."""
        return FramePrediction(None, self.context, self.horizon)

    @property
    def _latent_context(self) -> int:
        tokenizer = self.tokenizing.tokenizer
        return tokenizer.grid(self.context, tokenizer.space, tokenizer.space)[0]

    def _temperatures(self, frames: int) -> Float[np.ndarray, "frames steps"]:
        if not self.compounded:
            return np.tile(masked.annealed(self.temperature, self.steps), (frames, 1))
        first = masked.compounded(self.temperature, self.steps)
        return np.concatenate([first[None], np.zeros((frames - 1, self.steps))])

    def _codes(self, variables: Variables, batch: Batch) -> Codes:
        if self.tokenizing is None:
            return batch["codes"]
        clips = unit_range(batch["video"])
        if clips.ndim != 5 or clips.shape[1] != self.context + self.horizon:
            raise ValueError(
                f"batch['video'] {clips.shape}: wanted (batch, time, height, width, channels) of "
                f"{self.context + self.horizon} frames"
            )
        return self.tokenizing.encode(_part(variables, "tokenizer"), clips)

    def _prefix(self, batch: Batch, t: int, h: int, w: int) -> tuple[Array, Any, Array | None]:
        """Text and header, the layout of the whole, and where samples begin, if they differ."""
        b = len(next(iter(batch.values())))
        header = jnp.tile(jnp.asarray(self.model.header(t, self.rate)), (b, 1))
        text, begin = batch.get("text"), None
        if text is not None:
            begin = (text < 0).sum(1)
            header = jnp.concatenate([jnp.maximum(text, 0), header], 1)
        return header, self.model.layout(header.shape[1], t, h, w), begin

    def _cross_entropy(self, variables, batch, codes, rate, key, dropped=None):
        """Of every code (b, t, codes of a frame), 0 where it is seen; and which are hidden."""
        b, t, h, w = codes.shape
        prefix, layout, begin = self._prefix(batch, t, h, w)
        if begin is not None and dropped is not None:
            begin = jnp.where(dropped, batch["text"].shape[1], begin)
        masks = 1 if self.mask == "tube" else t
        draws = jax.random.uniform(key, (b * masks, layout.content))
        hidden = masked.tube_mask(jnp.repeat(rate, masks), draws).reshape(b, masks, -1)
        frames = self.model.write(codes, hidden).reshape(b, -1)
        features, head, _ = self.model.apply(
            _part(variables, "model"), jnp.concatenate([prefix, frames], 1), layout,
            begin=begin, train=True,
        )
        features = features[:, layout.prefix :].reshape(b, t, layout.frame, -1)
        features = features[:, :, 3 + layout.codes].reshape(b * t * h * w, -1)
        losses = chunked_cross_entropy(features, head, codes.reshape(-1), self.chunk)
        asked = jnp.broadcast_to(hidden[:, :, layout.codes], (b, t, h * w))
        return losses.reshape(b, t, -1) * asked, asked


def _part(variables: Variables, name: str) -> Variables:
    return {"params": variables["params"][name]}

