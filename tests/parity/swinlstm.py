"""SwinLSTM, both variants."""

import jax.numpy as jnp

from stjax.convert import swinlstm as convert
from tests.parity import Case


def swinlstm(golden):
    config = golden.config
    model, (context, *_) = convert.module(config), config["in_shape"]

    def forward(variables, inputs):
        frames = inputs["frames"]
        steps = frames.shape[1] - 1
        # The last true frame is that before the first prediction.
        truth = jnp.broadcast_to(jnp.arange(steps) < context, (len(frames), steps))
        (y, _), inner = model.apply(variables, frames[:, :-1], truth=truth, mutable="intermediates")
        inner = inner["intermediates"]["rollout"]["cell"]
        loss = jnp.mean(jnp.square(y - frames[:, 1:]))
        tokens = lambda maps: maps.reshape(len(frames), -1, maps.shape[-1])
        at = lambda tree, time: tokens(tree[0][time])
        outputs = {"y": y, "loss": loss, "patch_embed_0": at(inner["patches_out"], 0)}
        if len(model.depths) == 1:
            cell = inner["cell_0"]
            outputs |= {
                "H_0": at(cell["hidden"], 0),
                "H_3": at(cell["hidden"], 3),
                "stb0_1": at(cell["out_0"], 1),
                "stb1_1": at(cell["out_1"], 1),
            }
        else:
            half = len(model.depths) // 2
            outputs |= {
                "down0.x_0": at(inner["cell_0"]["hidden"], 0),
                "merge0_0": at(inner["resized_0"], 0),
                "up0.x_0": at(inner[f"cell_{half}"]["hidden"], 0),
                "expand0_0": at(inner[f"resized_{half}"], 0),
            }
        return loss, outputs

    return Case(forward, convert.rules(config), convert.left_out(config), products=True)


DRIVERS = {
    "OpenSTL::SwinLSTM_B_Model": swinlstm,
    "OpenSTL::SwinLSTM_D_Model": swinlstm,
}
