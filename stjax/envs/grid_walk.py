"""A walk over the cells of a grid that avoids where it has been."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

STEPS = np.array([(0, 1), (0, -1), (-1, 0), (1, 0)])  # (row, column) of each action


class WalkState(NamedTuple):
    position: Int[Array, " 2"]
    visits: Int[Array, "side side"]


@dataclasses.dataclass(frozen=True)
class GridWalk:
    """An agent on a grid; actions lead right, left, up, down, and nowhere where the grid ends.

    The observation is the position. (`ffhq_pos_gen.py` of the code of arXiv 2402.15160.)
    """

    side: int = 10

    def reset(self, key: Array) -> WalkState:
        position = jax.random.randint(key, (2,), 0, self.side)
        visits = jnp.zeros((self.side, self.side), int)
        return WalkState(position, visits.at[tuple(position)].add(1))

    def step(
        self, state: WalkState, action: Int[Array, ""], key: Array
    ) -> tuple[WalkState, Int[Array, " 2"], Float[Array, ""], Bool[Array, ""]]:
        del key
        position = jnp.clip(state.position + jnp.asarray(STEPS)[action], 0, self.side - 1)
        state = WalkState(position, state.visits.at[tuple(position)].add(1))
        return state, position, jnp.zeros(()), jnp.zeros((), bool)

    def fresh(self, state: WalkState) -> Bool[Array, " 4"]:
        """The actions that lead to one of the least visited neighbours."""
        reached = state.position + jnp.asarray(STEPS)
        inside = ((reached >= 0) & (reached < self.side)).all(1)
        row, column = jnp.clip(reached, 0, self.side - 1).T
        visits = jnp.where(inside, state.visits[row, column], jnp.iinfo(jnp.int32).max)
        return visits == visits.min()

    def walk(
        self, key: Array, length: int
    ) -> tuple[Int[Array, "length+1 2"], Int[Array, " length"]]:
        """Positions and actions of a walk of fresh steps, drawn evenly."""

        def act(state, key):
            action = jax.random.categorical(key, jnp.where(self.fresh(state), 0.0, -jnp.inf))
            state, position, _, _ = self.step(state, action, key)
            return state, (position, action)

        start, steps = jax.random.split(key)
        first = self.reset(start)
        _, (positions, actions) = lax.scan(act, first, jax.random.split(steps, length))
        return jnp.concatenate([first.position[None], positions]), actions
