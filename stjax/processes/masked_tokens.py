"""Masked discrete diffusion: codes are hidden at random, and drawn a few at a time.

MaskGIT (Chang et al. 2022, arXiv 2202.04200) within a frame; over frames Lumos-1's autoregressive
discrete diffusion forcing (Yuan et al. 2025, arXiv 2507.08801, section 3.3): in training all frames
hide the same places (`tube_mask`), in generation each finished frame is partly hidden again
(`history_pattern`) before the next one sees it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

HIDDEN = -1
Logits = Float[Array, "... codes"]


def cosine_schedule(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """Share that is still hidden at time t of [0, 1]: cos(pi t / 2)."""
    return jnp.cos(t * jnp.pi * 0.5)


def linear_schedule(t: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.clip(1 - t, 1e-6, 1)


def masking_rate(t: Float[Array, "b"], least: float = 0.7) -> Float[Array, "b"]:
    """Rates for training at times t, uniform in [0, 1): those of the cosine, `least` at least."""
    return jnp.maximum(cosine_schedule(t), least)


def tube_mask(rate: Float[Array, "b"], draws: Float[Array, "b n"]) -> Bool[Array, "b n"]:
    """Hides round(rate n) of n places, one at least; meant for every frame of a sample alike.

    Args:
        draws: uniform; place i is hidden if the place of the i-th smallest is among the first.
    """
    count = jnp.maximum(jnp.round(rate * draws.shape[1]), 1)
    return jnp.argsort(draws, axis=1) < count[:, None]


def history_pattern(length: int, ratio: float) -> Bool[np.ndarray, "length"]:
    """Hides about ratio * length places of a finished frame, evenly spaced; one at least.

    (So the published code; the paper draws them.)
    """
    count = max(1, round(ratio * length))
    hidden = np.zeros(length, bool)
    hidden[np.rint(np.arange(count) * (length / count)).astype(int)] = True
    return hidden


def guided(conditional: Logits, unconditional: Logits, scale: float) -> Logits:
    """Classifier-free guidance: u + scale (c - u)."""
    return unconditional + scale * (conditional - unconditional)


def keep_top_k(logits: Logits, k: int) -> Logits:
    """-inf but for the k largest, and those equal to the last of them."""
    return jnp.where(logits < lax.top_k(logits, k)[0][..., -1:], -jnp.inf, logits)


def keep_top_p(logits: Logits, p: float) -> Logits:
    """-inf but for the likeliest that together reach a probability of p (nucleus sampling).

    (Holtzman et al. 2019, arXiv 1904.09751.)
    """
    order = jnp.argsort(-logits, axis=-1)
    likely = jnp.take_along_axis(jax.nn.softmax(logits, -1), order, -1)
    beyond = jnp.cumsum(likely, -1) - likely > p
    back = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(beyond, back, -1), -jnp.inf, logits)


def hide_again(
    probabilities: Float[Array, "b n"],
    uniform: Float[Array, "b n"],
    count: Int[Array, "b"],
    temperature: Float[Array, ""] | float,
) -> Bool[Array, "b n"]:
    """Which `count` places are hidden again: those of the least confidence.

    log probability + temperature * Gumbel noise.

    Args:
        uniform: draws from (0, 1) that the noise is made of.
    """
    noise = -jnp.log(-jnp.log(uniform))
    confidence = jnp.log(jnp.maximum(probabilities, 1e-20)) + temperature * noise
    cut = jnp.take_along_axis(jnp.sort(confidence, 1), count[:, None], 1)
    return confidence < cut


def annealed(temperature: float, steps: int) -> Float[np.ndarray, "steps"]:
    """Noise of the confidence at every step, falling in a line to 0 at the last one."""
    return temperature * (1 - np.arange(1, steps + 1) / steps)


def compounded(temperature: float, steps: int) -> Float[np.ndarray, "steps"]:
    """As the published code anneals: each step's share is taken of what the last one left.

    There what is left, nothing, is all that the frames after the first have.
    """
    return temperature * np.cumprod(1 - np.arange(1, steps + 1) / steps)


def unmask(
    logits: Callable[[Int[Array, "b n"]], Float[Array, "b n codes"]],
    shape: tuple[int, int],
    temperatures: Float[Array, "steps"],
    key: Key[Array, ""],
    *,
    sharpness: float = 1.0,
) -> Int[Array, "b n"]:
    """Draws codes in as many steps as there are temperatures, the surest ones first.

    Every step draws all hidden codes and hides floor(n cos(pi (s + 1) / (2 steps))) of them again,
    one at least and one fewer than before; the last step keeps all.

    Args:
        logits: of all codes, given those that are known and `HIDDEN` for the others.
        shape: samples and codes of each.
        temperatures: of the noise on the confidence, see `annealed`.
        sharpness: what logits are multiplied by before they are drawn from; infinite takes the
            likeliest.
    """
    steps, length = len(temperatures), shape[1]

    def step(codes, now):
        index, temperature, key = now
        drawn_by, hidden_by = jax.random.split(key)
        given, unknown = logits(codes), codes == HIDDEN
        likely = jnp.argmax(given, -1)
        drawn = likely
        if np.isfinite(sharpness):
            drawn = jax.random.categorical(drawn_by, sharpness * given)
        drawn = jnp.where(unknown, drawn, codes)
        probability = jnp.take_along_axis(jax.nn.softmax(given, -1), drawn[..., None], -1)[..., 0]
        probability = jnp.where(unknown, probability, jnp.finfo(given.dtype).max)
        count = jnp.floor(length * cosine_schedule((index + 1) / steps)).astype(jnp.int32)
        count = jnp.clip(count, 1, jnp.maximum(unknown.sum(1) - 1, 1))
        tiny = jnp.finfo(given.dtype).tiny
        uniform = jax.random.uniform(hidden_by, shape, given.dtype, minval=tiny)
        again = hide_again(probability, uniform, count, temperature) & (index + 1 < steps)
        return jnp.where(again, HIDDEN, drawn), None

    nothing = jnp.full(shape, HIDDEN)
    each = jnp.arange(steps), jnp.asarray(temperatures), jax.random.split(key, steps)
    return lax.scan(step, nothing, each)[0]
