"""ChangeMamba: the selective scan, its four directions over a map, and SS2D."""

import jax
import jax.numpy as jnp
from einops import rearrange

from stjax.convert import changemamba as convert
from stjax.ops.cross_scan import cross_merge, cross_scan
from stjax.ops.selective_scan import selective_scan
from tests.parity import Case


def scan(golden):
    def forward(variables, inputs):
        step = rearrange(inputs["delta"], "b d l -> b l d") + inputs["delta_bias"]
        shared = lambda array: rearrange(array, "b k n l -> b l k n")
        y, last = selective_scan(
            rearrange(inputs["u"], "b d l -> b l d"),
            jax.nn.softplus(step),
            jnp.asarray(inputs["A"]),
            shared(inputs["B"]),
            shared(inputs["C"]),
            inputs["D"],
        )
        y = rearrange(y, "b l d -> b d l")
        return jnp.sum(y * inputs["cotangent"]), {"y": y, "last_state": last}

    return Case(forward)


def directions(golden):
    sides = golden.config["H"], golden.config["W"]

    def forward(variables, inputs):
        sequences = cross_scan(rearrange(inputs["x"], "b c h w -> b h w c"))
        merge = lambda y: rearrange(cross_merge(y, *sides), "b h w c -> b c (h w)")
        return None, {
            "xs": rearrange(sequences, "b l k c -> b k c l"),
            "y": merge(rearrange(inputs["ys"], "b k c h w -> b (h w) k c")),
            "z": merge(sequences),
        }

    return Case(forward)


def ss2d(golden):
    module = convert.ss2d_module(golden.config)

    def forward(variables, inputs):
        y, inner = module.apply(variables, inputs["x"], mutable="intermediates")
        convolved, merged = (inner["intermediates"][name][0] for name in ("convolved", "merged"))
        return jnp.sum(y * inputs["cotangent"]), {
            "y": y,
            "conv": rearrange(convolved[:1], "b h w d -> b d h w"),
            "merged": rearrange(merged[:1], "b h w d -> b (h w) d"),
        }

    return Case(forward, convert.ss2d_rules())


DRIVERS = {
    "MambaCD::selective_scan_ref": scan,
    "MambaCD::CrossScan": directions,
    "MambaCD::SS2D": ss2d,
}
