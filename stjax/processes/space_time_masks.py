"""Which parts of a clip are given and which are to be generated: one family of masks for all tasks.

VDT (Lu et al. 2023, arXiv 2305.13311, section 3.3). True: to be generated. A mask is a function of
a stream of uniform numbers, `draw(k)` being the k-th; so JAX's keys and a given list do alike.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

Shape = tuple[int, int, int]
Draw = Callable[[Int[Array, ""]], Float[Array, ""]]
# A mask, and how many numbers are used up.
Drawn = tuple[Bool[Array, "t h w"], Int[Array, ""]]

# Numbered as published; the last is drawn apart from the others.
FAMILIES = (
    "predict", "backward", "interpolate", "unconditional", "animate", "arbitrary", "complete",
)
_ATTEMPTS, _LEAST_AREA, _LEAST_ASPECT, _TRIM = 10, 4, 0.3, 3


def uniforms(key: Key[Array, ""]) -> Draw:
    """An endless stream of numbers from [0, 1)."""
    return lambda k: jax.random.uniform(jax.random.fold_in(key, k))


@dataclasses.dataclass(frozen=True)
class SpaceTimeMasks:
    """VDT's masks of clips.

    Attributes:
        context: frames given by "predict", the first, and "backward", the last; 0: half of them.
        stride: of the frames given by "interpolate", from the first on.
        arbitrary: share of the frames that "arbitrary" generates, each drawn by itself.
        area: share of a frame that "complete" generates.
        complete: share of the masks that are "complete"; the others are of `families` in equal
            shares.
        families: names in `FAMILIES`.
        empty: whether a span of "complete" that reaches to the clip's end is empty, as in the
            published code, where mask[start:-0] is.

    Raises:
        ValueError: an unknown family.
    """

    context: int = 0
    stride: int = 4
    arbitrary: float = 0.8
    area: float = 0.5
    complete: float = 0.2
    families: Sequence[str] = FAMILIES[:-1]
    empty: bool = False

    def __post_init__(self):
        if unknown := set(self.families) - set(FAMILIES):
            raise ValueError(f"families: {sorted(unknown)} are none of {', '.join(FAMILIES)}")

    def sample(self, draw: Draw, shape: Shape) -> Drawn:
        """A mask of a family drawn at random; the families' shares are drawn first."""
        members = [lambda k, name=name: self.of(name, draw, shape, k) for name in self.families]

        def framewise(k):
            return lax.switch(_integer(draw(k), 0, len(members) - 1), members, k + 1)

        return lax.cond(
            draw(jnp.int32(0)) < self.complete,
            lambda k: self.of("complete", draw, shape, k), framewise, jnp.int32(1),
        )

    def of(self, family: str, draw: Draw, shape: Shape, k: Int[Array, ""] | int = 0) -> Drawn:
        """A mask of one family, from the k-th number of the stream on."""
        if family == "complete":
            return self._complete(draw, shape, jnp.int32(k))
        frames, used = self._frames(family, draw, shape[0], jnp.int32(k))
        return jnp.broadcast_to(frames[:, None, None], shape), used

    def _frames(self, family, draw, length, k):
        at = jnp.arange(length)
        context = self.context or length // 2
        if family == "predict":
            return at >= context, k
        if family == "backward":
            return at < length - context, k
        if family == "interpolate":
            return at % self.stride != 0, k
        if family == "unconditional":
            return at >= 0, k
        if family == "animate":
            return at != _integer(draw(k), 0, length - 1), k + 1
        return jax.vmap(draw)(k + at) < self.arbitrary, k + length

    def _complete(self, draw, shape, k):
        """A block-wise mask of frames, the same for all frames of a span."""
        length, height, width = shape
        trim = min(_TRIM, (length - 1) // 2)
        first, rest = (_integer(draw(k + i), 0, trim) for i in range(2))
        block, k = block_mask(draw, height, width, self.area * height * width, k + 2)
        at = jnp.arange(length)
        span = (at >= first) & (at < length - rest)
        if self.empty:
            span &= rest > 0
        return span[:, None, None] & block, k


def block_mask(
    draw: Draw, height: int, width: int, target: float, k: Int[Array, ""] | int = 0
) -> tuple[Bool[Array, "height width"], Int[Array, ""]]:
    """Rectangles of random area and aspect that cover `target` cells together, from above.

    (BEiT, Bao et al. 2021, arXiv 2106.08254, algorithm 1.) A rectangle that does not fit, or adds
    no cell or too many, is drawn anew; after ten attempts in vain the mask is what it is.

    Args:
        draw: the stream of uniform numbers: area, aspect and, if that fits, top and left, of every
            attempt.
        height, width: of the map.
        target: cells to cover.
        k: where in the stream to begin.

    Returns:
        The mask, True where covered, and the place in the stream after the last number used.
    """
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)

    def attempt(state):
        mask, k, attempts = state
        left_over = target - mask.sum()
        area = _LEAST_AREA + (left_over - _LEAST_AREA) * draw(k)
        aspect = jnp.exp(math.log(_LEAST_ASPECT) * (1 - 2 * draw(k + 1)))
        h, w = (jnp.rint(jnp.sqrt(x)).astype(jnp.int32) for x in (area * aspect, area / aspect))
        fits = (h < height) & (w < width)
        top, left = _integer(draw(k + 2), 0, height - h), _integer(draw(k + 3), 0, width - w)
        inside = (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
        added = (inside & ~mask).sum()
        accepted = fits & (added > 0) & (added <= left_over)
        mask = mask | (inside & accepted)
        return mask, k + jnp.where(fits, 4, 2), jnp.where(accepted, 0, attempts + 1)

    def unfinished(state):
        mask, _, attempts = state
        return (mask.sum() < target) & (attempts < _ATTEMPTS)

    start = jnp.zeros((height, width), bool), jnp.asarray(k, jnp.int32), jnp.int32(0)
    mask, k, _ = lax.while_loop(unfinished, attempt, start)
    return mask, k


def _integer(uniform, low, high):
    """Uniform from low to high, both included."""
    return low + jnp.floor(uniform * (high - low + 1)).astype(jnp.int32)
