"""CrevNet: its reversible encoder, a step of its predictor, its loss, its forecast as published."""

import einops
import jax
import jax.numpy as jnp

from stjax.convert import crevnet as convert
from stjax.layers.rollout import Rollout
from stjax.models.prediction.crevnet import WINDOW, ReversibleEncoder, ReversiblePredictor
from tests.parity import Case


def crevnet(golden):
    config = golden.config
    model = convert.module(config)
    predictor = Rollout(lambda **options: ReversiblePredictor(model.layers, **options))
    encoder = ReversibleEncoder(model.blocks)
    first = lambda maps: jnp.moveaxis(maps, -1, 1)

    def forward(variables, inputs):
        video = einops.rearrange(inputs["x"], "b t c h w -> b t h w c")
        # No gradient is asked of what is computed of the parts.
        fixed = jax.lax.stop_gradient(variables)
        of = lambda name: {kind: tree[name] for kind, tree in fixed.items() if name in tree}
        encode = lambda clip: encoder.apply(of("encoder"), clip)
        decode = lambda halves: encoder.apply(of("encoder"), halves, method="inverse")

        def predict(halves, state=None):
            codes = jnp.concatenate(halves, -1)[:, None]
            codes, state = predictor.apply(of("predictor"), codes, state)
            return tuple(jnp.split(codes[:, 0], 2, -1)), state

        def step(carry, known):
            """What is known of a window's first frames takes the place of what was predicted."""
            window, state = carry
            halves, state = predict(encode(window), state)
            clip, given = known
            window = jnp.where(given[:, None, None, None], clip, decode(halves))
            return (window, state), window[:, -1, ..., :1]

        sown = ["intermediates", "losses"]
        (frames, _), left = model.apply(variables, video[:, :-1], mutable=sown)
        steps = frames.shape[1] - WINDOW + 1
        error = jnp.square(frames - video[:, 1:])[:, -steps:].mean((0, 2, 3, 4)).sum()
        known = left["losses"]["known_frames"][0] * frames.shape[1]
        inner = left["intermediates"]
        inner = jax.lax.stop_gradient(inner)
        codes, predicted = (inner[name][0][:, 0] for name in ("codes", "predicted_codes"))
        halves, width = jnp.split(codes, 2, -1), codes.shape[-1] // 2
        memory, hidden = (array[0] for array in inner["predictor"]["cell"]["first"][0])
        start = config["pre_seq_length"] - 1
        given = jnp.arange(WINDOW) + 1 < WINDOW - jnp.arange(config["aft_seq_length"])[:, None]
        clips = jnp.stack([video[:, start + k :][:, 1 : 1 + WINDOW] for k in range(len(given))])
        first_window = video[:, start : start + WINDOW]
        state = jax.eval_shape(predict, jnp.split(codes, 2, -1))[1]
        state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        _, forecast = jax.lax.scan(step, (first_window, state), (clips, given))
        outputs = {
            "y": einops.rearrange(forecast, "t b h w c -> b t c h w"),
            "z1_0": first(halves[0]),
            "z2_0": first(halves[1]),
            "reconstructed_0": first(decode(halves)),
            "predicted_z1_0": first(predicted[..., :width]),
            "memo_0": first(memory),
            "cell0.h_0": first(hidden),
            "loss": (error + known) / WINDOW,
        }
        return outputs["loss"], outputs

    return Case(forward, convert.rules(config), convert.LEFT_OUT, products=True)


DRIVERS = {"OpenSTL::CrevNet_Model": crevnet}
