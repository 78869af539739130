"""MAU."""

import einops
import jax.numpy as jnp

from stjax.convert import mau as convert
from tests.parity import Case


def mau(golden):
    config = golden.config
    model, context = convert.module(config), config["pre_seq_length"]
    wanted = [key for key in golden.outputs if key.startswith("cell")]

    def forward(variables, inputs):
        frames = inputs["frames"]
        truth = jnp.pad(inputs["mask"][..., 0, 0, 0], ((0, 0), (context, 0)), constant_values=1)
        (y, _), inner = model.apply(variables, frames[:, :-1], truth=truth, mutable="intermediates")
        inner = inner["intermediates"]["rollout"]["cell"]
        loss = jnp.mean(jnp.square(y - frames[:, 1:]))
        first = lambda maps: jnp.moveaxis(maps, -1, 1)
        outputs = {
            "y": einops.rearrange(y, "b t h w c -> b t c h w"),
            "encoded_0": first(inner["encoded"][0][0]),
            "loss": loss,
        }
        for key in wanted:
            unit, _, rest = key.removeprefix("cell").partition(".")
            state, _, time = rest.partition("_")
            outputs[key] = first(inner[f"states_{unit}"][0]["TS".index(state)][int(time)])
        return loss, outputs

    return Case(forward, convert.rules(config), convert.LEFT_OUT, products=True)


DRIVERS = {"OpenSTL::MAU_Model": mau}
