"""The video tokenizer of Cosmos, and its quantiser (files of lumos1)."""

import einops
import jax
import jax.numpy as jnp

from stjax.convert import cosmos_tokenizer as convert
from stjax.ops import quantize
from tests.parity import Case

FIRST, LAST = "b c t h w -> b t h w c", "b t h w c -> b c t h w"


def tokenizer(golden):
    module = convert.module(golden.config)

    def forward(variables, inputs):
        video = einops.rearrange(inputs["video"], FIRST)
        (video, indices), inner = module.apply(variables, video, mutable="intermediates")
        inner = {name: value[0] for name, value in inner["intermediates"].items()}
        official = lambda x: einops.rearrange(x, LAST)
        codes = quantize.finite_scalar_lookup(indices, module.scalars, video.dtype)
        return None, {
            "patched": official(inner["patched"][:1, :2]),
            "encoder": official(inner["encoded"]),
            "pre_quantise": official(inner["scalars"]),
            "indices": indices,
            "codes": official(codes),
            "reconstruction": official(video),
        }

    return Case(forward, convert.rules(golden.config), convert.left_out(golden.config))


def fsq(golden):
    levels = golden.config["levels"]

    def forward(variables, inputs):
        z = einops.rearrange(inputs["z"], FIRST)
        cotangent = einops.rearrange(inputs["cotangent"], FIRST)
        (codes, indices), pull = jax.vjp(lambda z: quantize.finite_scalar(z, levels), z)
        (grad,) = pull((cotangent, jnp.zeros(indices.shape, jax.dtypes.float0)))
        outputs = {
            "bounded": quantize.bounded(z, levels),
            "codes": codes,
            "codes_from_indices": quantize.finite_scalar_lookup(indices, levels, z.dtype),
            "grad_z": grad,
        }
        outputs = {name: einops.rearrange(x, LAST) for name, x in outputs.items()}
        return None, {**outputs, "indices": indices}

    return Case(forward)


DRIVERS = {"Lumos::CausalDiscreteVideoTokenizer": tokenizer, "Lumos::FSQuantizer": fsq}
