"""Gates, recurrence and attention as parts: a forecaster's mixers keep their contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.layers.gates import Gate
from stjax.layers.recurrent import GRU, LSTM, RHN
from stjax.models.series.hybrid import CELLS, MIXERS, Hybrid
from stjax.ops.gates import LOGITS, join
from stjax.ops.relative_positions import lag_bias
from tests import quick


def drawn(module, *args):
    """Variables of a size at which every part shows."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    draw = lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)
    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize("kind", LOGITS)
def test_a_gate_keeps_and_writes(kind):
    rng = np.random.default_rng(0)
    carried, new = rng.normal(size=(2, 3, 4))
    logits = rng.normal(size=(3, 4 * LOGITS[kind]))
    share = 1 / (1 + np.exp(-logits[:, :4]))
    keep, write = {
        "additive": lambda: (1, 1),
        "rate": lambda: (1, logits),
        "leaky": lambda: (1 - share, share),
        "input": lambda: (1, share),
        "coupled": lambda: (1 - share, share),
        "uncoupled": lambda: (1 / (1 + np.exp(-logits[:, 4:])), share),
    }[kind]()
    ours = join(kind, carried, new, logits if LOGITS[kind] else None)
    np.testing.assert_allclose(ours, keep * carried + write * new, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LOGITS)
def test_a_joint_starts_at_what_it_carries(kind):
    x, f = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    gate = Gate(kind)
    y = gate.apply(gate.init(jax.random.key(0), x, f), x, f)
    assert y.shape == x.shape
    if kind == "rate":
        np.testing.assert_array_equal(y, x)
    if kind in ("leaky", "coupled"):
        assert abs(y - x).mean() < 0.3 * abs(f - x).mean()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(("none", np.zeros(3), np.zeros(3)), "kind"),
     (("coupled", np.zeros(3), np.zeros(3)), "logits"),
     (("uncoupled", np.zeros(3), np.zeros(3), np.zeros(3)), "logits")],
)  # fmt: skip
def test_gates_refuse(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        join(*arguments)


def test_a_bias_of_lags():
    table = np.arange(6.0).reshape(3, 2)
    bias = lag_bias(table, np.arange(2, 4), np.arange(5))
    # Lags 2, 1, 0 and then later keys; and one of lag 3, past the table.
    np.testing.assert_array_equal(bias[0], [[4, 2, 0, 0, 0], [4, 4, 2, 0, 0]])
    np.testing.assert_array_equal(bias[1], [[5, 3, 1, 1, 1], [5, 5, 3, 1, 1]])


@pytest.mark.parametrize("mixer", MIXERS)
def test_whole_in_chunks_and_step_by_step(mixer):
    """Attention, where there is any, looks back less far than the series is long."""
    window = 5 if mixer in CELLS else 0
    model = Hybrid(8, 1, mixer, "rate", window, heads=2, context=8, tokens=3)
    series = jnp.asarray(np.random.default_rng(1).normal(size=(2, 17, 3)), jnp.float32)
    variables = quick.variables(model, series)
    # Segments of four: a chunk that begins and ends within one. Others count from no grid.
    chunks = [slice(3), slice(3, 12)] if mixer in ("segments", "tokens") else [slice(12)]

    def both(variables, series):
        whole, _ = model.apply(variables, series)
        state, parts = None, []
        for chunk in chunks:
            y, state = model.apply(variables, series[:, chunk], state)
            parts.append(y)

        def step(state, now):
            y, state = model.apply(variables, now[:, None], state)
            return state, y[:, 0]

        _, rest = jax.lax.scan(step, state, jnp.moveaxis(series[:, 12:], 1, 0))
        return whole, jnp.concatenate([*parts, jnp.moveaxis(rest, 0, 1)], 1)

    whole, parts = quick.jit(both)(variables, series)
    np.testing.assert_allclose(parts, whole, atol=2e-5 * float(abs(whole).max()))


@pytest.mark.parametrize("mixer", ["segments", "tokens"])
def test_what_a_segment_before_gives(mixer):
    """Its numbers reach the next segment; by Transformer-XL's memory no gradient comes back."""
    model = Hybrid(8, 1, mixer, "additive", 0, heads=2, context=8, tokens=3)
    series = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 3)), jnp.float32)
    variables = drawn(model, series)
    last = lambda series: model.apply(variables, series)[0][0, -1].sum()
    pair = jnp.stack([series, series.at[0, 1].add(1.0)])
    values, gradients = quick.jit(jax.vmap(jax.value_and_grad(last)))(pair)
    assert abs(values[1] - values[0]) > 1e-4
    gradient = gradients[0]
    before, own = np.abs(gradient[0, :4]).max(), np.abs(gradient[0, 4:]).max()
    assert own > 1e-4
    assert (before == 0) == (mixer == "segments")


@pytest.mark.parametrize("gate", LOGITS)
def test_cells_take_every_gate(gate):
    x = jnp.ones((2, 3, 4))
    for cell in (LSTM, GRU, RHN):
        y, _ = jax.eval_shape(lambda x, c=cell: c(5, gate).init_with_output(
            jax.random.key(0), x)[0], x)
        assert y.shape == (2, 3, 5)


def test_an_lstm_without_a_gate_adds_up():
    """With "additive" the cell is the sum of all candidates."""
    cell, x = LSTM(4, "additive"), jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 3)))
    variables = drawn(cell, x)
    params = variables["params"] | {"hidden": jnp.zeros((4, 8))}
    _, (total, _) = cell.apply({"params": params}, x)
    new = jnp.tanh((x @ params["input"] + params["bias"])[..., :4])
    np.testing.assert_allclose(total, new.sum(1), rtol=1e-5)


def test_dropout_of_a_highway_is_one_mask_for_all_steps():
    cell, x = RHN(4, dropout=0.5), jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 3)))
    variables = drawn(cell, x)
    masks = 2.0 * np.array([[[k >> i & 1 for i in range(4)]] for k in range(16)])

    def run(variables, x):
        drawn = cell.apply(variables, x, train=True, rngs={"dropout": jax.random.key(3)})[0]
        return drawn, jax.vmap(lambda mask: cell.apply(variables, x, mask=mask)[0])(masks)

    drawn_y, masked = quick.jit(run)(variables, x)
    assert (abs(masked - drawn_y).max((1, 2, 3)) < 1e-6).sum() == 1


@pytest.mark.parametrize(
    ("fields", "name"), [({"mixer": "mean"}, "mixer"), ({"joint": "sum"}, "kind")]
)
def test_a_forecaster_refuses(fields, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        jax.eval_shape(Hybrid(**{"features": 8, "heads": 2, **fields}).init, jax.random.key(0),
                       jnp.zeros((1, 4, 3)))


def test_half_precision():
    model = Hybrid(8, 1, "gru", "rate", 4, heads=2, dtype=jnp.bfloat16)
    series = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, 3)), jnp.float32)
    variables = quick.variables(model, series)
    ours, _ = quick.jit(model.apply)(variables, series)
    whole, _ = quick.jit(model.clone(dtype=None).apply)(variables, series)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(np.float32), whole, atol=0.05 * abs(whole).max())
