"""Frame after frame, or token after token, each prediction fed back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped


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


def greedy(
    step: Callable[..., tuple[Float[Array, "b vocabulary"], Any]],
    logits: Float[Array, "b vocabulary"],
    state: Any,
    length: int,
    end: int,
) -> Int[Array, "b length"]:
    """The likeliest token, time after time; after the end nothing but ends.

    Args:
        step: `(token, state) -> (logits of the next one, state)`.
        logits: of the first token.
        state: what the network remembers of what was before it.
        end: the token that ends a text.
    """
    likeliest = lambda logits: jnp.argmax(logits, -1).astype(jnp.int32)

    def next_token(token, state):
        logits, state = step(token, state)
        return jnp.where(token == end, end, likeliest(logits)), state

    first = likeliest(logits)
    rest, _ = generate(next_token, state, first, length - 1)
    return jnp.concatenate([first[:, None], rest], 1)
