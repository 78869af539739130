"""PhyDNet, its moment loss and its published objective."""

import einops
import jax.numpy as jnp

from stjax.convert import phydnet as convert
from stjax.models.prediction.phydnet import moments
from tests.parity import Case


def phydnet(golden):
    config = golden.config
    model, context = convert.module(config), config["pre_seq_length"]

    def forward(variables, inputs):
        channels_last = "b t c h w -> b t h w c"
        x, target = (einops.rearrange(inputs[name], channels_last) for name in ("x", "target"))
        video = jnp.concatenate([x, target], 1)
        steps = video.shape[1] - 1

        def train(forced):
            truth = jnp.broadcast_to((jnp.arange(steps) < context) | forced, (len(video), steps))
            (frames, _), left = model.apply(
                variables, video[:, :-1], train=True, truth=truth,
                mutable=["intermediates", "losses"],
            )
            # The published loss sums over frames; each weighs all of its pixels alike.
            moment_loss = steps * left["losses"]["moments"][0]
            loss = steps * jnp.mean(jnp.square(frames - video[:, 1:])) + moment_loss
            return frames, loss, moment_loss, left["intermediates"]["rollout"]["cell"]

        frames, loss, moment_loss, inner = train(False)
        physical, residual = inner["branches"][0]
        kernel = variables["params"]["rollout"]["cell"]["physical"]["derivatives"]["kernel"]
        first = lambda maps: jnp.moveaxis(maps, -1, 1)
        outputs = {
            "y": einops.rearrange(frames[:, context - 1 :], "b t h w c -> b t c h w"),
            "encoded_0": first(inner["encoded"][0][0]),
            "phycell_0": first(physical[0]),
            "convcell_0": first(residual[0]),
            "phycell_4": first(physical[4]),
            "moments_0": einops.rearrange(moments(kernel)[:, :, 0], "p q o -> o p q"),
            "moment_loss": moment_loss,
            "loss": loss,
            "loss_teacher": train(True)[1],
            "objective": jnp.mean(jnp.square(loss - target)),
        }
        return loss, outputs

    return Case(forward, convert.rules(config), convert.LEFT_OUT, products=True)


DRIVERS = {"OpenSTL::PhyDNet_Model": phydnet}
