"""Questions about episodes: which dance did this dancer dance?"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from stjax.envs.room_ballet import DANCES, BalletTour, RoomBallet, TourState, shown
from stjax.metrics.classification import top_k_error
from stjax.ops.episodic_memory import HEURISTICS, contents
from stjax.ops.pixels import unit_range
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.viz import rooms as pictures

Episodes = dict[str, Array]
# What a model is asked with: frames, which are seen where and when, which are the question.
Question = tuple[Array, Array, Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class EpisodeQuestions:
    """Trains a model that reads what an agent saw on a walk, and is shown one dancer's last frame.

    The model is `model(frames, seen, places, times, asked) -> logits`
    (`stjax.models.language.spatially_aware_transformer`). Batches hold "seed" (b, 2), by which the
    world makes the episodes on the device, or the episodes themselves (`RoomBallet.episode`).

    Attributes:
        model: what remembers and answers.
        world: where the episodes are from.
    """

    model: nn.Module
    world: RoomBallet

    headline = "error"

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return self.model.init(key, *self._question(self.episodes(batch)))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key, step
        episodes = self.episodes(batch)
        logits = self.model.apply(variables, *self._question(episodes), train=True)
        each = _cross_entropy(logits, self._labels(episodes))
        return each.mean(), Aux(metrics={}, updates={})

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> dict[str, Array]:
        """Probabilities of the answers, "scores", and "looks", where the first was read from."""
        del key
        question = self._question(self.episodes(batch))
        return self._read(variables, question)

    def metrics(self, predictions: dict[str, Array] | Array, batch: Batch) -> Metrics:
        """Of what `predict` gives, or of scores alone."""
        labels = self._labels(self.episodes(batch))
        weight = batch.get("weight", jnp.ones(len(labels)))
        return {"error": (_error(_scores(predictions), labels), weight)}

    def summary(self, batch: Batch) -> dict[str, Array]:
        """How often each answer is right, and the sums of its clues."""
        episodes = self.episodes(batch)
        right = jax.nn.one_hot(self._labels(episodes), len(DANCES))
        clues = self._clues(episodes)
        sums = {name: jnp.einsum("bnc,bnf->cf", right, clue) for name, clue in clues.items()}
        return {"count": right.sum((0, 1)), **sums}

    def trivial(self, summary: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """Scores of the commonest answer, and of those whose mean clue is nearest."""
        episodes, count = self.episodes(batch), summary["count"]
        shape = (*self._labels(episodes).shape, len(DANCES))
        predictions = {"commonest": jnp.broadcast_to(count, shape)}
        for name, clue in self._clues(episodes).items():
            means = summary[name] / jnp.maximum(count, 1e-6)[:, None]
            distance = jnp.sum((clue[:, :, None] - means) ** 2, -1)
            predictions[name] = jnp.where(count > 0, -distance, -jnp.inf)
        return predictions

    def render(self, predictions: dict[str, Array], batch: Batch) -> dict[str, Any]:
        """The first walks: rooms, what was looked at, and the answers to the first question."""
        episodes = jax.device_get(jax.jit(self.episodes)(batch))
        looks, scores = (np.asarray(predictions[name]) for name in ("looks", "scores"))
        frames = episodes["frames"].reshape(
            len(looks), -1, self.world.dance, *episodes["frames"].shape[2:]
        )
        pages = []
        for k in _real(batch)[:3]:
            asked = episodes["asked"][k, 0]
            pages.append(pictures.walk(
                frames[k, :, -1], episodes["places"][k], looks[k], asked, scores[k, 0],
                episodes["motion"][k, asked], tuple(DANCES),
            ))
        return {"walks": pictures.column(pages)}

    def episodes(self, batch: Batch) -> Episodes:
        """The batch's, or what the world makes of its seeds."""
        if "frames" in batch:
            return batch
        return {**batch, **jax.vmap(self.world.episode)(jax.random.wrap_key_data(batch["seed"]))}

    def _read(self, variables: Variables, question: Question) -> dict[str, Array]:
        logits, inner = self.model.apply(variables, *question, mutable=["intermediates"])
        scores = jax.nn.softmax(logits.astype(jnp.float32))
        return {
            "scores": scores,
            "looks": self.model.looks(
                inner["intermediates"], question[1].shape[1], question[4].shape[2]
            ),
        }

    def _labels(self, episodes: Episodes) -> Int[Array, "b n"]:
        return jnp.take_along_axis(episodes["motion"], episodes["asked"], axis=1)

    def _question(self, episodes: Episodes) -> Question:
        world, places = self.world, episodes["places"]
        times = jnp.broadcast_to(jnp.arange(places.shape[1]), places.shape)
        seen = places * world.dance + shown(times % world.period, world.dance, world.delay)
        asked = episodes["asked"][..., None] * world.dance + world.dance - 1
        return unit_range(episodes["frames"]), seen, places, times, asked

    def _clues(self, episodes: Episodes) -> dict[str, Float[Array, "b n f"]]:
        """What the answer may be guessed by: the question's own frame; what was seen last, or
        ever, where there was something; and that in the room of the question, found by its frame.
        """
        frames, seen, _, _, asked = self._question(episodes)
        number, dance = frames.shape[1], self.world.dance
        times = jax.vmap(lambda seen: jnp.zeros(number).at[seen].add(1))
        latest, ever = times(seen[:, -self.world.period :]), times(seen)
        ids = jnp.arange(number)
        clues = {
            "by its frame": ids == asked[..., :1],
            "by what was seen last": latest[:, None],
            "by all that was seen": ever[:, None],
            "by what was seen there": ever[:, None] * (ids // dance == asked[..., :1] // dance),
        }
        return _maps(frames, clues, asked.shape[1], self.world.cell)


@dataclasses.dataclass(frozen=True)
class AllocatedQuestions(EpisodeQuestions):
    """The same of tours that a memory cannot hold: what it gives up is learned too.

    An episode is asked in one of four ways, its "turn" modulo four, which the allocator is told
    before. Its choice, at random with probability epsilon, is one heuristic for the whole tour; the
    world is stepped on the device under it. The choice's value learns from a reward that is the
    answer's log-likelihood: loss + weight * mean (reward - value of the choice)^2 (a bandit: a tour
    is one step).

    Attributes:
        allocator: task (one-hot) -> values of heuristics.
        heuristic: "ama", the allocator's choice, or the name of one for all tasks.
        weight: of the value's loss.
        epsilon: at the first step, at the last, and how many steps lie between.
    """

    world: BalletTour
    allocator: nn.Module = None
    heuristic: str = "ama"
    weight: float = 0.1
    epsilon: tuple[float, float, int] = (1.0, 0.2, 200_000)

    def __post_init__(self):
        if self.heuristic not in ("ama", *HEURISTICS):
            raise ValueError(
                f"task.heuristic: {self.heuristic!r} is none of ama, {', '.join(HEURISTICS)}"
            )

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        keys = jax.random.split(key)
        chosen = jnp.zeros(len(batch["turn"]), int)
        question = self._question(self._played(self.episodes(batch), chosen), chosen)
        reader = self.model.init(keys[0], *question)["params"]
        allocator = self.allocator.init(keys[1], self._tasks(batch))["params"]
        return {"params": {"reader": reader, "allocator": allocator}}

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        params = variables["params"]
        values = self.allocator.apply({"params": params["allocator"]}, self._tasks(batch))
        epsilon = optax.linear_schedule(*self.epsilon)(step + 1)
        explore, which = jax.random.split(key)
        chosen = jnp.where(
            jax.random.bernoulli(explore, epsilon, (len(values),)),
            jax.random.randint(which, (len(values),), 0, len(HEURISTICS)),
            self._greedy(values),
        ) if self.heuristic == "ama" else self._greedy(values)
        episodes = self.episodes(batch)
        question = self._question(self._played(episodes, chosen), chosen)
        logits = self.model.apply({"params": params["reader"]}, *question, train=True)
        each = _cross_entropy(logits, self._labels(episodes))
        value = jnp.take_along_axis(values, chosen[:, None], axis=1)[:, 0]
        bandit = jnp.square(-jax.lax.stop_gradient(each) - value).mean()
        scalars = {"cross_entropy": each.mean(), "value_error": bandit, "epsilon": epsilon}
        if self.heuristic != "ama":
            return each.mean(), Aux(metrics={}, updates={})
        return each.mean() + self.weight * bandit, Aux(metrics=scalars, updates={})

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> dict[str, Array]:
        """As before, the "heuristic" chosen, who was "kept", and whether the one asked for was."""
        del key
        params = variables["params"]
        values = self.allocator.apply({"params": params["allocator"]}, self._tasks(batch))
        heuristic = self._greedy(values)
        state = self._played(self.episodes(batch), heuristic)
        answers = self._read({"params": params["reader"]}, self._question(state, heuristic))
        found = jnp.take_along_axis(state.kept, state.asked[:, None], axis=1)[:, 0]
        return {**answers, "heuristic": heuristic, "kept": state.kept, "found": found}

    def metrics(self, predictions: dict[str, Array] | Array, batch: Batch) -> Metrics:
        """Errors, over all and of each task; how often the dancer was kept, and by the task's own.
        """
        tasks = self._tasks(batch)
        errors = _error(_scores(predictions), self._labels(self.episodes(batch)))
        weight = batch.get("weight", jnp.ones(len(errors)))
        found = {"error": (errors, weight)}
        found |= {f"error_{n}": (errors, weight * tasks[:, k]) for k, n in enumerate(HEURISTICS)}
        if isinstance(predictions, dict):
            found["kept"] = (predictions["found"].astype(jnp.float32), weight)
            own = predictions["heuristic"] == tasks.argmax(1)
            found["own_heuristic"] = (own.astype(jnp.float32), weight)
        return found

    def render(self, predictions: dict[str, Array], batch: Batch) -> dict[str, Any]:
        """The first tours: who was kept, by which heuristic, and the answers."""
        drawn, found = jax.device_get((jax.jit(self.episodes)(batch), predictions))
        frames = drawn["frames"].reshape(
            *drawn["motion"].shape, self.world.dance, *drawn["frames"].shape[2:]
        )
        listed = lambda *of: contents(*of, self.world.capacity)
        listed = np.asarray(jax.jit(jax.vmap(listed))(
            found["kept"], drawn["places"], found["heuristic"]
        ))
        pages = []
        for k in _real(batch)[:8]:
            task, heuristic = int(batch["turn"][k]) % len(HEURISTICS), found["heuristic"][k]
            looks = np.zeros(len(found["kept"][k]))
            looks[listed[k]] = found["looks"][k].reshape(self.world.capacity, -1).sum(1)
            asked = drawn["asked"][k, task]
            pages.append(pictures.tour(
                frames[k, :, -1], drawn["places"][k], found["kept"][k], looks, asked,
                found["scores"][k, 0], drawn["motion"][k, asked], tuple(DANCES),
                f"asked as in task {HEURISTICS[task]}; kept by {HEURISTICS[heuristic]}",
            ))
        return {"tours": pictures.column(pages)}

    def _tasks(self, batch: Batch) -> Float[Array, "b 4"]:
        return jax.nn.one_hot(batch["turn"] % len(HEURISTICS), len(HEURISTICS))

    def _greedy(self, values: Float[Array, "b 4"]) -> Int[Array, "b"]:
        if self.heuristic == "ama":
            return values.argmax(1)
        return jnp.full(len(values), HEURISTICS.index(self.heuristic))

    def _played(self, episodes: Episodes, chosen: Int[Array, "b"]) -> TourState:
        """What the tours end in under the heuristics chosen."""
        tasks = episodes["turn"] % len(HEURISTICS)
        start = jax.vmap(self.world.start)(episodes, tasks)
        key = jax.random.key(0)  # nothing in a tour is left to chance
        return jax.vmap(lambda *of: self.world.play(*of, key)[0])(start, chosen)

    def _labels(self, episodes: Episodes) -> Int[Array, "b n"]:
        asked = jnp.take_along_axis(
            episodes["asked"], episodes["turn"][:, None] % len(HEURISTICS), axis=1
        )
        return jnp.take_along_axis(episodes["motion"], asked, axis=1)

    def _question(self, state: TourState, heuristic: Int[Array, "b"]) -> Question:
        """Only the frames of who was kept, in the memory's order, and of who is asked for."""
        world, batch = self.world, len(state.kept)
        listed = lambda kept, places, h: contents(kept, places, h, world.capacity)
        items = jax.vmap(listed)(state.kept, state.places, heuristic)
        frames = state.frames.reshape(batch, -1, world.dance, *state.frames.shape[2:])
        who = jnp.concatenate([items, state.asked[:, None]], axis=1)
        frames = jax.vmap(lambda frames, who: frames[who])(frames, who)
        phases = shown(jnp.arange(world.period), world.dance, world.delay)
        seen = (jnp.arange(world.capacity)[:, None] * world.dance + phases).reshape(1, -1)
        places = jnp.take_along_axis(state.places, items, axis=1)
        asked = jnp.full((batch, 1, world.dance), frames.shape[1] * world.dance - 1)
        return (
            unit_range(frames.reshape(batch, -1, *frames.shape[3:])),
            jnp.broadcast_to(seen, (batch, seen.size)),
            jnp.repeat(places, world.period, axis=1),
            jnp.broadcast_to(jnp.arange(seen.size), (batch, seen.size)),
            asked,
        )

    def _clues(self, episodes: Episodes) -> dict[str, Float[Array, "b n f"]]:
        """The question's own frame, and, if a heuristic kept the dancer, the whole dance."""
        frames = unit_range(episodes["frames"])
        ids, number = jnp.arange(frames.shape[1]), len(HEURISTICS)
        each = jnp.repeat(jnp.arange(number)[:, None], len(frames), axis=1)
        states = jax.vmap(self._played, (None, 0))(episodes, each)
        asked = states.asked[0][:, None]
        own = ids // self.world.dance == asked
        kept = jnp.take_along_axis(states.kept, states.asked[..., None], axis=2)
        clues = {f"by what {name} kept": own & kept[k] for k, name in enumerate(HEURISTICS)}
        clues["by its frame"] = ids == (asked + 1) * self.world.dance - 1
        return _maps(frames, {k: v[:, None] for k, v in clues.items()}, 1, self.world.cell)


def _maps(
    frames: Float[Array, "b f h w 3"], weights: dict[str, Array], questions: int, cell: int
) -> dict[str, Float[Array, "b n f"]]:
    """Where in a room something was, on average over the frames by their weights (b, n or 1, f)."""
    there = (frames[:, :, cell:-cell, cell:-cell] > 0).any(-1).astype(jnp.float32)

    def mean(weights):
        share = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1)
        found = jnp.einsum("bnf,bfhw->bnhw", share, there).reshape(*share.shape[:2], -1)
        return jnp.broadcast_to(found, (len(found), questions, found.shape[2]))

    return {name: mean(each.astype(jnp.float32)) for name, each in weights.items()}


def _cross_entropy(
    logits: Float[Array, "b n c"], labels: Int[Array, "b n"]
) -> Float[Array, "b"]:
    each = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return each.mean(1)


def _scores(predictions: dict[str, Array] | Array) -> Float[Array, "b n c"]:
    return predictions["scores"] if isinstance(predictions, dict) else predictions


def _error(scores: Float[Array, "b n c"], labels: Int[Array, "b n"]) -> Float[Array, "b"]:
    return jax.vmap(top_k_error, 1, 1)(scores, labels).mean(1)


def _real(batch: Batch) -> np.ndarray:
    """Rows that are no padding."""
    return np.flatnonzero(np.asarray(batch.get("weight", np.ones(len(batch["turn"])))) > 0)
