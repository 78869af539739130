"""How far predicted frames lie from the true ones: one number a frame, and means of them.

Metrics take `(..., h, w, c)` predictions and truth, floats in [0, 1] unless said otherwise, and
give `(...)`, one value a frame; means over samples, weighted, come last. So a padded batch and an
error-against-horizon curve are exact. Where a published number is defined differently from the
field's, it has a name of its own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Frames = Float[Array, "*n h w c"]
Values = Float[Array, "*n"]

_PIXELS = (-3, -2, -1)


def mse(pred: Frames, true: Frames) -> Values:
    """Squared error, mean over pixels and channels (OpenSTL's `spatial_norm`, for weather)."""
    return jnp.mean(_error(pred, true) ** 2, _PIXELS)


def mae(pred: Frames, true: Frames) -> Values:
    """Absolute error, mean over pixels and channels (OpenSTL's `spatial_norm`, for weather)."""
    return jnp.mean(jnp.abs(_error(pred, true)), _PIXELS)


def mse_sum(pred: Frames, true: Frames) -> Values:
    """Squared error, summed over pixels and channels: OpenSTL's "MSE" of everything but weather."""
    return jnp.sum(_error(pred, true) ** 2, _PIXELS)


def mae_sum(pred: Frames, true: Frames) -> Values:
    """Absolute error, summed over pixels and channels: OpenSTL's "MAE"."""
    return jnp.sum(jnp.abs(_error(pred, true)), _PIXELS)


def rmse(pred: Frames, true: Frames) -> Values:
    """Root of each frame's mean squared error, to be averaged over frames (WeatherBench).

    OpenSTL's RMSE is another number, the root of the mean over all frames: `root_mean` of `mse`
    for weather, of `mse_sum` elsewhere.
    """
    return jnp.sqrt(mse(pred, true))


def psnr(pred: Frames, true: Frames) -> Values:
    """Peak signal-to-noise ratio in dB, peak 1; `pred` is clipped; infinite for equal frames."""
    return -10 * jnp.log10(mse(*_clipped(pred, true)))


def snr(pred: Frames, true: Frames) -> Values:
    """Signal-to-noise ratio in dB, mean true² over mean squared error; `pred` is clipped."""
    pred, true = _clipped(pred, true)
    return 10 * jnp.log10(jnp.mean(true**2, _PIXELS) / mse(pred, true))


def ssim(pred: Frames, true: Frames) -> Values:
    """Structural similarity (Wang et al. 2004): Gaussian 11x11 window, σ 1.5, data range 1.

    Whole windows only, mean over channels, `pred` clipped. ConvSSM's and TECO's.

    Raises:
        ValueError: frames smaller than the window.
    """
    window = jax.nn.softmax(-0.5 * ((jnp.arange(11) - 5) / 1.5) ** 2)
    return _ssim(pred, true, window, peak=1.0)


def ssim_openstl(pred: Frames, true: Frames) -> Values:
    """OpenSTL's structural similarity: scikit-image's defaults of its time, on floats.

    Uniform 7x7 window, sample covariance, and data range 2, which scikit-image <= 0.19 takes for
    any float image: higher than `ssim`. Whole windows only, mean over channels, `pred` clipped.

    Raises:
        ValueError: frames smaller than the window.
    """
    return _ssim(pred, true, jnp.full(7, 1 / 7), peak=2.0, bessel=49 / 48)


def masked_mse_sum(
    pred: Float[Array, "*n t h w c"], true: Float[Array, "*n t h w c"], mask: Bool[Array, "t h w"]
) -> Float[Array, "*n"]:
    """Squared error where the mask is True, summed over a frame, mean over frames that it touches.

    Where it is whole frames that are generated, this is the mean of `mse_sum` over them.
    """
    error = jnp.where(mask[..., None], _error(pred, true), 0)
    return jnp.sum(error**2, (-4, *_PIXELS)) / jnp.sum(jnp.any(mask, (1, 2)))


METRICS = {f.__name__: f for f in (mse, mae, mse_sum, mae_sum, rmse, psnr, snr, ssim, ssim_openstl)}


def mean(values: Float[Array, "b t"], weight: Float[Array, " b"] | None = None) -> Float[Array, ""]:
    """Mean over frames and samples; a sample of weight 0 leaves no trace, be it infinite."""
    return jnp.mean(over_time(values, weight))


def over_time(
    values: Float[Array, "b t"], weight: Float[Array, " b"] | None = None
) -> Float[Array, " t"]:
    """Error against horizon: mean over samples of each frame. All weights 0 give 0."""
    if weight is None:
        return jnp.mean(values, axis=0)
    weight = weight[:, None]
    total = jnp.sum(weight)
    counted = jnp.sum(jnp.where(weight > 0, values * weight, 0), axis=0)
    return counted / jnp.where(total > 0, total, 1)


def root_mean(
    squares: Float[Array, "b t"], weight: Float[Array, " b"] | None = None
) -> Float[Array, ""]:
    """Root of the mean over frames and samples: OpenSTL's RMSE, from `mse` or `mse_sum`.

    Over several batches take the root last, of the whole mean.
    """
    return jnp.sqrt(mean(squares, weight))


def by_variable(frames: Frames, names: Sequence[str]) -> dict[str, Frames]:
    """Cuts the channels into equal groups, one a variable (levels within a variable adjoin).

    OpenSTL's multi-variable scores are the means of the variables' own, also of their RMSE.

    Raises:
        ValueError: channels that do not divide by the variables.
    """
    channels = frames.shape[-1]
    if channels % len(names):
        raise ValueError(f"{channels} channels do not divide into {len(names)} variables")
    return dict(zip(names, jnp.split(frames, len(names), axis=-1)))


def denormalise(frames: Frames, mean: Float[Array, " c"], std: Float[Array, " c"]) -> Frames:
    """From z-scores back to the data's own units."""
    return frames * std + mean


def _ssim(pred, true, window, *, peak, bessel=1.0):
    """Mean over whole windows of the index; `window` is one side of a separable one, sum 1.

    `bessel` turns the window's covariances into sample covariances.
    """
    pred, true = _clipped(pred, true)
    if min(true.shape[-3:-1]) < len(window):
        raise ValueError(
            f"frames of {true.shape[-3]} x {true.shape[-2]} are smaller than the "
            f"{len(window)} x {len(window)} window of this SSIM"
        )
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_p, mean_t = _blur(pred, window), _blur(true, window)
    squares = mean_p**2 + mean_t**2
    variances = bessel * (_blur(pred**2 + true**2, window) - squares)
    covariance = bessel * (_blur(pred * true, window) - mean_p * mean_t)
    luminance = (2 * mean_p * mean_t + c1) / (squares + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return jnp.mean(luminance * structure, _PIXELS)


def _blur(frames, window):
    """Weighted means of whole windows, as two banded matrices: no convolution of one channel."""

    def band(length):
        offset = jnp.arange(length) - jnp.arange(length - len(window) + 1)[:, None]
        inside = (offset >= 0) & (offset < len(window))
        return jnp.where(inside, window[jnp.clip(offset, 0, len(window) - 1)], 0)

    rows, columns = band(frames.shape[-3]), band(frames.shape[-2])
    # Variances are differences of means: products in half precision would drown them.
    precise = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,...hwc,jw->...ijc", rows, frames, columns, precision=precise)


def _error(pred, true):
    pred, true = _floats(pred, true)
    return pred - true


def _clipped(pred, true):
    pred, true = _floats(pred, true)
    return jnp.clip(pred, 0, 1), true


def _floats(pred, true):
    """Both in float32 at least, alike in shape; uint8 frames would wrap round in a difference."""
    if pred.shape != true.shape:
        raise ValueError(f"predictions {pred.shape} and truth {true.shape} differ in shape")
    for name, frames in (("predictions", pred), ("truth", true)):
        if not jnp.issubdtype(frames.dtype, jnp.floating):
            raise ValueError(f"{name} are {frames.dtype} instead of float in [0, 1]")
    dtype = jnp.promote_types(jnp.result_type(pred, true), jnp.float32)
    return pred.astype(dtype), true.astype(dtype)
