"""The generator of moving digits, from the draws that a golden file gives."""

import jax
import numpy as np

from stjax.data import moving_digits
from tests.parity import Case


def moving_mnist(golden):
    config = golden.config

    def forward(variables, inputs):
        # numpy by design, and a golden case is traced: the inputs come from the file.
        draws, index, digits = (golden.inputs[key] for key in ("draws", "index", "digits"))
        size, side = config["image_size"], digits.shape[-1]
        corners = moving_digits.trajectories(
            draws, config["n_frames"], size - side, moving_digits.STEPS["openstl"]
        )
        video = moving_digits.draw(digits[index], corners, size)[:, None] / np.float32(255)
        cut = config["n_frames_input"]
        outputs = {
            "start_y": corners[..., 0],
            "start_x": corners[..., 1],
            "input": video[:cut],
            "output": video[cut:],
        }
        return None, jax.tree.map(jax.numpy.asarray, outputs)

    return Case(forward)


DRIVERS = {"OpenSTL::MovingMNIST": moving_mnist}
