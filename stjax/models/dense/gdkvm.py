"""GDKVM (Wang et al. 2025, arXiv 2512.10252): echocardiography video segmentation.

Frame by frame, a key of every pixel and a value of what is known of the object there are written
into a matrix memory, which erases what it holds under a key and decays. What the memory says of the
frame's keys is fused with the frame and with a recurrent map ("sensory" memory), refined by Cutie's
object transformer, and decoded to a mask, which the next frame's value is made of. The published
code is wangrui2025/GDKVM@545eed3.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stjax.layers.convolution import torch_conv
from stjax.layers.initializers import step_bias, torch_default
from stjax.layers.object_transformer import ObjectSummarizer, ObjectTransformer
from stjax.layers.resnet import ResNet
from stjax.layers.squeeze_excite import CAResBlock
from stjax.ops.activations import gelu
from stjax.ops.delta_rule import delta_step
from stjax.ops.loops import trips_at_once
from stjax.ops.objects import aggregate, area_mean, others
from stjax.ops.sharding import at_edge

Frame = Float[Array, "b H W c"]
Masks = Float[Array, "b H W n"]
Map = Float[Array, "b h w c"]
ObjectMaps = Float[Array, "b n h w c"]
State = Float[Array, "b n k v"]

MEMORIES = ("gated_delta", "delta", "additive", "none")
_STRIDE = 16  # of the coarsest maps, on which the memory works

resnet18 = functools.partial(ResNet, (2, 2, 2))
resnet50 = functools.partial(ResNet, (3, 4, 6), bottleneck=True)


class KeyPixelFeatureFusion(nn.Module):
    """KPFF: keys that know their frame. g k' + (1 - g) p', where k' is the key and its mean over
    the frame, p' a map of the pixel features, and g = sigmoid(a map of k') a number a pixel.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, key: Float[Array, "... h w k"], pixels: Float[Array, "... h w c"]):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = nn.relu(torch_conv(pixels, pixels.shape[-1], "pixels_in", after="mlp", **types))
        pixels = torch_conv(hidden, key.shape[-1], "pixels_out", 3, before="mlp", **types)
        key = key + key.mean((-3, -2), keepdims=True)
        gate = torch_conv(key, 1, "gate", **types)
        self.sow("intermediates", "pixels", pixels)
        self.sow("intermediates", "gate_logits", gate)
        gate = nn.sigmoid(gate)
        return gate * key + (1 - gate) * pixels


class GatedDeltaRule(nn.Module):
    """GDR: writes a frame's pixels into the memory, with gates that are read from the memory.

    S' = alpha (S - beta K^T K S) + beta K^T V, K and V the keys and values of all pixels
    (`stjax.ops.delta_rule.delta_step`), and S' = K^T V in the first frame. beta = sigmoid(W_b S)
    and log alpha = -exp(a) softplus(W_a S + d) have one value for each row of S and each head of
    v / heads columns. The memory is kept in float32 at least.

    Attributes:
        heads: they share the memory's columns equally.
        memory: "gated_delta", or for comparison: "delta", which does not decay, "additive", which
            does not erase either, "none", which holds one frame.
        gate: "paper", or "code" as published, which takes log alpha for alpha itself: what is kept
            changes its sign with every frame, and may grow without bound.
    """

    heads: int = 8
    memory: Literal["gated_delta", "delta", "additive", "none"] = "gated_delta"
    gate: Literal["paper", "code"] = "paper"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        state: State,
        keys: Float[Array, "b 1 p k"],
        values: Float[Array, "b n p v"],
        started: Bool[Array, ""],
    ) -> State:
        """`started` is False in the first frame, whose state is zero."""
        if self.memory not in MEMORIES:
            raise ValueError(f"memory: {self.memory!r} is none of {MEMORIES}")
        if self.gate not in ("paper", "code"):
            raise ValueError(f"gate: {self.gate!r} is neither 'paper' nor 'code'")
        if state.shape[-1] % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {state.shape[-1]} columns")
        keys, values = keys.astype(state.dtype), values.astype(state.dtype)
        if self.memory == "none":
            return keys.mT @ values
        if self.memory == "additive":
            return state + keys.mT @ values
        project = functools.partial(
            nn.Dense, self.heads, use_bias=False, kernel_init=torch_default, dtype=state.dtype,
            param_dtype=self.param_dtype,
        )
        spread = lambda gate: jnp.repeat(gate, state.shape[-1] // self.heads, -1)
        beta = jnp.where(started, nn.sigmoid(project(name="beta")(state)), 1)
        if self.memory == "delta":
            return delta_step(state, keys, values, spread(beta))
        per_head = lambda name, init: self.param(
            name, init, (self.heads,), self.param_dtype
        ).astype(state.dtype)
        step = nn.softplus(project(name="alpha")(state) + per_head("step_bias", step_bias))
        alpha = -jnp.exp(per_head("log_rate", _log_rate)) * step
        alpha = jnp.exp(alpha) if self.gate == "paper" else alpha
        return delta_step(state, keys, values, spread(beta), spread(alpha))


class FeatureFuser(nn.Module):
    """Each object's map and the frame's, added and refined."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Map, objects: ObjectMaps) -> ObjectMaps:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = torch_conv(objects, self.features, "objects", **types)
        x = x + torch_conv(pixels, self.features, "pixels", **types)[:, None]
        return CAResBlock(**types, name="block_1")(CAResBlock(**types, name="block_0")(x))


class SensoryUpdate(nn.Module):
    """A gated step of a recurrent map: f h (1 - u) + u n, gates and candidate of what is seen."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, seen: ObjectMaps, hidden: ObjectMaps) -> ObjectMaps:
        both = jnp.concatenate([seen, hidden], -1)
        gates = torch_conv(
            both, 3 * hidden.shape[-1], "gates", 3, after="mlp",
            kernel_init=nn.initializers.xavier_normal(),
            dtype=self.dtype, param_dtype=self.param_dtype,
        )
        forget, update, new = jnp.split(gates, 3, -1)
        update = nn.sigmoid(update)
        return nn.sigmoid(forget) * hidden * (1 - update) + update * jnp.tanh(new)


class MaskEncoder(nn.Module):
    """What a frame and a mask say together: the value of every pixel; the sensory map, renewed."""

    backbone: Callable[..., nn.Module]
    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, frame: Frame, pixels: Map, masks: Masks, sensory: ObjectMaps, *, train: bool
    ) -> tuple[ObjectMaps, ObjectMaps]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        by_object = lambda x: jnp.moveaxis(x, -1, 1)[..., None]
        frames = jnp.broadcast_to(frame[:, None], (*by_object(masks).shape[:-1], frame.shape[-1]))
        seen = [frames, by_object(masks), by_object(others(masks))]
        x = self.backbone(**types, name="backbone")(jnp.concatenate(seen, -1), train=train)[-1]
        value = FeatureFuser(self.features, **types, name="fuser")(pixels, x)
        return value, SensoryUpdate(**types, name="sensory")(value, sensory)


class MaskDecoder(nn.Module):
    """Maps at stride 16 to logits at stride 4, with the frame's finer maps; the sensory map."""

    features: tuple[int, int, int]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: ObjectMaps, finer: tuple[Map, Map], sensory: ObjectMaps
    ) -> tuple[Float[Array, "b n h w 1"], ObjectMaps]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        levels = [x]
        for k, maps in enumerate(finer):
            skip = torch_conv(maps, self.features[k], f"skip_{k}", **types)
            x = _resized(x, 2) + skip[:, None]
            h = gelu(torch_conv(x, self.features[k + 1], f"in_{k}", 3, after="mlp", **types))
            h = gelu(torch_conv(h, self.features[k + 1], f"out_{k}", 3, before="mlp", **types))
            if self.features[k] != self.features[k + 1]:
                x = torch_conv(x, self.features[k + 1], f"project_{k}", **types)
            x = x + h
            levels.append(x)
        logits = torch_conv(x, 1, "mask", **types)
        levels[-1] = jnp.concatenate([x, logits], -1)
        seen = sum(
            torch_conv(area_mean(level, 2**k), sensory.shape[-1], f"sensory_{k}", **types)
            for k, level in enumerate(levels)
        )
        return logits, SensoryUpdate(**types, name="sensory")(seen, sensory)


class _Carry(NamedTuple):
    """What one frame leaves to the next."""

    started: Bool[Array, ""]
    state: State
    sensory: ObjectMaps
    objects: Float[Array, "b n q c+1"]
    masks: Masks


class _Seen(NamedTuple):
    """What is known of a frame before any mask; `before` is the pixel map of the frame before."""

    frame: Frame
    finer: tuple[Map, Map]
    pixels: Map
    before: Map
    keys: Map


class FrameStep(nn.Module):
    """One frame: encode the last mask, write, read, segment. Fields are those of `GDKVM`."""

    mask_encoder: Callable[..., nn.Module]
    decoder: tuple[int, int, int]
    transformer: Callable[..., nn.Module]
    rule: Callable[..., nn.Module]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: _Carry, seen: _Seen, train: bool):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = seen.pixels.shape[-1]
        coarse = area_mean(carry.masks, _STRIDE)
        transformer = self.transformer(**types, name="object_transformer")

        # The value is of this frame, its pixel features are of the one before, as published.
        value, sensory = MaskEncoder(self.mask_encoder, width, **types, name="mask_encoder")(
            seen.frame, seen.before, carry.masks, carry.sensory, train=train
        )
        summarizer = ObjectSummarizer(transformer.queries, width, **types, name="summarizer")
        summary = summarizer(coarse, value)

        keys = einops.rearrange(seen.keys, "b h w k -> b 1 (h w) k")
        rule = self.rule(param_dtype=self.param_dtype, name="rule")
        values = einops.rearrange(value, "b n h w v -> b n (h w) v")
        state = rule(carry.state, keys, values, carry.started)
        readout = (keys @ state).reshape(value.shape).astype(value.dtype)
        self.sow("intermediates", "value", value)
        self.sow("intermediates", "readout", readout)

        by_object = lambda x: jnp.moveaxis(x, -1, 1)[..., None].astype(sensory.dtype)
        known = [sensory, by_object(coarse), by_object(others(coarse))]
        x = readout + torch_conv(jnp.concatenate(known, -1), width, "known", **types)
        x = FeatureFuser(width, **types, name="pixel_fuser")(seen.pixels, x)
        # Objects are read before this frame's summary is added, but for the first one's.
        memory = carry.objects + jnp.where(carry.started, 0, summary)
        x, levels = transformer(at_edge(x), memory, train=train)
        logits, sensory = MaskDecoder(self.decoder, **types, name="mask_decoder")(
            x, seen.finer, sensory
        )
        self.sow("intermediates", "mask_logits", logits)
        logits = aggregate(nn.sigmoid(jnp.moveaxis(logits[..., 0], 1, -1)))
        logits = _resized(logits, 4)
        weights = torch_conv(sensory, width + 1, "sensory_head", **types)
        alone = jnp.einsum("bhwc,bnhwc->bhwn", seen.pixels, weights[..., :-1])
        alone = alone + jnp.moveaxis(weights[..., -1], 1, -1)
        auxiliary = {"sensory": alone, **{f"query_{k}": level for k, level in enumerate(levels)}}
        auxiliary = {name: aggregate(nn.sigmoid(x)) for name, x in auxiliary.items()}
        masks = jax.nn.softmax(logits)[..., 1:].astype(carry.masks.dtype)
        started = jnp.ones_like(carry.started)
        return _Carry(started, state, sensory, carry.objects + summary, masks), (logits, auxiliary)


class GDKVM(nn.Module):
    """Segments the frames of a clip, one after the other.

    Attributes:
        image_encoder, mask_encoder: factories of the networks that see frames, and frames with
            masks; they give three maps at strides 4, 8 and 16, as the first three stages of a
            `ResNet` do.
        width: channels of values, pixel features and the sensory map.
        key_width: of keys.
        decoder: channels at strides 16, 8 and 4.
        queries, blocks, heads, hidden: of the object transformer. The memory has as many heads.
        memory, gate: see `GatedDeltaRule`.
        kpff: whether keys are fused with pixel features.
        remat: compute a frame's inner values again in the backward pass, and do not keep them.
    """

    image_encoder: Callable[..., nn.Module] = resnet50
    mask_encoder: Callable[..., nn.Module] = resnet18
    width: int = 256
    key_width: int = 64
    decoder: tuple[int, int, int] = (256, 128, 128)
    queries: int = 16
    blocks: int = 3
    heads: int = 8
    hidden: int = 2048
    memory: Literal["gated_delta", "delta", "additive", "none"] = "gated_delta"
    gate: Literal["paper", "code"] = "paper"
    kpff: bool = True
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b t H W c"],
        prompt: Masks | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b t H W classes"], dict[str, Float[Array, "b t h w classes"]]]:
        """Logits of the background and every object, and coarser ones for auxiliary losses.

        Args:
            video: frames in [-1, 1].
            prompt: masks of the objects in the first frame; None: one object, not shown, as
                published.

        Raises:
            ValueError: a height or width that 16 does not divide, a prompt of another size.
        """
        batch, time, height, width, _ = video.shape
        if height % _STRIDE or width % _STRIDE:
            raise ValueError(f"video: {video.shape}; {_STRIDE} does not divide height and width")
        if prompt is None:
            prompt = jnp.zeros((batch, height, width, 1), video.dtype)
        if prompt.shape[:3] != (batch, height, width):
            raise ValueError(f"prompt: {prompt.shape} instead of {(batch, height, width, 'n')}")
        seen = self._look(video, train)
        objects, cells, exact = prompt.shape[-1], seen.keys.shape[2:4], seen.keys.dtype
        carry = _Carry(
            started=jnp.zeros((), bool),
            state=jnp.zeros((batch, objects, self.key_width, self.width), exact),
            sensory=jnp.zeros((batch, objects, *cells, self.width), seen.pixels.dtype),
            objects=jnp.zeros((batch, objects, self.queries, self.width + 1), exact),
            masks=prompt.astype(exact),
        )
        statistics = "batch_stats" if self.is_mutable_collection("batch_stats") else ()
        block = nn.remat(FrameStep, prevent_cse=False, static_argnums=(3,))
        loop = nn.scan(
            block if self.remat else FrameStep,
            variable_broadcast=["params", *([] if statistics else ["batch_stats"])],
            variable_carry=statistics,
            variable_axes={"intermediates": 1},
            split_rngs={"params": False},
            in_axes=(1, nn.broadcast),
            out_axes=1,
            unroll=trips_at_once(time),
        )
        # A loop does not carry statistics that are not there yet: they come of one frame.
        starting = self.is_initializing()
        step = (FrameStep if starting else loop)(
            mask_encoder=self.mask_encoder,
            decoder=self.decoder,
            transformer=functools.partial(
                ObjectTransformer, self.queries, self.blocks, self.heads, self.hidden
            ),
            rule=functools.partial(GatedDeltaRule, self.heads, self.memory, self.gate),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="frame",
        )
        if starting:
            _, outputs = step(carry, jax.tree.map(lambda x: x[:, 0], seen), train)
            return jax.tree.map(lambda x: jnp.repeat(x[:, None], time, 1), outputs)
        return step(carry, seen, train)[1]

    def _look(self, video, train) -> _Seen:
        """All frames at once: their maps, pixel features and keys."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        encoder = self.image_encoder(**types, name="image_encoder")
        *finer, coarse = encoder(at_edge(video), train=train)
        pixels = torch_conv(coarse, self.width, "pixel_projector", **types)
        key = torch_conv(coarse, self.width, "key_in", after="mlp", **types)
        key = torch_conv(key, self.key_width, "key_out", 3, before="mlp", **types)
        if self.kpff:
            key = KeyPixelFeatureFusion(**types, name="kpff")(key, pixels)
        self.sow("intermediates", "key", key)
        self.sow("intermediates", "pixels", pixels)
        key = jax.nn.softmax(key.astype(jnp.promote_types(key.dtype, jnp.float32)))
        before = jnp.concatenate([pixels[:, :1], pixels[:, :-1]], 1)
        return _Seen(video, tuple(finer[::-1]), pixels, before, key)


def _resized(x, factor):
    """Larger by bilinear interpolation between the centres of pixels."""
    *leading, height, width, channels = x.shape
    return jax.image.resize(x, (*leading, factor * height, factor * width, channels), "linear")


def _log_rate(key, shape, dtype):
    """Logarithms of rates that are uniform between 0 and 16."""
    return jnp.log(jax.random.uniform(key, shape, dtype, jnp.finfo(dtype).tiny, 16))
