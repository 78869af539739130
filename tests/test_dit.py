"""Diffusion transformers' layers, and VDT, beyond what golden files hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.vdt import FACTS, VARIANTS
from stjax.layers import dit
from stjax.layers.space_time import Over
from stjax.models.generation.vdt import VDT, with_spatial
from stjax.ops.positions import sinusoidal_grid, timestep_code
from stjax.train import flops
from tests import quick

RNG = np.random.default_rng(0)
TINY = {"depth": 2, "dim": 8, "heads": 2, "mlp_ratio": 2}
CLIP = jnp.asarray(RNG.standard_normal((2, 3, 4, 6, 1)), jnp.float32)
TIMES = jnp.array([3, 900])


def small(model, *args):
    """Variables that do not drown the input in a constant."""
    return jax.tree.map(lambda leaf: leaf - 0.3, quick.variables(model, *args))


def apply(model, *args, variables=None, **options):
    variables = small(model, *args) if variables is None else variables
    return quick.jit(functools.partial(model.apply, **options))(variables, *args)


@pytest.mark.parametrize("size", list(VARIANTS))
def test_parameters_at_paper_scale(size):
    clip = jax.ShapeDtypeStruct((1, 16, 16, 16, 4), jnp.float32)
    times = jax.ShapeDtypeStruct((1,), jnp.int32)
    variables = jax.eval_shape(VDT(**VARIANTS[size]).init, jax.random.key(0), clip, times)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == FACTS["parameters_of"][size]


def test_codes_of_a_grid():
    """The dossier's values of the published tables: columns first."""
    table = sinusoidal_grid((2, 2), 8, order=(1, 0))
    row = [0.841471, 0.01, 0.540302, 0.99995, 0, 0, 1, 1]
    np.testing.assert_allclose(table[0, 1], row, atol=1e-6)
    np.testing.assert_array_equal(sinusoidal_grid((2, 2), 8), table.swapaxes(0, 1))
    assert sinusoidal_grid((2, 3, 4), 12).shape == (2, 3, 4, 12)
    code = timestep_code(jnp.array([10]), 8)[0]
    wanted = [-0.839072, 0.540302, 0.995004, 0.99995, -0.544021, 0.841471, 0.099833, 0.01]
    np.testing.assert_allclose(code, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: sinusoidal_grid((2, 2), 6), "features"),
        (lambda: sinusoidal_grid((2, 2), 8, order=(0, 2)), "order"),
        (lambda: timestep_code(TIMES, 7), "features"),
        (lambda: dit.self_attention(3, 8), "heads"),
        (lambda: Over("spacetime", dit.PlainNorm).init(jax.random.key(0), CLIP[..., 0]), "axes"),
        (lambda: VDT(**TINY).init(jax.random.key(0), CLIP[0], TIMES), "x"),
        (lambda: VDT(**TINY).init(jax.random.key(0), CLIP, TIMES, CLIP), "condition"),
        (
            lambda: VDT(**TINY, conditioning="cross").init(jax.random.key(0), CLIP, TIMES),
            "condition",
        ),
        (
            lambda: VDT(**TINY, conditioning="film").init(jax.random.key(0), CLIP, TIMES),
            "conditioning",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        make()


def test_a_block_starts_as_the_identity():
    x, c = RNG.standard_normal((2, 5, 8)), RNG.standard_normal((2, 3))
    block = dit.DiTBlock(heads=2)
    variables = quick.jit(block.init)(jax.random.key(0), x, c)
    np.testing.assert_array_equal(apply(block, x, c, variables=variables), np.float32(x))
    assert not np.allclose(apply(block, x, c), x, atol=0.01)


def test_blocks_take_other_attentions():
    """Attention over space sees a frame; with axes swapped, it is attention over time."""
    x, c = RNG.standard_normal((2, 3, 4, 8)), RNG.standard_normal((2, 3))
    of = lambda axes: dit.DiTBlock(2, attention=functools.partial(
        Over, axes, functools.partial(dit.self_attention, 2, 8)
    ))
    variables = small(of("space"), x, c)
    over = lambda axes, x: apply(of(axes), x, c, variables=variables)
    space, changed = over("space", x), x.copy()
    time = over("time", x.swapaxes(1, 2)).swapaxes(1, 2)
    np.testing.assert_allclose(space, time, atol=1e-5)
    changed[:, 0] *= np.linspace(-2, 2, 8)
    np.testing.assert_array_equal(over("space", changed)[:, 1:], space[:, 1:])
    assert not np.allclose(over("space-time", changed)[:, 1:], over("space-time", x)[:, 1:])


def test_labels_are_dropped_in_training_alone():
    table = dit.LabelEmbedding(classes=3, dim=2, dropout=0.5)
    labels = jnp.arange(200) % 3
    variables = quick.variables(table, labels)
    embedding = variables["params"]["table"]["embedding"]
    plain = apply(table, labels, variables=variables)
    np.testing.assert_array_equal(plain, embedding[labels])
    rngs = {"dropout": jax.random.key(0)}
    dropped = apply(table, labels, variables=variables, train=True, rngs=rngs)
    none = (dropped == embedding[3]).all(-1)
    assert 60 < none.sum() < 140
    np.testing.assert_array_equal(dropped[~none], plain[~none])


def test_the_model_predicts_nothing_at_first():
    model = VDT(**TINY)
    variables = quick.jit(model.init)(jax.random.key(0), CLIP, TIMES)
    assert not apply(model, CLIP, TIMES, variables=variables).any()


def test_frames_meet_in_temporal_attention_alone():
    changed = CLIP.at[:, 0].add(1)
    for temporal in (False, True):
        model = VDT(**TINY, temporal=temporal)
        variables = small(model, CLIP, TIMES)
        a, b = (apply(model, clip, TIMES, variables=variables)[:, 1:] for clip in (CLIP, changed))
        assert np.allclose(a, b, atol=1e-6) != temporal


@pytest.mark.parametrize("conditioning", ["adaln", "cross"])
def test_frames_beside_the_clip(conditioning):
    model = VDT(**TINY, conditioning=conditioning)
    given = CLIP[:, :2]
    variables = small(model, CLIP, TIMES, given)
    run = lambda given: apply(model, CLIP, TIMES, given, variables=variables)
    assert run(given).shape == (*CLIP.shape[:-1], 2)
    assert not np.allclose(run(given), run(given + 1))


def test_an_image_models_modules_go_into_a_video_model():
    video, image = (VDT(**TINY, temporal=temporal) for temporal in (True, False))
    of = lambda model, key: quick.jit(model.init)(jax.random.key(key), CLIP, TIMES)["params"]
    old, spatial = of(video, 0), of(image, 1)
    both = with_spatial(old, spatial)
    equal = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(both) == jax.tree.structure(old)
    equal(both["blocks"]["spatial"], spatial["blocks"]["spatial"])
    equal(both["blocks"]["temporal_fc"], old["blocks"]["temporal_fc"])


def test_remat_changes_nothing_but_memory():
    def gradient(remat):
        model = VDT(**TINY, remat=remat)
        loss = lambda variables: jnp.sum(jnp.square(model.apply(variables, CLIP, TIMES)))
        return quick.jit(jax.grad(loss))(quick.variables(model, CLIP, TIMES))

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, gradient(True), gradient(False))


def of_linear_maps(jaxpr):
    """The types of all matrices that something is multiplied with, within loops too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield from (x.aval.dtype for x in equation.invars if x.aval.ndim == 2)
        for inner in flops._inner(equation.params):
            yield from of_linear_maps(inner)


def test_in_bfloat16_with_remat_a_program_is_as_long_for_any_depth():
    def program(depth):
        model = VDT(**{**TINY, "depth": depth}, remat=True, dtype=jnp.bfloat16)
        variables = jax.eval_shape(model.init, jax.random.key(0), CLIP, TIMES)

        def loss(variables):
            return model.apply(variables, CLIP, TIMES).astype(jnp.float32).sum()

        assert jax.eval_shape(model.apply, variables, CLIP, TIMES).dtype == jnp.bfloat16
        return jax.make_jaxpr(jax.value_and_grad(loss))(variables)

    short, long = program(4), program(24)
    assert str(short).count("\n") == str(long).count("\n")
    maps = list(of_linear_maps(long.jaxpr))
    assert len(maps) > 10
    assert set(maps) == {jnp.dtype(jnp.bfloat16)}

    model = VDT(**TINY, remat=True, dtype=jnp.bfloat16)
    variables = small(model, CLIP, TIMES)
    exact = apply(model.clone(dtype=None), CLIP, TIMES, variables=variables)
    ours = np.float32(apply(model, CLIP, TIMES, variables=variables))
    assert np.abs(ours - exact).max() < 0.05 * np.abs(exact).max()
