"""Lumos-1: its rotary code, MM-RoPE."""

import jax.numpy as jnp
import numpy as np

from stjax.ops.rotary import rotary_angles, rotate, shared_spectrum
from tests.parity import Case

START, SIZES = 8197, 8804  # tokens: the start of a frame, and sizes in patches of 32 pixels
STRIDES = np.array([4, 8, 8])  # pixels to a token, in time, height and width
AXES = [0, 0, 0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2]  # of sixteen channels


def positions(tokens):
    """Text: its index, three times. Frames: pixels, from the index of the first token of any."""
    at = np.repeat(np.arange(len(tokens))[:, None], 3, 1)
    content = np.zeros(len(tokens), int)
    starts = np.flatnonzero(tokens == START)
    for frame, start in enumerate(starts):
        height, width = (tokens[start + 1 : start + 3] - SIZES) * 32 // 8
        cells = np.stack(np.indices((1, height, width + 1)), -1).reshape(-1, 3)  # and line ends
        inside = slice(start + 3, start + 3 + len(cells))
        at[inside] = starts[0] + 3 + STRIDES * (cells + np.array([frame, 0, 0]))
        content[inside] = 1
    return at, content


def mm_rope(golden):
    tokens = golden.inputs["input_ids"][0]
    at, content = positions(tokens)
    width = golden.inputs["query"].shape[-1]
    axes = np.tile(AXES, width // 16)
    base = golden.config["model"]["rope_theta"]
    spectrum = shared_spectrum(axes[: width // 2], base)
    angles = rotary_angles(at, spectrum)

    def forward(variables, inputs):
        query = jnp.swapaxes(inputs["query"], 1, 2)
        of_axes = dict(zip(("position_t", "position_h", "position_w"), at.T[:, None]))
        return None, of_axes | {
            "position_text": np.arange(len(tokens))[None],
            "position_flag": content[None],
            "cos": np.cos(np.tile(angles, 2))[None],
            "sin": np.sin(np.tile(angles, 2))[None],
            "query_rotated": jnp.swapaxes(rotate(query, angles), 1, 2),
            "channel_axis": axes,
            "inverse_frequencies": spectrum.frequencies,
        }

    # Official frequencies are rounded to float32, and then multiplied by positions of up to 89.
    return Case(forward, tolerances=dict.fromkeys(("cos", "sin", "query_rotated"), 1e-5))


DRIVERS = {"Lumos::generate_mm_position_ids": mm_rope}
