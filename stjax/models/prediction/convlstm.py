"""ConvLSTM (Shi et al. 2015) as OpenSTL benchmarks it (Tan et al. 2023, arXiv 2306.11249)."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from stjax.layers import conv_lstm
from stjax.layers.initializers import torch_default
from stjax.ops.conv import conv
from stjax.ops.conv_recurrence import conv_scan
from stjax.ops.patches import patchify, unpatchify
from stjax.ops.precision import promote
from stjax.ops.sequence_parallel import over_frames
from stjax.ops.sharding import at_edge

# One (cell, hidden) a layer, and the last output in patches, which may be the next input.
State = tuple[tuple[conv_lstm.State, ...], Float[Array, "b h w d"]]


class ConvLSTM(nn.Module):
    """A stack of ConvLSTMs over frames folded in patches, read out by a linear map of each pixel.

    Attributes:
        hidden: channels of each layer.
        patch: side of the patches that are folded into channels.
        kernel_size: side of the layers' kernels.
        output: how a layer shows its cell; "candidate" is what OpenSTL v0.3.0 published.
        layer_norm: LayerNorm over channels, height and width after every gate convolution.
    """

    hidden: tuple[int, ...] = (128, 128, 128, 128)
    patch: int = 4
    kernel_size: int = 5
    output: str = "tanh_cell"
    layer_norm: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b t height width c"],
        actions: Array | None = None,
        state: State | None = None,
        *,
        train: bool = False,
        truth: Shaped[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t height width c"], State]:
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
            ValueError: height or width is not divisible by `patch`.
        """
        frames = patchify(video, self.patch)
        layers = [self._layer(i) for i in range(len(self.hidden))]
        readout = self.param(
            "readout_kernel",
            torch_default,
            (1, 1, self.hidden[-1], frames.shape[-1]),
            self.param_dtype,
        )
        run = self._see_every_frame if truth is None else self._see_own_outputs
        patches, state = run(layers, readout, frames, state, truth)
        return unpatchify(patches, self.patch), state

    def _layer(self, index):
        return conv_lstm.ConvLSTM(
            self.hidden[index],
            self.kernel_size,
            output=self.output,
            layer_norm=self.layer_norm,
            kernel_init=torch_default,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"layer_{index}",
        )

    def _see_every_frame(self, layers, readout, frames, state, truth):
        """Layer by layer: all frames' inputs of a layer are known at once."""
        states = [None] * len(layers) if state is None else list(state[0])
        hidden = frames
        for i, layer in enumerate(layers):
            hidden, states[i] = layer(at_edge(hidden), states[i])
        hidden, readout = promote((hidden, readout), self.dtype)
        out = over_frames(lambda frames: conv(frames, readout), hidden)
        return out, (tuple(states), out[:, -1])

    def _see_own_outputs(self, layers, readout, frames, state, truth):
        """Frame by frame: a layer's input may come from the top layer's last output."""
        frame = frames.shape[2:]
        widths = (frame[-1], *self.hidden[:-1])
        weights = [layer.weights((*frame[:2], width)) for layer, width in zip(layers, widths)]
        if state is None:
            first = frames[:, 0]
            state = tuple(layer.start(first) for layer in layers), jnp.zeros_like(first)
        truth = jnp.asarray(truth)[..., None, None, None]
        scanned = jnp.moveaxis(frames, 1, 0), jnp.moveaxis(truth, 1, 0)
        scanned, state, readout, weights = promote((scanned, state, readout, weights), self.dtype)
        kernels = {"readout": readout}
        for i, (kernel, _) in enumerate(weights):
            kernels |= {f"input_{i}": kernel["input"], f"hidden_{i}": kernel["hidden"]}

        def step(convolve, others, carry, scanned):
            states, last = carry
            frame, truth = scanned
            hidden = truth * frame + (1 - truth) * last
            after = []
            for i, (layer, other, (cell, before)) in enumerate(zip(layers, others, states)):
                gates = layer.input_gates(convolve(f"input_{i}", hidden), other)
                cell, hidden = layer.step(convolve(f"hidden_{i}", before), gates, cell, other)
                after.append((cell, hidden))
            out = convolve("readout", hidden)
            return (tuple(after), out), out

        others = [other for _, other in weights]
        state, out = conv_scan(step, kernels, others, state, scanned)
        return jnp.moveaxis(out, 0, 1), state
