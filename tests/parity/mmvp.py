"""MMVP."""

import jax.numpy as jnp

from stjax.convert import mmvp as convert
from tests.parity import Case

first = lambda frames: jnp.moveaxis(frames, -1, -3)


def model(golden):
    module = convert.module(golden.config)

    def forward(variables, inputs):
        video = jnp.moveaxis(inputs["x"], 2, -1)
        y, inner = module.apply(variables, video, mutable="intermediates")
        inner = inner["intermediates"]
        loss = jnp.mean(jnp.square(first(y) - inputs["target"]))
        return loss, {
            "y": first(y),
            "features_low": first(inner["features_low"][0]),
            "filtered_high": first(inner["filtered_high"][0]),
            "predicted_matrix": inner["predicted_matrix"][0],
            "matrix_high": inner["high_matrices"][0],
            "matrix_low": inner["low_matrices"][0],
            "loss": loss,
        }

    return Case(forward, convert.rules(golden.config), convert.LEFT_OUT)


DRIVERS = {"OpenSTL::MMVP_Model": model}
