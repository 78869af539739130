"""Room Ballet: rooms in each of which one dancer dances, seen by who is in the room.

(Cho, Yoon and Ahn 2024, arXiv 2402.15160, after the ballet of Lampinen et al. 2021, arXiv
2105.14039.) A room has 3 x 3 cells and is seen with its walls; its dancer starts in the middle, and
makes a move a step. Two worlds: `RoomBallet`, in which an agent walks about (short-stay), and
`BalletTour`, which leads it from dancer to dancer while its memory overflows (multi-task).
"""

import dataclasses
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from stjax.ops.episodic_memory import write

SHAPES = (
    "triangle", "empty_square", "plus", "inverse_plus", "ex", "inverse_ex", "circle",
    "empty_circle", "tee", "upside_down_tee", "h", "u", "upside_down_u", "vertical_stripes",
    "horizontal_stripes",
)
PALETTE = np.array([
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 0, 128), (255, 165, 0), (255, 255, 0),
    (128, 64, 0), (255, 64, 255), (0, 255, 255), (0, 100, 0), (100, 0, 0), (0, 0, 100),
    (100, 100, 0), (0, 100, 100), (215, 200, 255), (255, 210, 170), (255, 205, 230),
    (200, 255, 200), (255, 255, 200),
], np.uint8)
DANCES = {
    "circle_cw": "N E S S W W N N E E S S W W N E",
    "circle_ccw": "N W S S E E N N W W S S E E N W",
    "up_and_down": 4 * "N S S N ",
    "left_and_right": 4 * "E W W E ",
    "diagonal_uldr": 4 * "NW SE SE NW ",
    "diagonal_urdl": 4 * "NE SW SW NE ",
    "plus_cw": 2 * "N S E W S N W E ",
    "plus_ccw": 2 * "N S W E S N E W ",
}
CELLS, MOVES = 5, 16  # cells across what is seen; moves of a dance
_WALL, _SIDE = 40, 9  # its grey; pixels of a template
_STEPS = {"N": (-1, 0), "E": (0, 1), "S": (1, 0), "W": (0, -1)}
# Cells of each dance after each of its moves: (dances, moves, 2).
PATHS = np.array([
    np.cumsum([np.sum([_STEPS[part] for part in move], axis=0) for move in moves.split()], axis=0)
    for moves in DANCES.values()
]) + CELLS // 2


def templates(cell: int = _SIDE) -> Float[np.ndarray, "shapes cell cell"]:
    """The dancers' shapes, 1 where they are; shrunk by averaging, to a `cell` that divides 9."""
    i, j = np.mgrid[:_SIDE, :_SIDE]
    half, last = _SIDE // 2, _SIDE - 1
    inner = lambda x: abs(x - half) <= 1
    low, high = lambda x, n: x < n, lambda x, n: x > last - n
    border = low(i, 2) | high(i, 2) | low(j, 2) | high(j, 2)
    diagonals = (abs(i - j) <= 1) | (abs(last - j - i) <= 1)
    distance = (i - half) ** 2 + (j - half) ** 2
    sides = low(j, 3) | high(j, 3)
    full = np.stack([
        i >= 2 * abs(j - half), border, inner(i) | inner(j), ~(inner(i) | inner(j)), diagonals,
        ~diagonals, distance <= half**2, abs(distance - half**2) < 6, inner(j) | low(i, 3),
        inner(j) | high(i, 3), sides | inner(i), sides | high(i, 3), sides | low(i, 3), j % 2 == 0,
        i % 2 == 0,
    ])
    if _SIDE % cell:
        raise ValueError(f"cell: {cell} pixels do not divide {_SIDE}")
    return einops.reduce(full.astype(np.float32), "s (i p) (j q) -> s i j", "mean", i=cell, j=cell)


class Cast(NamedTuple):
    """Dancers: indices in `DANCES`, `SHAPES` and `PALETTE`."""

    motion: Int[Array, " n"]
    shape: Int[Array, " n"]
    colour: Int[Array, " n"]


def videos(cast: Cast, dance: int = MOVES, cell: int = _SIDE) -> UInt8[Array, "n dance h w 3"]:
    """What is seen of each dancer after each of its last `dance` moves; the last is in the middle.

    Args:
        cell: pixels of a cell; nine are the published ones.
    """
    path = jnp.asarray(PATHS)[cast.motion][:, MOVES - dance :]
    row, column = jnp.moveaxis(jax.nn.one_hot(path, CELLS), 2, 0)
    template, inside = jnp.asarray(templates(cell))[cast.shape], np.zeros((CELLS, CELLS))
    inside[1:-1, 1:-1] = 1
    dancer = jnp.einsum("ntr,ntc,npq->ntrpcq", row, column, template)
    dancer = einops.rearrange(dancer, "n t r p c q -> n t (r p) (c q) 1")
    wall = _stored(np.uint8(_WALL)) * (1 - np.kron(inside, np.ones((cell, cell))))[..., None]
    colours = jnp.asarray(_stored(PALETTE))[cast.colour][:, None, None, None]
    return jnp.rint(dancer * colours + wall).astype(jnp.uint8)


def shown(phase: Int[Array, "*n"], dance: int, delay: int) -> Int[Array, "*n"]:
    """Which frame of a dance is seen at a step of its period: its last one before it begins."""
    return jnp.maximum(phase - delay, -1) % dance


class Observation(NamedTuple):
    """What is seen, and where."""

    frames: UInt8[Array, "... h w 3"]
    place: Int[Array, ""]


class RoomState(NamedTuple):
    cast: Cast
    room: Int[Array, ""]
    time: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class RoomBallet:
    """Short-stay: rooms on a square, all dancing at once; an action leads up, down, left or right.

    A room that is left dances on: at step t it shows step t of its period, which is the dance's
    last frame `delay` times, and then the dance. Walls stop the agent.

    Attributes:
        side: rooms across.
        steps: of an episode.
        dance, delay: frames of the dance (of its end, if less than 16), and of standing still.
        cell: pixels of a cell.
        questions: rooms that an episode is asked about.
    """

    side: int = 5
    steps: int = 1280
    dance: int = MOVES
    delay: int = 16
    cell: int = _SIDE
    questions: int = 1

    @property
    def rooms(self) -> int:
        return self.side**2

    @property
    def period(self) -> int:
        return self.dance + self.delay

    def reset(self, key: Array) -> RoomState:
        """Dances drawn at random; no two dancers share both shape and colour."""
        motion, looks, room = jax.random.split(key, 3)
        pairs = jax.random.permutation(looks, len(SHAPES) * len(PALETTE))[: self.rooms]
        cast = Cast(
            jax.random.randint(motion, (self.rooms,), 0, len(DANCES)), *divmod(pairs, len(PALETTE))
        )
        return RoomState(cast, jax.random.randint(room, (), 0, self.rooms), jnp.zeros((), int))

    def observe(self, state: RoomState) -> Observation:
        here = jax.tree.map(lambda x: x[state.room][None], state.cast)
        frame = shown(state.time % self.period, self.dance, self.delay)
        return Observation(videos(here, self.dance, self.cell)[0, frame], state.room)

    def step(
        self, state: RoomState, action: Int[Array, ""], key: Array
    ) -> tuple[RoomState, Observation, Float[Array, ""], Bool[Array, ""]]:
        del key
        state = RoomState(state.cast, moved(state.room, action, self.side), state.time + 1)
        done = state.time >= self.steps - 1
        return state, self.observe(state), jnp.zeros(()), done

    def episode(self, key: Array) -> dict[str, Array]:
        """A random walk of `steps` steps, the first of which is where it starts, and questions.

        Returns:
            "frames" (rooms * dance, h, w, 3): every frame there is, room by room; "motion" (rooms,)
            the answers; "places" (steps,) the walk; "asked" (questions,) rooms.
        """
        start, walk, ask = jax.random.split(key, 3)
        first = self.reset(start)

        def act(state, action):
            state, observation, _, _ = self.step(state, action, key)
            return state, observation.place

        actions = jax.random.randint(walk, (self.steps - 1,), 0, 4)
        _, places = lax.scan(act, first, actions)
        frames = videos(first.cast, self.dance, self.cell)
        return {
            "frames": frames.reshape(-1, *frames.shape[2:]),
            "motion": first.cast.motion,
            "places": jnp.concatenate([first.room[None], places]),
            "asked": jax.random.permutation(ask, self.rooms)[: self.questions],
        }


def moved(room: Int[Array, ""], action: Int[Array, ""], side: int) -> Int[Array, ""]:
    """The room that an action leads to, 0 up, 1 down, 2 left, 3 right: this one where is a wall."""
    steps = jnp.array([(-1, 0), (1, 0), (0, -1), (0, 1)], room.dtype)
    row, column = jnp.clip(jnp.stack(divmod(room, side)) + steps[action], 0, side - 1)
    return row * side + column


class TourDraws(NamedTuple):
    """What chance decides of a tour: permutations, and who is asked for."""

    motions: Int[Array, " 8"]
    colours: Int[Array, " 19"]
    shapes: Int[Array, " 15"]
    first: Int[Array, " 8"]  # of eight dancers, below
    last: Int[Array, " 14"]
    rooms: Int[Array, " 8"]
    asked: Int[Array, " 4"]  # one of the last 9, of the first 9, of the 8 of a room, of 8 rooms


class TourState(NamedTuple):
    """An episode and how far it is.

    Attributes:
        frames: of all dancers in the order of the tour, (dancers * dance, h, w, 3).
        motion, places: their dances and rooms.
        asked: the dancer of the question.
        kept: who is in the memory.
        time: dancers seen.
    """

    frames: UInt8[Array, "f h w 3"]
    motion: Int[Array, " n"]
    places: Int[Array, " n"]
    asked: Int[Array, ""]
    kept: Bool[Array, " n"]
    time: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class BalletTour:
    """Multi-task: 18 dancers in 8 rooms one after another, and a memory that holds half of them.

    An action is what the full memory gives up at this step (`stjax.ops.episodic_memory`). The
    reward, at the end, is whether the dancer that is asked for was kept. Four tasks ask for one of
    the last nine, of the first nine, of the room most visited, and for the last of any room: each
    can always be answered by one of the four heuristics.
    """

    dance: int = MOVES
    delay: int = 16
    cell: int = _SIDE
    capacity: int = 9

    visits = (8, 3, 2, 1, 1, 1, 1, 1)
    again = (2, 3, 4, 0, 1, 0, 2, 3, 5, 6)  # which of the eight dances come once more

    @property
    def rooms(self) -> int:
        return len(self.visits)

    @property
    def dancers(self) -> int:
        return sum(self.visits)

    @property
    def period(self) -> int:
        return self.dance + self.delay

    def draw(self, key: Array) -> TourDraws:
        keys = jax.random.split(key, 7)
        lengths = (len(DANCES), len(PALETTE), len(SHAPES), 8, self.dancers - 4, self.rooms)
        whole = [jax.random.permutation(k, n) for k, n in zip(keys, lengths)]
        bounds = jnp.array([self.capacity, self.capacity, self.visits[0], self.rooms])
        return TourDraws(*whole, jax.random.randint(keys[6], (4,), 0, bounds))

    def tour(self, draws: TourDraws) -> tuple[Cast, Int[Array, " n"], Int[Array, " 4"]]:
        """Dancers in their order, their rooms, and who each task asks for."""
        order = jnp.arange(self.dancers)
        order = order.at[4:].set(order[4:][draws.last])  # four of the first room stay in front
        order = order.at[:8].set(order[:8][draws.first])
        dances = jnp.concatenate([jnp.arange(len(DANCES)), jnp.array(self.again)])
        shapes = jnp.concatenate([draws.shapes, draws.shapes])
        cast = Cast(draws.motions[dances][order], shapes[order], draws.colours[order])
        group = jnp.repeat(jnp.arange(self.rooms), jnp.array(self.visits),
                           total_repeat_length=self.dancers)[order]
        places = draws.rooms[group]
        of_first = jnp.nonzero(group == 0, size=self.visits[0])[0][draws.asked[2]]
        last_visit = self.dancers - 1 - jnp.argmax(places[::-1] == draws.asked[3])
        newest = self.dancers - self.capacity + draws.asked[0]
        return cast, places, jnp.stack([newest, draws.asked[1], of_first, last_visit])

    def episode(self, key: Array) -> dict[str, Array]:
        """"frames" (dancers * dance, h, w, 3), "motion" (dancers,), "places" (dancers,), and
        "asked" (tasks,) dancers.
        """
        cast, places, asked = self.tour(self.draw(key))
        frames = videos(cast, self.dance, self.cell)
        return {
            "frames": frames.reshape(-1, *frames.shape[2:]), "motion": cast.motion,
            "places": places, "asked": asked,
        }

    def start(self, episode: dict[str, Array], task: Int[Array, ""]) -> TourState:
        """The state before the first step of an episode, generated or read."""
        kept = jnp.zeros(episode["places"].shape, bool)
        return TourState(
            episode["frames"], episode["motion"], episode["places"], episode["asked"][task], kept,
            jnp.zeros((), int),
        )

    def reset(self, key: Array) -> TourState:
        task, episode = jax.random.split(key)
        return self.start(self.episode(episode), jax.random.randint(task, (), 0, 4))

    def step(
        self, state: TourState, action: Int[Array, ""], key: Array
    ) -> tuple[TourState, Observation, Float[Array, ""], Bool[Array, ""]]:
        del key
        kept = write(state.kept, state.places, state.time, action, self.capacity, self.rooms)
        frames = lax.dynamic_slice_in_dim(state.frames, state.time * self.dance, self.dance)
        observation = Observation(frames, state.places[state.time])
        state = state._replace(kept=kept, time=state.time + 1)
        done = state.time == len(kept)
        return state, observation, (done & kept[state.asked]).astype(jnp.float32), done

    def play(
        self, state: TourState, heuristic: Int[Array, ""], key: Array
    ) -> tuple[TourState, Float[Array, ""]]:
        """The state after a whole tour under one heuristic, and what it was rewarded."""

        def act(state, _):
            state, _, reward, _ = self.step(state, heuristic, key)
            return state, reward

        state, rewards = lax.scan(act, state, length=len(state.kept))
        return state, rewards.sum()


def _stored(values: np.ndarray) -> np.ndarray:
    """What the published episodes hold of colours, that were divided by 255 and multiplied back."""
    return (np.float32(values) / np.float32(255) * np.float32(255)).astype(np.uint8)
