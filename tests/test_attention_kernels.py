"""The attention kernels against a dense masked softmax, gradients through y and lse included."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stjax.ops.attention import pallas_gpu, pallas_tpu
from tests import quick

PLATFORMS = {"cuda": pallas_gpu.block_sparse_attention, "tpu": pallas_tpu.block_sparse_attention}


@dataclasses.dataclass(frozen=True)
class Mask:
    """The least that a mask is: a rule between positions, asked about every pair for its blocks."""

    kind: str
    size: int = 1

    def visible(self, query, key):
        if self.kind == "causal":
            return query >= key
        if self.kind == "frame causal":
            return query // self.size >= key // self.size
        if self.kind == "window":
            return (query >= key) & (query - key < self.size)
        if self.kind == "full":
            return (query >= 0) & (key >= 0)
        if self.kind == "late":  # the first queries see nothing
            return query >= key + self.size
        table = np.random.default_rng(self.size).random((8, 8)) < 0.4
        xp = np if isinstance(query, np.ndarray) else jnp
        return xp.asarray(table)[query // self.size % 8, key // self.size % 8]

    def matrix(self, queries, keys):
        return self.visible(np.arange(queries)[:, None], np.arange(keys))

    def blocks(self, queries, keys, block_q, block_k):
        seen, whole = self.matrix(queries, keys), np.ones((queries, keys))

        def count(pairs):
            down = np.add.reduceat(pairs, range(0, queries, block_q), axis=0)
            return np.add.reduceat(down, range(0, keys, block_k), axis=1)

        seen, whole = count(seen.astype(int)), count(whole)
        return ((seen > 0).astype(np.uint8) + (seen == whole)).astype(np.uint8)


def dense_attention(q, k, v, mask, *, scale):
    """The definition, all logits at once."""
    k, v = (jnp.repeat(array, q.shape[2] // array.shape[2], axis=2) for array in (k, v))
    seen = mask.matrix(q.shape[1], k.shape[1])[:, None]
    blind = ~seen.any(-1)
    logits = jnp.where(
        seen | blind[..., None], scale * jnp.einsum("bnhd,bmhd->bnhm", q, k), -jnp.inf
    )
    lse = jax.nn.logsumexp(logits, axis=-1)
    y = jnp.einsum("bnhm,bmhe->bnhe", jnp.exp(logits - lse[..., None]), v)
    return jnp.where(blind[..., None], 0, y), jnp.where(blind, -jnp.inf, lse)


def results(attend, arrays, through_lse=True):
    """y, lse, and the gradients of a loss of both, or of y alone."""

    def loss(*arrays):
        y, lse = attend(*arrays)
        total = jnp.sum(jnp.sin(3 * y.astype(lse.dtype)))
        if through_lse:
            total += jnp.sum(jnp.cos(jnp.where(lse == -jnp.inf, 0, lse)))
        return total, (y, lse)

    gradients, values = jax.grad(loss, (0, 1, 2), has_aux=True)(*arrays)
    return *values, *gradients


def arrays(rng, queries, keys, heads=2, shared=1, width=8, value_width=8, batch=1):
    shapes = (queries, heads, width), (keys, shared, width), (keys, shared, value_width)
    return [rng.standard_normal((batch, *shape)) for shape in shapes]


def assert_close(ours, theirs, tolerance):
    for one, other in zip(ours, theirs, strict=True):
        one, other = (np.asarray(array, np.float64) for array in (one, other))
        np.testing.assert_array_equal(one == -np.inf, other == -np.inf)
        one, other = (np.where(np.isinf(array), 0, array) for array in (one, other))
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(scale, 1))


masks = st.one_of(
    st.just(Mask("causal")),
    st.builds(Mask, st.just("frame causal"), st.integers(1, 40)),
    st.builds(Mask, st.just("window"), st.integers(1, 80)),
    st.builds(Mask, st.just("late"), st.integers(1, 80)),
    st.builds(Mask, st.just("table"), st.sampled_from([16, 32, 27, 5])),
)


@settings(max_examples=7, deadline=None, derandomize=True)
@example(Mask("full"), (70, 90), (64, 32), (4, 2), (8, 8), 16)  # a full block that keys do not fill
@given(
    mask=masks,
    lengths=st.tuples(st.integers(1, 130), st.integers(1, 130)),
    blocks=st.tuples(st.sampled_from([16, 32, 64]), st.sampled_from([16, 32, 64])),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    widths=st.sampled_from([(8, 8), (16, 20)]),
    step=st.sampled_from([16, 64]),
)
def test_gpu_kernels_have_the_numbers_and_gradients_of_the_definition(
    mask, lengths, blocks, heads, widths, step
):
    launch = pallas_gpu.Launch(step, 4, 2)
    options = dict(
        zip(("block_q", "block_k"), blocks), forward=launch, backward=launch, interpret=True
    )
    ours = functools.partial(pallas_gpu.block_sparse_attention, mask=mask, scale=0.3, **options)
    theirs = functools.partial(dense_attention, mask=mask, scale=0.3)
    with jax.enable_x64(True):
        inputs = arrays(np.random.default_rng(0), *lengths, *heads, *widths)
        run = quick.jit(lambda x: [results(attend, x) for attend in (ours, theirs)])
        assert_close(*run(inputs), 1e-12)


@pytest.mark.parametrize(
    ("mask", "through_lse"),
    [(Mask("late", 40), True), (Mask("table", 50), False)],
    ids=["y and lse", "y alone"],
)
def test_tpu_kernels_have_the_numbers_and_gradients_of_the_definition(mask, through_lse):
    inputs = arrays(np.random.default_rng(0), 130, 200, 4, 2)
    inputs = [array.astype(np.float32) for array in inputs]
    options = {"block_q": 128, "block_k": 128, "interpret": True}
    ours = functools.partial(pallas_tpu.block_sparse_attention, mask=mask, scale=0.3, **options)
    theirs = functools.partial(dense_attention, mask=mask, scale=0.3)
    run = quick.jit(lambda x: [results(attend, x, through_lse) for attend in (ours, theirs)])
    assert_close(*run(inputs), 1e-5)


def rounded(rng, *shape, **options):
    """Arrays of bfloat16, and the same numbers in float32."""
    narrow = [jnp.asarray(array, jnp.bfloat16) for array in arrays(rng, *shape, **options)]
    return narrow, [array.astype(jnp.float32) for array in narrow]


def test_bfloat16_is_summed_in_float32():
    narrow, wide = rounded(np.random.default_rng(0), 70, 70)
    options = {"mask": Mask("window", 30), "scale": 0.3}
    ours = functools.partial(
        pallas_gpu.block_sparse_attention, block_k=32, interpret=True, **options
    )
    theirs = functools.partial(dense_attention, **options)
    ours, theirs = quick.jit(lambda x, y: (results(ours, x), results(theirs, y)))(narrow, wide)
    assert [array.dtype for array in ours] == [jnp.bfloat16, jnp.float32, *[jnp.bfloat16] * 3]
    assert_close(ours, theirs, 2e-2)
    np.testing.assert_allclose(ours[1], theirs[1], 1e-5, 1e-5)


def test_what_flows_into_the_lse_of_a_query_that_sees_nothing_is_dropped():
    inputs = arrays(np.random.default_rng(0), 20, 20)
    options = {"mask": Mask("late", 10), "scale": 0.3, "interpret": True}

    def loss(*inputs):
        return jnp.sum(jnp.square(pallas_gpu.block_sparse_attention(*inputs, **options)[1]))

    for gradient in quick.jit(jax.grad(loss, (0, 1, 2)))(*inputs):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["causal", "table"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_kernels_lower_for(platform, kind):
    """Values and gradients: shapes and operations that the platform takes, not its memory."""
    attend = functools.partial(PLATFORMS[platform], mask=Mask(kind, 50), scale=0.125)
    shapes = [(2, 300, 6, 96), (2, 500, 2, 96), (2, 500, 2, 80)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    traced = jax.jit(lambda *inputs: results(attend, inputs)).trace(*inputs)
    try:
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
    except RuntimeError as error:
        if "No supported GPU devices" not in str(error):
            raise
        pytest.skip("from JAX 0.11.1 on, Triton kernels are lowered where there is a GPU alone")
    assert ("tpu_custom_call" if platform == "tpu" else "triton") in lowered


@pytest.mark.parametrize("kind", ["full", "causal", "frame causal", "window", "late", "table"])
def test_block_sparse_attention_on_an_accelerator(kind):
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in PLATFORMS:
        pytest.skip("no accelerator")
    narrow, wide = rounded(np.random.default_rng(0), 1000, 1500, 8, 2, 64, 80, batch=2)
    options = {"mask": Mask(kind, 200), "scale": 0.125}
    ours = functools.partial(PLATFORMS[platform], **options)
    theirs = functools.partial(dense_attention, **options)
    with jax.default_matmul_precision("highest"):
        theirs = jax.jit(lambda x: results(theirs, x))(wide)
    assert_close(jax.jit(lambda x: results(ours, x))(narrow), theirs, 3e-2)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"q": (1, 4, 2)}, "q"),
        ({"q": (1, 0, 2, 8)}, "q"),
        ({"k": (2, 4, 1, 8)}, "k"),
        ({"k": (1, 4, 1, 9)}, "k"),
        ({"q": (1, 4, 3, 8), "k": (1, 4, 2, 8), "v": (1, 4, 2, 8)}, "k"),
        ({"v": (1, 5, 1, 8)}, "v"),
        ({"block_q": 24}, "block_q"),
        ({"block_k": 8}, "block_k"),
        ({"forward": pallas_gpu.Launch(12, 4, 2)}, "forward"),
        ({"backward": pallas_gpu.Launch(12, 4, 2)}, "backward"),
    ],
)
def test_what_does_not_fit_is_named(arguments, name):
    shapes = {"q": (1, 4, 2, 8), "k": (1, 4, 1, 8), "v": (1, 4, 1, 8), **arguments}
    inputs = {k: np.zeros(v) if k in ("q", "k", "v") else v for k, v in shapes.items()}
    with pytest.raises(ValueError, match=f"^{name}:"):
        pallas_gpu.block_sparse_attention(**inputs, mask=Mask("causal"), scale=1.0)


def test_a_tpu_block_of_no_whole_lanes_is_named():
    inputs = [np.zeros((1, 4, 1, 8), np.float32)] * 3
    with pytest.raises(ValueError, match=r"^block_k: 64"):
        pallas_tpu.block_sparse_attention(*inputs, Mask("causal"), scale=1.0, block_k=64)
