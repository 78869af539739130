"""STORM (Yang et al. 2024, arXiv 2501.00602): a moving scene of Gaussians from posed frames, in one
pass.

One vision transformer sees all patches of all context frames. Every pixel becomes a Gaussian with a
velocity, a soft mix of a few motion bases that the scene shares; to see the scene at another time,
all of them are moved there and rasterised together. Flow has no labels: it is what makes frames
agree. Latent-STORM has a Gaussian a patch, and decodes what is rasterised.

Where the published code (NVlabs/GaussianSTORM@fcd2561) differs from what is meant it is an option:
`affine="gain"`, `centre=1.0`. As there, colours are not bounded.
"""

import functools
import math
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stjax.layers.attention import SelfAttention
from stjax.layers.dit import PlainNorm, TimestepEmbedding, modulate
from stjax.layers.feed_forward import FeedForward
from stjax.layers.norm import frame_group_norm
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.layers.resnet import LATENT, ResNetBlock
from stjax.layers.transformer import PreNormBlock
from stjax.layers.up_conv import UpConv
from stjax.ops import cameras as geometry
from stjax.ops.activations import gelu
from stjax.ops.cameras import Cameras
from stjax.ops.patches import patchify, unpatchify
from stjax.ops.splatting import Gaussians, rasterise

AFFINES = ("matrix", "gain", "none")
_init = nn.initializers.truncated_normal(0.02)
_token = nn.initializers.normal(0.02)


class Scene(NamedTuple):
    """Gaussians of all context frames, and how they move.

    Attributes:
        gaussians: of each sample, (b, n, ...), as their own context frames saw them.
        times: when that was, in seconds, (b, n).
        velocities: metres a second, (b, n, 3).
        weights: of the motion bases, (b, n, k); of none without motion tokens.
    """

    gaussians: Gaussians
    times: Float[Array, "b n"]
    velocities: Float[Array, "b n 3"]
    weights: Float[Array, "b n k"]


class Rendered(NamedTuple):
    """What the target cameras see.

    Attributes:
        image: in [-1, 1] if all is well.
        depth: along the camera's axis, in metres, where Gaussians are.
        alpha: how much of a pixel Gaussians cover.
        flow: velocities, in metres a second.
        parts: the motion basis that weighs most; None in training, and where there are none.
        decoded_depth: Latent-STORM's other answer, of the image's size; None elsewhere. There
            depth, alpha, flow and parts are of a patch each.
        velocities: of all Gaussians.
        left_out: Gaussians that exceeded the rasteriser's capacity, the sum of all tiles.
    """

    image: Float[Array, "b s v H W 3"]
    depth: Float[Array, "b s v h w"]
    alpha: Float[Array, "b s v h w"]
    flow: Float[Array, "b s v h w 3"]
    parts: Int[Array, "b s v h w"] | None
    decoded_depth: Float[Array, "b s v H W"] | None
    velocities: Float[Array, "b n 3"]
    left_out: Int[Array, "b"]


class STORM(nn.Module):
    """`model(video, cameras, targets) -> Rendered`; video in [-1, 1], metres and seconds.

    Attributes:
        size: height and width that the table of positions is for; others interpolate it.
        patch: side of the patches.
        dim, depth, heads: of the transformer.
        cameras: how many; each has an affine token, which maps the colours it exposes.
        motion_tokens: bases of the velocities; 0: a velocity of its own for every pixel.
        moves: False: nothing does, as in reconstruction of still scenes (a baseline).
        temperature: of the softmax over them.
        features: channels of the maps that pixels' keys come from; for Gaussians of pixels each
            doubles the size, together `patch` times.
        motion_dim: width of keys and queries.
        latent: channels of a patch's Gaussian, Latent-STORM; 0: Gaussians of pixels, with colours.
        decoder: channels of Latent-STORM's decoder; each but the first doubles the size.
        near, far: depths lie between, in metres.
        largest: greatest standard deviation of a Gaussian, in metres.
        affine: what a camera's affine token gives: a "matrix" with a bias; a "gain" of each
            channel, the row's sum, as in the published code (its authors call it a bug); "none".
        sky: whether a sky token colours what Gaussians leave free, by the direction.
        sky_features: hidden units of that.
        centre: of a pixel, for rays; the published code adds a half twice and has 1.0.
        timespan: seconds that the code of time counts as one.
        slowest: out of training, velocities below it are shown as none, in metres a second.
        tile, capacity: of `stjax.ops.splatting.rasterise`.
        remat: compute inner values of blocks and heads again in the backward pass.
    """

    size: tuple[int, int] = (160, 240)
    patch: int = 8
    dim: int = 768
    depth: int = 12
    heads: int = 12
    cameras: int = 3
    motion_tokens: int = 16
    moves: bool = True
    temperature: float = 0.5
    features: tuple[int, ...] = (512, 256, 128)
    motion_dim: int = 32
    latent: int = 0
    decoder: tuple[int, ...] = (512, 256, 256, 128)
    near: float = 0.2
    far: float = 400.0
    largest: float = 0.5
    affine: Literal["matrix", "gain", "none"] = "matrix"
    sky: bool = True
    sky_features: int = 512
    centre: float = 0.5
    timespan: float = 2.0
    slowest: float = 1.0
    tile: int = 16
    capacity: int = 8192
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b t v height width 3"],
        cameras: Cameras,
        targets: Cameras,
        *,
        train: bool = False,
    ) -> Rendered:
        """The scene of the context frames as the targets see it, in frames of the same size.

        Raises:
            ValueError: a field or a video that does not fit.
        """
        self._check(video)
        sky, exposure, motion, patches = self._tokens(video, cameras, train)
        scene = self._scene(motion, patches, cameras)
        self.sow("intermediates", "scene", scene)
        cell = self.patch if self.latent else 1
        size = tuple(side // cell for side in video.shape[3:5])
        targets = targets._replace(intrinsics=geometry.coarser(targets.intrinsics, cell))
        colours, flow, weights, depth, alpha, left_out = self._splat(scene, targets, size, train)
        if self.sky:
            _, directions = geometry.rays(*targets[:2], size, self.centre)
            head = nn.remat(SkyHead) if self.remat else SkyHead
            head = head(self.sky_features, colours.shape[-1], **self._types, name="sky_head")
            colours += (1 - alpha[..., None]) * head(directions, sky)
        if self.affine != "none":
            colours = self._exposed(colours, exposure)
        self.sow("intermediates", "colours", colours)
        image, decoded_depth = colours, None
        if self.latent:
            decoder = ConvDecoder(self.decoder, 4, self.remat, **self._types, name="decoder")
            decoded = decoder(colours, alpha).astype(colours.dtype)
            image, decoded_depth = decoded[..., :3], self._depth(decoded[..., 3])
        parts = None if train or not self.motion_tokens else weights.argmax(-1)
        return Rendered(
            image, depth, alpha, flow, parts, decoded_depth, scene.velocities, left_out
        )

    def _tokens(self, video, cameras, train):
        """The transformer's answer at the tokens of the sky, the cameras, motion and patches.

        Patches come as maps, (b, t, v, rows, columns, dim).
        """
        rays = geometry.rays(*cameras[:2], video.shape[3:5], self.centre)
        pixels = jnp.concatenate([video, geometry.pluecker(*rays)], -1)
        dense = functools.partial(nn.Dense, **self._types)
        x = dense(
            self.dim, kernel_init=named(nn.initializers.lecun_normal(), None, "embed"),
            name="embedding",
        )(patchify(pixels, self.patch))
        self.sow("intermediates", "embedded", x)
        rows, columns = (side // self.patch for side in self.size)
        positions = self.param("positions", _token, (rows, columns, self.dim), self.param_dtype)
        if positions.shape[:2] != x.shape[3:5]:
            positions = jax.image.resize(positions, (*x.shape[3:5], self.dim), "bicubic")
        times = TimestepEmbedding(self.dim, **self._types, name="time")(
            cameras.times / self.timespan
        )
        x = x + positions.astype(x.dtype) + times[..., None, None, :].astype(x.dtype)
        exposures = 0 if self.affine == "none" else self.cameras
        counts = {"sky": int(self.sky), "affine": exposures, "motion": self.motion_tokens}
        parts = [
            self.param(f"{name}_tokens", _token, (count, self.dim), self.param_dtype)
            for name, count in counts.items() if count
        ]  # fmt: skip
        shape = x.shape
        parts = [jnp.broadcast_to(part.astype(x.dtype), (len(x), *part.shape)) for part in parts]
        x = jnp.concatenate([*parts, x.reshape(len(x), -1, self.dim)], 1)
        blocks = repeat(PreNormBlock, self.depth, self.remat, shared=1, convolves=False)
        x, _ = blocks(self.heads, 4 * self.dim, **self._types, name="blocks")(x, None, None, train)
        x = nn.LayerNorm(1e-6, use_fast_variance=False, **self._types, name="norm")(x)
        sky, exposure, motion, patches = jnp.split(x, list(accumulate(counts.values())), 1)
        self.sow("intermediates", "sky", sky)
        return sky, exposure, motion, patches.reshape(shape)

    def _scene(self, motion, patches, cameras) -> Scene:
        """The Gaussians of all pixels, or patches, and their velocities."""
        wide = jnp.promote_types(patches.dtype, jnp.float32)  # geometry is exact to millimetres
        side, channels = (1, self.latent) if self.latent else (self.patch, 3)
        x = nn.Dense(side**2 * (9 + channels), kernel_init=_init, name="gaussians", **self._types)(
            patches
        )
        x = unpatchify(x, side).astype(wide)
        depth, scales, quaternions, opacities, colours = jnp.split(x, (1, 4, 8, 9), -1)
        cell = self.patch if self.latent else 1
        intrinsics = geometry.coarser(cameras.intrinsics, cell)
        origins, directions = geometry.rays(intrinsics, cameras.poses, x.shape[3:5], self.centre)
        depth = self._depth(depth)
        gaussians = Gaussians(
            origins + directions * depth,
            quaternions,
            jnp.minimum(jnp.exp(scales - 2.3), self.largest),
            jax.nn.sigmoid(opacities - 2)[..., 0],
            colours,
        )
        head = nn.remat(MotionHead) if self.remat else MotionHead
        velocities, weights, bases = head(
            self.features, self.motion_dim, self.temperature, enlarges=not self.latent,
            name="motion", **self._types,
        )(patches, motion)
        velocities = velocities.astype(wide) if self.moves else jnp.zeros((*depth.shape[:-1], 3))
        maps = {"depths": depth[..., 0], "bases": bases, "weights": weights}
        maps |= gaussians._asdict() | {"velocities": velocities}
        self.sow("intermediates", "maps", maps)
        times = jnp.broadcast_to(cameras.times[..., None, None], depth.shape[:-1])
        count = math.prod(times.shape[1:])
        flat = lambda array: array.reshape(len(array), count, *array.shape[5:])
        return Scene(
            Gaussians(*map(flat, gaussians)), *map(flat, (times, velocities, weights))
        )

    def _splat(self, scene, targets, size, train):
        """The scene moved to the targets' times and rasterised, all context frames together."""
        shown = scene.velocities
        features = [scene.gaussians.features, shown]
        if not train:
            speed = jnp.linalg.norm(shown, axis=-1, keepdims=True)
            features[1] = jnp.where(speed < self.slowest, 0, shown)
            features.append(scene.weights.astype(shown.dtype))
        channels = [x.shape[-1] for x in features]
        gaussians = scene.gaussians._replace(features=jnp.concatenate(features, -1))
        views = targets.times.shape[1:]
        one_axis = lambda x: x.reshape(len(x), -1, *x.shape[3:])

        def splat(gaussians, times, velocities, intrinsics, poses, at):
            moved = gaussians.means + velocities * (at[:, None] - times)[..., None]
            return rasterise(
                gaussians._replace(means=moved), jnp.linalg.inv(poses), intrinsics, size,
                near=self.near, far=self.far, tile=self.tile, capacity=self.capacity,
            )

        splatted = jax.vmap(splat)(
            gaussians, scene.times, scene.velocities, *map(one_axis, targets)
        )
        back = lambda x: x.reshape(len(x), *views, *x.shape[2:])
        ends = [sum(channels[:k]) for k in (1, 2)]
        parts = jnp.split(back(splatted.features), ends, -1)
        parts = parts if not train else [*parts[:2], None]
        left_out = splatted.left_out.sum(-1)
        return (*parts, back(splatted.depth), back(splatted.alpha), left_out)

    def _exposed(self, colours, tokens):
        """Each camera's colours under its affine map."""
        channels, published = colours.shape[-1], self.affine == "gain"
        shape = (channels, channels + 1)
        identity = lambda key, shape_, dtype: jnp.eye(*shape, dtype=dtype).ravel()
        bias = nn.initializers.zeros if published else identity
        maps = nn.Dense(
            channels * (channels + 1), kernel_init=_init, bias_init=bias, name="affine",
            **self._types,
        )(tokens)
        maps = maps.reshape(*maps.shape[:-1], *shape).astype(colours.dtype)
        self.sow("intermediates", "exposures", maps)
        if published:
            return colours * maps.sum(-1)[:, None, :, None, None]
        turned = jnp.einsum("bvpq,bsvhwq->bsvhwp", maps[..., :-1], colours)
        return turned + maps[:, None, :, None, None, :, -1]

    def _depth(self, x):
        return self.near + jax.nn.sigmoid(x) * (self.far - self.near)

    @property
    def _types(self):
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _check(self, video):
        if self.affine not in AFFINES:
            raise ValueError(f"affine: {self.affine!r} is none of {', '.join(AFFINES)}")
        if video.ndim != 6 or video.shape[-1] != 3:
            raise ValueError(f"video: {video.shape} instead of (b, t, v, height, width, 3)")
        if video.shape[2] != self.cameras and self.affine != "none":
            raise ValueError(
                f"video: {video.shape} of {video.shape[2]} cameras, not {self.cameras}"
            )
        if not self.latent and 2 ** len(self.features) != self.patch:
            raise ValueError(
                f"features: {self.features} enlarge {2 ** len(self.features)} times, and patches "
                f"are of {self.patch} pixels"
            )
        if self.latent and 2 ** (len(self.decoder) - 1) != self.patch:
            raise ValueError(
                f"decoder: {self.decoder} enlarges {2 ** (len(self.decoder) - 1)} times, and "
                f"patches are of {self.patch} pixels"
            )


class MotionHead(nn.Module):
    """Velocities as a soft mix of bases: softmax over k of (q_k . key / temperature).

    Bases and queries q_k are maps of the motion tokens, each query by one of its own; keys are
    those of pixels. Without tokens the keys themselves are mapped to velocities.

    Attributes:
        enlarges: whether each map doubles height and width, or else sees single pixels.
    """

    features: tuple[int, ...]
    motion_dim: int
    temperature: float
    enlarges: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, patches: Float[Array, "b t v h w d"], tokens: Float[Array, "b k d"]
    ) -> tuple[Float[Array, "b t v H W 3"], Float[Array, "b t v H W k"], Float[Array, "b k 3"]]:
        """Velocities, weights of the bases, and bases."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        mlp = functools.partial(FeedForward, kernel_init=_init, **types)
        b, t, v = patches.shape[:3]
        x = einops.rearrange(patches, "b t v h w d -> (b t v) h w d")
        for k, features in enumerate(self.features):
            layer = UpConv if self.enlarges else nn.Dense
            x = layer(features, name=f"map_{k}", **types)(x)
            x = gelu(nn.LayerNorm(1e-6, use_fast_variance=False, name=f"norm_{k}", **types)(x))
        keys = mlp(256, features=self.motion_dim, name="key")(x)
        keys = keys.reshape(b, t, v, *keys.shape[1:])
        to_velocity = mlp(256, features=3, name="basis")
        if not tokens.shape[1]:
            return to_velocity(keys), keys[..., :0], tokens[..., :3]
        queries = nn.vmap(
            FeedForward, in_axes=1, out_axes=1,
            variable_axes={"params": 0}, split_rngs={"params": True},
        )(tokens.shape[-1], features=self.motion_dim, kernel_init=_init, name="query", **types)
        bases = to_velocity(tokens)
        scores = jnp.einsum("bkd,btvhwd->btvhwk", queries(tokens), keys)
        weights = jax.nn.softmax(scores / self.temperature)
        return jnp.einsum("btvhwk,bkc->btvhwc", weights, bases), weights, bases


class SkyHead(nn.Module):
    """The sky's colour in a direction: a linear map, normed and modulated by the sky's token."""

    hidden: int
    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, directions: Float[Array, "b *views 3"], token: Float[Array, "b 1 d"]
    ) -> Float[Array, "b *views features"]:
        dense = functools.partial(
            nn.Dense, kernel_init=_init, dtype=self.dtype, param_dtype=self.param_dtype
        )
        condition = dense(self.hidden, name="condition")(token[:, 0])
        modulation = dense(2 * self.hidden, name="modulation")(nn.silu(condition))
        x = PlainNorm(dtype=self.dtype)(dense(self.hidden, name="in")(directions))
        x = modulate(x, *jnp.split(modulation, 2, -1))
        return dense(self.features, name="out")(x)


class ConvDecoder(nn.Module):
    """Latent-STORM's decoder: what the Gaussians leave free is a learned vector; then convolutions.

    At the smallest size attention between two residual blocks, then three of these for each entry
    of `channels`, and between entries twice the size (nearest pixel, then a convolution).
    """

    channels: tuple[int, ...]
    features: int
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[Array, "*views h w c"], alpha: Float[Array, "*views h w"]
    ) -> Float[Array, "*views H W features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), **types)
        norm = lambda name: frame_group_norm(32, epsilon=1e-6, name=name, **types)
        block = nn.remat(ResNetBlock) if self.remat else ResNetBlock
        block = functools.partial(block, **LATENT, **types)
        first = self.channels[0]
        views = latents.shape[:-3]
        latents, alpha = (x.reshape(-1, *x.shape[len(views) :]) for x in (latents, alpha))
        x = conv(first, name="in")(latents)
        free = self.param("mask_token", _token, (first,), self.param_dtype)
        alpha = alpha[..., None].astype(x.dtype)
        x = x * alpha + free.astype(x.dtype) * (1 - alpha)
        x = block(first, name="before")(x)
        attention = SelfAttention(
            8, first // 8, qkv_bias=True, kernel_init=_init, name="attention", **types
        )
        flat = norm("attention_norm")(x).reshape(len(x), -1, first)
        x = x + attention(flat).reshape(x.shape)
        x = block(first, name="after")(x)
        for level, channels in enumerate(self.channels):
            for k in range(3):
                x = block(channels, name=f"block_{level}_{k}")(x)
            if level:
                x = einops.repeat(x, "n h w c -> n (h 2) (w 2) c")
                x = conv(channels, name=f"up_{level}")(x)
        x = conv(self.features, name="out")(nn.silu(norm("norm")(x)))
        return x.reshape(*views, *x.shape[1:])
