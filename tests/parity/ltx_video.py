"""LTX-Video: its rotary code."""

import jax.numpy as jnp
import numpy as np

from stjax.ops.rotary import fractional_spectrum, grid_positions, rotary_angles, rotate
from tests.parity import Case


def coordinates(case):
    """Seconds, and pixels, of all cells of the latent grid: (n, 3)."""
    at = grid_positions(case["grid"]) * (8, 32, 32)
    if case["causal_fix"]:
        at[:, 0] = np.maximum(at[:, 0] - 7, 0)
    return at / (case["fps"], 1, 1)


def rope(golden):
    def forward(variables, inputs):
        outputs = {}
        for k, case in enumerate(golden.config["cases"]):
            at = coordinates(case)
            width = case["num_attention_heads"] * case["attention_head_dim"]
            spectrum = fractional_spectrum(width, 3, case["positional_embedding_theta"])
            fractions = 2 * at / case["positional_embedding_max_pos"] - 1
            angles = rotary_angles(fractions, spectrum)
            cos, sin = np.repeat(np.cos(angles), 2, -1), np.repeat(np.sin(angles), 2, -1)
            rotated = rotate(inputs[f"q_{k}"][:, None], angles, interleaved=True)[:, 0]
            outputs |= {
                f"coords_{k}": jnp.asarray(at.T),
                f"cos_{k}": cos,
                f"sin_{k}": sin,
                f"cos64_{k}": cos,
                f"sin64_{k}": sin,
                f"rotated_{k}": rotated,
            }
        return None, outputs

    # The official table is computed in float32: angles of up to 10^4 pi / 2, rounded.
    inexact = [f"{name}_{k}" for name in ("cos", "sin", "rotated") for k in (0, 1)]
    return Case(forward, tolerances=dict.fromkeys(inexact, 3e-3))


DRIVERS = {"LTX-Video::precompute_freqs_cis": rope}
