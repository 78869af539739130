"""What OpenSTL's recurrent predictors have in common (Tan et al. 2023, arXiv 2306.11249)."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from stjax.layers.recurrent_stack import Stack
from stjax.layers.rollout import Rollout
from stjax.ops.patches import patchify, unpatchify


class RecurrentPredictor(nn.Module):
    """Base of stacks of recurrent layers over frames that are folded in patches.

    Attributes:
        hidden: channels of each layer; where a memory passes through all of them, all alike.
        patch: side of the patches that are folded into channels.
        kernel_size: side of the gates' kernels.
        layer_norm: LayerNorm over channels, height and width after every gates' convolution.
    """

    hidden: tuple[int, ...] = (128, 128, 128, 128)
    patch: int = 4
    kernel_size: int = 5
    layer_norm: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"
    zigzag: ClassVar[bool] = True
    """Whether there is a memory that passes through all layers."""

    def layers(self) -> dict[str, Callable[..., nn.Module]]:
        """The stack's layers, see `stjax.layers.recurrent_stack.Stack`."""
        raise NotImplementedError

    def alike(
        self, kind: Callable[..., nn.Module], start: int = 0, stop: int | None = None,
        **options: Any,
    ) -> dict[str, Callable[..., nn.Module]]:
        """Layers of one kind, from `start` to before `stop` of `hidden`."""
        return {
            f"layer_{i}": functools.partial(kind, self.hidden[i], **self.options, **options)
            for i in range(len(self.hidden))[start:stop]
        }

    @property
    def types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def options(self) -> dict[str, Any]:
        """What all layers are told."""
        return {"kernel_size": self.kernel_size, "layer_norm": self.layer_norm, **self.types}

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b t height width c"],
        actions: Array | None = None,
        state: Any = None,
        *,
        train: bool = False,
        truth: Shaped[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t height width c"], Any]:
        """Predicts frame t + 1 from the frames up to t.

        Args:
            video: frames.
            actions: not used.
            state: what an earlier call returned; None at the start of a clip.
            train: makes no difference here.
            truth: where it is 0 or False, the model sees its own last output in the frame's place
                (at the start of a clip, zeros). None: it sees every frame.

        Returns:
            The next frames, and the state after the last.

        Raises:
            ValueError: height or width is not divisible by `patch`; layers that share a memory and
                differ in width.
        """
        if self.zigzag and len(set(self.hidden)) > 1:
            raise ValueError(f"hidden: {self.hidden}; layers of one memory have one width")
        patches, state = self.unroll(patchify(video, self.patch), state, train, truth)
        return unpatchify(patches, self.patch), state

    def unroll(self, frames, state, train, truth):
        return Rollout(self.cell, name="rollout")(frames, state, train=train, truth=truth)

    @property
    def cell(self) -> Callable[..., nn.Module]:
        memory = self.hidden[0] if self.zigzag else 0
        return functools.partial(Stack, self.layers(), memory, **self.types)
