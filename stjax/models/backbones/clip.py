"""CLIP (Radford et al. 2021, arXiv 2103.00020): a transformer of images and one of texts."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.layers.transformer import PreNormBlock
from stjax.ops.activations import quick_gelu
from stjax.ops.attention import Causal, Full
from stjax.ops.patches import patchify

# Of the pixels that published weights were trained on, by colour, after division by 255.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

normal, fan_in = nn.initializers.normal, nn.initializers.lecun_normal()


# The fields of CLIP's blocks.
BLOCK = {
    "activation": quick_gelu, "fused": False, "epsilon": 1e-5, "kernel_init": fan_in,
}  # fmt: skip


class _Tower(nn.Module):
    """What both transformers are made of.

    Attributes:
        width: channels.
        remat: compute the blocks' inner values again in the backward pass.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    epsilon: float = 1e-5
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def _dtypes(self):
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _norm(self, name):
        return nn.LayerNorm(self.epsilon, name=name, **self._dtypes)

    def _blocks(self, x, mask, key_mask, train):
        blocks = repeat(PreNormBlock, self.depth, self.remat, shared=1, convolves=False)
        options = {**BLOCK, "mask": mask, "epsilon": self.epsilon, **self._dtypes}
        stack = blocks(self.heads, self.hidden, name="blocks", **options)
        return stack(x, None, key_mask, train)[0]


class ClipVision(_Tower):
    """Images, as squares of pixels, to a token each and one for the whole, which comes first.

    Attributes:
        size, patch: sides of an image and of a square, in pixels.
    """

    size: int = 224
    patch: int = 14

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b n width"], Float[Array, "b width"]]:
        """
        Returns:
            The tokens after the last block, as others stand on them; and the first one, normalised.

        Raises:
            ValueError: images of another size, or a size that the patch does not divide.
        """
        if images.shape[1:3] != (self.size, self.size):
            raise ValueError(f"images: {images.shape} instead of (b, {self.size}, {self.size}, c)")
        patches = patchify(images, self.patch)
        embed = nn.Dense(
            self.width, use_bias=False, kernel_init=named(fan_in, None, "embed"),
            name="patches", **self._dtypes,
        )
        x = embed(patches.reshape(len(images), -1, patches.shape[-1]))
        init = named(normal(self.width**-0.5), "embed")
        first = self.param("class_token", init, (self.width,), self.param_dtype)
        first = jnp.broadcast_to(first.astype(x.dtype), (len(x), 1, self.width))
        x = jnp.concatenate([first, x], 1)
        init = named(normal(0.02), None, "embed")
        x = x + self.param("positions", init, x.shape[1:], self.param_dtype).astype(x.dtype)
        x = self._blocks(self._norm("first_norm")(x), Full(), None, train)
        return x, self._norm("last_norm")(x[:, 0])


class ClipText(_Tower):
    """Texts to tokens that see those before them.

    Attributes:
        vocabulary, context: number of tokens there are, and the most there are of a text.
    """

    vocabulary: int = 49_408
    context: int = 77

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b n"],
        key_mask: Bool[Array, "b n"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b n width"]:
        """
        Raises:
            ValueError: more tokens than the context holds.
        """
        if ids.shape[1] > self.context:
            raise ValueError(f"ids: {ids.shape}, {self.context} tokens at most")
        embed = nn.Embed(
            self.vocabulary, self.width, embedding_init=named(normal(0.02), "vocab", "embed"),
            name="embedding", **self._dtypes,
        )
        x = embed(ids)
        shape = (self.context, self.width)
        init = named(normal(0.01), None, "embed")
        positions = self.param("positions", init, shape, self.param_dtype)
        x = x + positions[: ids.shape[1]].astype(x.dtype)
        return self._norm("last_norm")(self._blocks(x, Causal(), key_mask, train))


class Clip(nn.Module):
    """Similarity of images and texts: cosines of their projections, times a learned factor.

    Attributes:
        features: width of the space in which both are compared.
        end_token: the last one of a text, whose state stands for it.
    """

    vision: ClipVision
    text: ClipText
    features: int
    end_token: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        ids: Int[Array, "t n"],
        key_mask: Bool[Array, "t n"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b t"]:
        project = lambda name, x: nn.Dense(
            self.features, use_bias=False, kernel_init=fan_in, name=name,
            dtype=self.dtype, param_dtype=self.param_dtype,
        )(x)
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        _, image = self.vision(images, train=train)
        tokens = self.text(ids, key_mask, train=train)
        last = jnp.argmax(ids == self.end_token, axis=1)
        text = jnp.take_along_axis(tokens, last[:, None, None], 1)[:, 0]
        image = unit(project("image_projection", image))
        text = unit(project("text_projection", text))
        self.sow("intermediates", "image_embedding", image)
        self.sow("intermediates", "text_embedding", text)
        init = nn.initializers.constant(math.log(1 / 0.07))
        scale = self.param("log_scale", init, (), self.param_dtype)
        return jnp.exp(scale) * image @ text.T
