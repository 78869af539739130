"""Frame after frame, each prediction fed back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped


def generate(
    step: Callable[..., tuple[Array, Any]],
    state: Any,
    first: Shaped[Array, "b ..."],
    length: int,
    given: tuple[Any, ...] = (),
) -> tuple[Shaped[Array, "b length ..."], Any]:
    """Runs `step` from `first` on, one `lax.scan`.

    Args:
        step: `(frame, state, *now) -> (next_frame, state)`, frames without a time axis; the next
            frame has the shape and dtype of the one before.
        state: what the network remembers of the frames before `first`.
        first: the last frame that is known.
        length: how many frames to generate.
        given: what every step is told besides, such as actions or random keys: arrays, or trees
            of arrays, of `length` entries on their leading axis; `now` is one entry of each.

    Returns:
        The generated frames, time on axis 1, and the state after the last step.
    """

    def advance(carry, now):
        frame, state = step(*carry, *now)
        return (frame, state), frame

    (_, state), frames = lax.scan(advance, (first, state), given, length)
    return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), frames), state
