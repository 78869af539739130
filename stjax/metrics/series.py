"""How far forecasts of series lie from the truth, where there is a truth.

An error is a number for every value; `masked_mean` brings them together, over the values that were
observed alone. A root comes last: RMSE is the root of the masked mean of "mse" over a whole set.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

Values = Float[Array, "*n"]

# Values of smaller magnitude are zeros, as in LibCity.
ZERO = 1e-4


def mae(pred: Values, true: Values) -> Values:
    """|e|."""
    return jnp.abs(pred - true)


def mse(pred: Values, true: Values) -> Values:
    """e^2; the root of its mean is the RMSE."""
    return jnp.square(pred - true)


def mape(pred: Values, true: Values) -> Values:
    """|e| / |truth|, a share and not a percentage; 0 where the truth is 0, to be masked.

    STTN's own code divides first and masks after, so that one zero makes its MAPE NaN.
    """
    zero = jnp.abs(true) < ZERO
    return jnp.where(zero, 0, jnp.abs(pred - true) / jnp.where(zero, 1, jnp.abs(true)))


def huber(pred: Values, true: Values) -> Values:
    """e^2 / 2 up to |e| = 1, then |e| - 1/2."""
    return optax.losses.huber_loss(pred, true)


def quantile(pred: Values, true: Values, level: float = 0.25) -> Values:
    """level (truth - pred) where the truth is above, (1 - level) (pred - truth) where below."""
    error = true - pred
    return jnp.where(error >= 0, level * error, (level - 1) * error)


ERRORS = {f.__name__: f for f in (mae, mse, mape, huber, quantile)}


def observed(
    true: Values, null: float | None = None, least: float | None = None
) -> Bool[Array, "*n"]:
    """Which values are a truth: finite, not `null`, and not below `least`.

    `null` is the code of a missing value, within 1e-4.
    """
    known = jnp.isfinite(true)
    if null is not None:
        known &= jnp.abs(true - null) >= ZERO
    if least is not None:
        known &= true >= least
    return known


def masked_mean(
    values: Float[Array, "..."], known: Bool[Array, "..."], axes: Sequence[int] | None = None
) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """Mean of the values that are known, 0 where none is, and how many are known."""
    count = jnp.sum(known, axes)
    return jnp.sum(jnp.where(known, values, 0), axes) / jnp.maximum(count, 1), count


def masked_error(
    name: str,
    pred: Values,
    true: Values,
    known: Bool[Array, "*n"],
    axes: Sequence[int] | None = None,
) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """The masked mean of the error of that name, a key of `ERRORS`, and of how many it is the mean.

    What is not known may be NaN and reaches neither value nor gradient. MAPE leaves out zeros too.
    """
    if name == "mape":
        known = known & (jnp.abs(true) >= ZERO)
    return masked_mean(ERRORS[name](pred, jnp.where(known, true, 0)), known, axes)


def last_observed(values: Float[Array, "b t ..."]) -> Float[Array, "b ..."]:
    """The last finite value along time; NaN where there is none."""
    steps = jnp.arange(values.shape[1]).reshape(1, -1, *[1] * (values.ndim - 2))
    last = jnp.max(jnp.where(jnp.isfinite(values), steps, 0), axis=1, keepdims=True)
    return jnp.take_along_axis(values, last, axis=1)[:, 0]
