"""LPIPS (Zhang et al. 2018, arXiv 1801.03924, version 0.1): how far frames lie apart for AlexNet.

Its weights are published and not ours. Once, where the package `lpips` is installed:

    state = lpips.LPIPS(net="alex").state_dict()
    numpy.savez("lpips.npz", **{name: value.numpy() for name, value in state.items()})
"""

import functools
import os
import pathlib
import zipfile
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from stjax.metrics.video import Frames, Values

# The pixels of a side that AlexNet needs.
SIDE = 32
# Each convolution's name, shape, stride and padding, and whether it pools before.
_LAYERS = (
    ("net.slice1.0", (64, 3, 11, 11), 4, 2, False),
    ("net.slice2.3", (192, 64, 5, 5), 1, 2, True),
    ("net.slice3.6", (384, 192, 3, 3), 1, 1, True),
    ("net.slice4.8", (256, 384, 3, 3), 1, 1, False),
    ("net.slice5.10", (256, 256, 3, 3), 1, 1, False),
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

Weights = Mapping[str, Float[np.ndarray, "..."]]


def shapes() -> dict[str, tuple[int, ...]]:
    """What a file of weights holds, by the official names."""
    named = {}
    for k, (name, shape, *_) in enumerate(_LAYERS):
        named |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        named[f"lin{k}.model.1.weight"] = (1, shape[0], 1, 1)
    return named


@functools.cache
def load(path: str | os.PathLike) -> Weights:
    """Reads a `.npz` file of weights.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that lacks an array or holds another.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of LPIPS's weights")
    try:
        with np.load(path) as file:
            held = {name: file[name] for name in shapes() if name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error})") from None
    for name, shape in shapes().items():
        if name not in held or held[name].shape != shape:
            found = held[name].shape if name in held else "nothing"
            raise ValueError(f"{path}: {found} of {name} instead of {shape}")
    return held


def lpips(pred: Frames, true: Frames, weights: Weights) -> Values:
    """The distance of each frame: squared differences of normalised features, weighed and meant.

    Args:
        pred, true: in [0, 1] (`pred` is clipped); 3 channels, or 1 for grey ones.
        weights: as `load` gives them.

    Raises:
        ValueError: frames below 32 pixels, or of other channels.
    """
    if min(true.shape[-3:-1]) < SIDE or true.shape[-1] not in (1, 3):
        raise ValueError(f"true: {true.shape} instead of frames of 1 or 3 channels, {SIDE} pixels")
    flat = lambda x: x.reshape(-1, *x.shape[-3:])
    pairs = zip(_features(flat(jnp.clip(pred, 0, 1)), weights), _features(flat(true), weights))
    total = 0.0
    for k, (ours, theirs) in enumerate(pairs):
        weigh = weights[f"lin{k}.model.1.weight"].reshape(-1)
        total += jnp.mean(jnp.sum((ours - theirs) ** 2 * weigh, -1), (1, 2))
    return total.reshape(true.shape[:-3])


def _features(frames: Float[Array, "n h w c"], weights: Weights):
    """Each layer's output, of length 1 at every place."""
    x = (2 * frames - 1 - np.array(_SHIFT, frames.dtype)) / np.array(_SCALE, frames.dtype)
    for name, _, stride, padding, pools in _LAYERS:
        if pools:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        # Turned here: XLA would take long to turn a constant.
        kernel = np.asarray(weights[f"{name}.weight"], x.dtype).transpose(2, 3, 1, 0)
        x = lax.conv_general_dilated(
            x, np.ascontiguousarray(kernel), (stride, stride), [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST,
        )  # fmt: skip
        x = jax.nn.relu(x + jnp.asarray(weights[f"{name}.bias"], x.dtype))
        yield x / (jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)) + 1e-10)
