"""Video Swin: attention within shifted windows of a clip, and the block around it."""

import jax.numpy as jnp
import numpy as np

from stjax.convert import driving_swin as convert
from stjax.ops import windows
from stjax.ops.attention import Windows
from tests.parity import Case


def official_mask(shape, window, shift):
    """What the official code adds to the logits, window by window of the rolled map."""
    mask = Windows(tuple(shape), tuple(window), tuple(shift))
    place = np.arange(np.prod(shape)).reshape(1, *shape)
    rolled = windows.roll(jnp.asarray(place), [-s for s in shift])
    place = windows.partition(rolled, window)[0]
    return jnp.where(mask.visible(place[:, :, None], place[:, None]), 0.0, -100.0)


def attention(golden):
    config = golden.config
    grid, window, shift = (tuple(config[key]) for key in ("grid", "window_size", "shift"))
    back = [-s for s in shift]

    def forward(variables, inputs):
        x = inputs["x"].reshape(config["batch"], -1, *inputs["x"].shape[1:])
        x = windows.reverse(x, window, grid)
        cut = lambda y: windows.partition(y, window).reshape(inputs["x"].shape)
        plain = convert.attention_module(config, (0, 0, 0)).apply(variables, x)
        shifted = convert.attention_module(config, shift).apply(variables, windows.roll(x, shift))
        outputs = {
            "mask": official_mask(grid, window, shift),
            "relative_position_index": jnp.asarray(windows.relative_index(window)),
            "y_unmasked": cut(plain),
            "y": cut(windows.roll(shifted, back)),
        }
        return (outputs["y"] * inputs["cotangent"]).sum(), outputs

    rules = tuple(convert.attention_rules(config["num_heads"]))
    return Case(forward, rules, convert.LEFT_OUT)


def block(golden):
    config = golden.config

    def forward(variables, inputs):
        shape, window = inputs["x"].shape[1:-1], config["window_size"]
        y = convert.block_module(config).apply(variables, inputs["x"])
        window, shift = windows.fit(shape, window, [w // 2 for w in window])
        padded = [n + -n % w for n, w in zip(shape, window)]
        outputs = {"y": y, "mask": official_mask(padded, window, shift)}
        return (y * inputs["cotangent"]).sum(), outputs

    return Case(forward, tuple(convert.block_rules(config["num_heads"])), convert.LEFT_OUT)


DRIVERS = {
    "Video-Swin-Transformer::WindowAttention3D": attention,
    "Video-Swin-Transformer::SwinTransformerBlock3D": block,
}
