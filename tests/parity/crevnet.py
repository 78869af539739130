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
        of = lambda name: {kind: tree[name] for kind, tree in variables.items() if name in tree}
        encode = lambda clip: encoder.apply(of("encoder"), clip)
        decode = lambda halves: encoder.apply(of("encoder"), halves, method="inverse")

        def predict(halves, state=None):
            codes = jnp.concatenate(halves, -1)[:, None]
            codes, state = predictor.apply(of("predictor"), codes, state)
            return tuple(jnp.split(codes[:, 0], 2, -1)), state

        def forecast():
            """From the last window; what a window holds after it is predicted as a whole."""
            context, horizon = config["pre_seq_length"] + WINDOW - 1, config["aft_seq_length"]
            state, window = None, video[:, context - WINDOW : context]
            for k in range(1, horizon + 1):
                halves, state = predict(encode(window), state)
                window = decode(halves)
                known = max(WINDOW - 1 - k, -1) + 1
                true = video[:, context + k - WINDOW :][:, :known]
                window = jnp.concatenate([true, window[:, known:]], 1)
                yield window[:, -1, ..., :1]

        halves = encode(video[:, :WINDOW])
        predicted, ((states, memory), _) = predict(halves)
        (frames, _), left = model.apply(variables, video[:, :-1], mutable="losses")
        steps = frames.shape[1] - WINDOW + 1
        error = jnp.square(frames - video[:, 1:])[:, -steps:].mean((0, 2, 3, 4)).sum()
        known = left["losses"]["known_frames"][0] * frames.shape[1]
        outputs = {
            "y": einops.rearrange(jnp.stack(list(forecast()), 1), "b t h w c -> b t c h w"),
            "z1_0": first(halves[0]),
            "z2_0": first(halves[1]),
            "reconstructed_0": first(decode(halves)),
            "predicted_z1_0": first(predicted[0]),
            "memo_0": first(memory),
            "cell0.h_0": first(states[0][0]),
            "loss": (error + known) / WINDOW,
        }
        return outputs["loss"], outputs

    return Case(forward, convert.rules(config), convert.LEFT_OUT, products=True)


DRIVERS = {"OpenSTL::CrevNet_Model": crevnet}
