"""Deformable attention in three dimensions, and the sampling beneath it."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from stjax.convert import deformable3d as convert
from stjax.ops.rotary import grid_positions
from stjax.ops.sample import sample
from tests.parity import Case


def sampler(golden):
    def loss(volume, points):
        out = sample(einops.rearrange(volume, "n c t h w -> n t h w c"), points)
        return jnp.sum(jnp.square(out)) / 2, out

    def forward(variables, inputs):
        gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (scalar, out), (by_volume, by_points) = gradient(inputs["volume"], inputs["points"])
        out = einops.rearrange(out, "n m c -> n c m")
        return None, {
            "out": out,
            "loss": scalar,
            "grad_volume": by_volume,
            "grad_points": by_points,
        }

    return Case(forward)


def detr(golden):
    module = convert.detr_module(golden.config)

    def forward(variables, inputs):
        query = inputs["query"]
        batch, _, *shape = query.shape
        flat = einops.rearrange(query + inputs["query_pos"], "b c t h w -> b (t h w) c")
        places = (grid_positions(shape) + 0.5) / jnp.asarray(shape)
        places = jnp.broadcast_to(places, (batch, *places.shape))
        out = module.apply(variables, flat, places, levels(golden, inputs["key"]))
        t, h, w = shape
        return None, {"out": einops.rearrange(out, "b (t h w) c -> b c t h w", t=t, h=h, w=w)}

    # The official code makes the places of the queries in float32.
    return Case(forward, tuple(convert.detr_rules(golden.config)))


def levels(golden, key):
    """One volume, channels second; or several, flattened and one after the other."""
    if key.ndim == 5:
        return [einops.rearrange(key, "b c t h w -> b t h w c")]
    shapes = golden.inputs["shapes"].tolist()
    ends = [sum(t * h * w for t, h, w in shapes[:k]) for k in range(1, len(shapes))]
    volumes = jnp.split(key, ends, axis=1)
    return [x.reshape(len(x), *shape, x.shape[-1]) for x, shape in zip(volumes, shapes)]


class Searched(nn.Module):
    """The norm before the attention, and the residual around both."""

    attention: nn.Module

    @nn.compact
    def __call__(self, video, tokens):
        norm = nn.LayerNorm(1e-6, name="norm")
        moved, further = self.attention(norm(video), norm(tokens))
        return video + moved, tokens + further


def search(golden):
    attention = convert.search_module(golden.config)

    def forward(variables, inputs):
        arguments = inputs["Z"], inputs["c"]
        (out, tokens), inner = Searched(attention).apply(
            variables, *arguments, mutable="intermediates"
        )
        full, _ = Searched(attention.clone(search=False)).apply(variables, *arguments)
        inner = inner["intermediates"]["attention"]
        points = einops.rearrange(inner["points"][0], "b m g a -> b g m a")
        return None, {
            "out": out,
            "tokens": tokens,
            "points": points,
            "sampled": inner["sampled"][0],
            "full": full,
        }

    return Case(forward, tuple(convert.search_rules(golden.config)))


DRIVERS = {
    "deformable3d::sampler": sampler,
    "deformable3d::search": search,
    "3D-Deformable-Attention::DeformableAttention3D": detr,
}
