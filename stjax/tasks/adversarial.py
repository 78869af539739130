"""Losses of generators and critics. A critic gives a map of scores for every sample."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import nn as jnn
from jaxtyping import Array, Float

Maps = Float[Array, "b *map 1"]
Scalar = Float[Array, ""]


def wasserstein_critic(real: Maps, fake: Maps) -> Scalar:
    """What a critic minimises, beside a gradient penalty (Arjovsky et al. 2017, 1701.07875)."""
    return fake.mean() - real.mean()


def wasserstein_generator(fake: Maps) -> Scalar:
    return -fake.mean()


def least_squares_critic(real: Maps, fake: Maps) -> Scalar:
    """Of sigmoid scores (Mao et al. 2017, 1611.04076; so in Liu et al. 2018, 1712.09867)."""
    real, fake = jnn.sigmoid(real), jnn.sigmoid(fake)
    return jnp.square(real - 1).mean() / 2 + jnp.square(fake).mean() / 2


def least_squares_generator(fake: Maps) -> Scalar:
    return jnp.square(jnn.sigmoid(fake) - 1).mean() / 2


# Name -> what critics minimise, what generators do.
FORMS = {
    "wgan_gp": (wasserstein_critic, wasserstein_generator),
    "least_squares": (least_squares_critic, least_squares_generator),
}


def gradient_penalty(
    critic: Callable[[Float[Array, "b ..."]], Maps], x: Float[Array, "b ..."]
) -> Scalar:
    """Mean over samples of (|gradient| - 1)^2 (Gulrajani et al. 2017, 1704.00028, section 4).

    The gradient is that of a sample's mean score with respect to all that the critic sees of it.
    Where it is zero, that of its norm is taken as zero.
    """
    score = lambda x: (critic(x).reshape(len(x), -1).mean(1)).sum()
    square = jnp.square(jax.grad(score)(x)).reshape(len(x), -1).sum(1)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return jnp.square(norm - 1).mean()


def gradient_difference(
    predicted: Float[Array, "*n h w c"], true: Float[Array, "*n h w c"]
) -> Scalar:
    """Mean of ||dx predicted| - |dx true|| + ||dy predicted| - |dy true|| (Mathieu et al. 2016).

    As in the code of Liu et al. 2018 (1712.09867): dx v = v[x + 1] - v[x], dy v = v[y] - v[y + 1],
    where beyond the last row or column there are zeros.
    """

    def steps(frames, axis):
        before = jnp.moveaxis(frames, axis, 0)
        after = jnp.concatenate([before[1:], jnp.zeros_like(before[:1])])
        return _abs(after - before)

    return sum(_abs(steps(predicted, axis) - steps(true, axis)).mean() for axis in (-2, -3))


def _abs(x):
    """|x| with a slope of zero at zero, where flat pictures often lie; that of `jnp.abs` is one."""
    return x * jnp.sign(x)
