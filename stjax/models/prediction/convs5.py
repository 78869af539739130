"""Next-frame prediction with a linear state-space model of maps, and its baselines.

Smith, De Mello, Kautz, Linderman, Byeon: Convolutional State Space Models for Long-Range
Spatiotemporal Modeling, NeurIPS 2023, arXiv 2310.19694, section 4 and the official code.

All these networks are one: an encoder of single frames, actions as further channels, something
that mixes over time, a decoder of single frames. They differ in what a frame is (pixels or the
codes of a VQ-GAN) and in what mixes:

    ConvS5, ConvLSTM   MapSequence(features, sequence_layers(partial(ConvS5, ...), depth))
    S5                 VectorSequence(features, out, sequence_layers(partial(S5, ...), depth))
    transformer        VectorSequence(features, out, partial(CausalTransformer, ...), start=True)
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stjax.layers.actions import ActionEmbedding
from stjax.layers.partitioning import named
from stjax.layers.resnet import ResNetDecoder, ResNetEncoder
from stjax.ops.sequence_parallel import over_frames
from stjax.ops.sharding import at_edge

HIDDEN = -2.0
"""What stands for a frame that the network must not see (the official `frame_mask_id`)."""


class MapSequence(nn.Module):
    """A 1x1 convolution, then a mixer of maps over time.

    Attributes:
        features: channels of the maps that the mixer takes.
        sequence: factory of the mixer, such as `sequence_layers` gives.
    """

    features: int
    sequence: Callable[..., nn.Module]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], state: Any = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t h w features"], Any]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = over_frames(nn.Conv(self.features, (1, 1), **types, name="project"), x)
        return self.sequence(name="sequence")(x, state, train=train)


class VectorSequence(nn.Module):
    """Each frame's map flattened to one vector, a mixer of vectors over time, and maps again.

    Attributes:
        features: channels of the vectors that the mixer takes and gives.
        out: channels of the maps that come out.
        sequence: factory of the mixer.
        start: a learned vector goes before the clip's first; nothing is made of its output.
    """

    features: int
    out: int
    sequence: Callable[..., nn.Module]
    start: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], state: Any = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t h w out"], Any]:
        batch, steps, *size, _ = x.shape
        whole_map = {
            "kernel_size": size,
            "strides": size,
            "padding": "VALID",
            "use_bias": False,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        lecun_normal = nn.initializers.lecun_normal()
        project = nn.Conv(
            self.features,
            kernel_init=named(lecun_normal, None, None, "mlp", "embed"),
            **whole_map,
            name="project",
        )
        x = over_frames(project, x)[:, :, 0, 0]
        if self.start:
            start = self.param(
                "start", nn.initializers.normal(0.02), (self.features,), self.param_dtype
            )
            if state is None:
                first = jnp.broadcast_to(start.astype(x.dtype), (batch, 1, self.features))
                x = jnp.concatenate([first, x], axis=1)
        y, state = self.sequence(name="sequence")(x, state, train=train)
        self.sow("intermediates", "vectors", y)
        y = y[:, y.shape[1] - steps :, None, None]
        unproject = nn.ConvTranspose(
            self.out,
            kernel_init=named(lecun_normal, None, None, "embed", "mlp"),
            **whole_map,
            name="unproject",
        )
        return over_frames(unproject, y), state


class FramePredictor(nn.Module):
    """What pixel and token models share: frames to maps, mixing over time, maps to frames.

    Attributes:
        core: factory of what mixes maps over time, a `MapSequence` or a `VectorSequence`.
        encoder_depths, decoder_depths: channels from the full size down; each further depth
            halves the size.
        encoder_blocks, decoder_blocks: blocks for each depth (`stjax.layers.resnet`).
        groups: groups of their GroupNorms.
        actions: number of actions; a model without them is told action 0 throughout.
        action_features: channels of their embedding.
        action_dropout: rate of samples that are not told their actions, in training.
        remat: recompute encoder and decoder in the backward pass.
    """

    core: Callable[..., nn.Module]
    encoder_depths: tuple[int, ...]
    decoder_depths: tuple[int, ...]
    encoder_blocks: int = 1
    decoder_blocks: int = 1
    groups: int = 32
    actions: int = 1
    action_features: int = 1
    action_dropout: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts = "next"

    def _setup(self, features: int) -> None:
        """Declares the parts; `features` is what the decoder gives for a pixel."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        lift = nn.remat if self.remat else lambda module: module
        self.encoder = lift(ResNetEncoder)(
            tuple(self.encoder_depths), self.encoder_blocks, self.groups, **types
        )
        self.action_embedding = ActionEmbedding(
            self.actions, self.action_features, self.action_dropout, **types
        )
        self.mixing = self.core()
        self.decoder = lift(ResNetDecoder)(
            tuple(self.decoder_depths), features, self.decoder_blocks, self.groups, **types
        )

    def _predict(
        self,
        frames_in: Float[Array, "b t H W c"],
        actions: Int[Array, "b t"] | None,
        state: Any,
        train: bool,
        frames: Int[Array, "n"] | None,
        dropped: Bool[Array, "b"] | None,
        visible: Bool[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b n H W features"], Any]:
        x = over_frames(self.encoder, frames_in)
        self.sow("intermediates", "encoded", x)
        if visible is not None:
            x = jnp.where(visible[:, :, None, None, None], x, HIDDEN)
        if actions is None:
            actions = jnp.zeros(x.shape[:2], jnp.int32)
        told = self.action_embedding(actions, dropped, train=train)[:, :, None, None]
        told = jnp.broadcast_to(told, (*x.shape[:-1], told.shape[-1]))
        x, state = self.mixing(jnp.concatenate([x, told], -1), state, train=train)
        self.sow("intermediates", "mixed", x)
        x = at_edge(x)
        return over_frames(self.decoder, x if frames is None else x[:, frames]), state


class PixelPredictor(FramePredictor):
    """Next frames in [-1, 1].

    Attributes:
        channels: of a frame.
    """

    channels: int = 1

    def setup(self) -> None:
        self._setup(self.channels)

    def __call__(
        self,
        video: Float[Array, "b t h w channels"],
        actions: Int[Array, "b t"] | None = None,
        state: Any = None,
        *,
        train: bool = False,
        frames: Int[Array, "n"] | None = None,
        dropped: Bool[Array, "b"] | None = None,
    ) -> tuple[Float[Array, "b n h w channels"], Any]:
        """The prediction of frame k + 1 for every frame k, and the state after the last.

        Args:
            video: in [-1, 1].
            actions: `actions[:, k]` is taken between frame k and frame k + 1. (The official
                code stores it with frame k + 1.)
            state: of the clip up to here; None where it begins.
            frames: the positions to decode; None is all of them.
            dropped: samples whose actions are not told; None leaves it to `action_dropout`.
        """
        y, state = self._predict(video, actions, state, train, frames, dropped)
        return jnp.tanh(y), state


class TokenPredictor(FramePredictor):
    """Logits of the next frame's codes.

    Attributes:
        codes: size of the VQ-GAN's codebook.
        code_features: channels of a code's embedding.
    """

    codes: int = 1024
    code_features: int = 256

    def setup(self) -> None:
        self.table = nn.Embed(
            self.codes,
            self.code_features,
            embedding_init=named(nn.linear.default_embed_init, "vocab", "embed"),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        self._setup(self.codes)

    def __call__(
        self,
        tokens: Int[Array, "b t h w"],
        actions: Int[Array, "b t"] | None = None,
        state: Any = None,
        *,
        train: bool = False,
        frames: Int[Array, "n"] | None = None,
        dropped: Bool[Array, "b"] | None = None,
        visible: Bool[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b n h w codes"], Any]:
        """As `PixelPredictor`; `visible` names the frames that the network may see.

        The table of embeddings is the VQ-GAN's, and frozen, in the published models.
        """
        y, state = self._predict(
            self.table(tokens), actions, state, train, frames, dropped, visible
        )
        return y, state


def causal_visibility(
    dropped: Bool[Array, "b"], steps: int, context: int
) -> Bool[Array, "b steps"]:
    """Causal masking: samples that are told their actions see only the first `context` frames."""
    return dropped[:, None] | (jnp.arange(steps) < context)
