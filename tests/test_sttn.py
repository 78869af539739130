"""STTN beyond what the golden files hold: sizes, options, training mode, what it can learn."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sttn as config
from experiments.sttn import experiment
from stjax.convert import sttn as convert
from stjax.data import traffic
from stjax.models.series.sttn import OPTIONS, STTN, VARIANTS, weight_penalty
from stjax.ops.graph import chebyshev, scaled_laplacian
from stjax.train import cli
from tests import quick

RING = np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)
TINY = {"horizon": 3, "features": 8, "heads": 2}
SERIES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 5, 1)), jnp.float32)


def parameters(model, nodes):
    series = jax.ShapeDtypeStruct((1, 12, nodes, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), series)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("code", "nodes"), config.FACTS["parameters_of"])
def test_parameters_of_the_published_codes(code, nodes):
    ring = np.roll(np.eye(nodes), 1, 0) + np.roll(np.eye(nodes), -1, 0)
    if code == "official":
        kernel = chebyshev(scaled_laplacian(ring), 3).transpose(1, 0, 2).reshape(nodes, -1)
        arguments = {"n_route": nodes, "Ks": 3, "blocks": [[64, 64]]}
        model = convert.official_module(arguments, kernel)
    else:
        arguments = {
            "embed_dim": 64, "num_layers": 3, "num_heads": 2, "TG_in_one_day": 288,
            "forward_expansion": 4, "output_window": 12, "output_dim": 1,
        }  # fmt: skip
        model = convert.module(arguments, ring)
    assert parameters(model, nodes) == config.FACTS["parameters_of"][code, nodes]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_give_the_steps_that_they_say(variant):
    model = STTN(RING, **{**TINY, **VARIANTS[variant]}, dtype=jnp.bfloat16)
    y = jax.eval_shape(model.init_with_output, jax.random.key(0), SERIES)[0]
    assert y.shape == (2, 1 if variant == "official" else 3, 5, 1)
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, known in OPTIONS.items() for value in known],
)
def test_every_option_can_be_had_by_itself(field, value):
    model = STTN(RING, **TINY, blocks=2, **{field: value})
    y = jax.eval_shape(model.init_with_output, jax.random.key(0), SERIES)[0]
    assert y.shape == (2, 1 if value == "one_step" else 3, 5, 1)


def test_tables_start_from_the_road_network_and_the_steps_themselves():
    model = STTN(RING, **TINY, blocks=2)
    init = lambda key: model.init(key, SERIES)["params"]["blocks"]
    params = quick.jit(init)(jax.random.key(0))
    np.testing.assert_array_equal(params["spatial_positions"]["sensors"], np.stack([RING] * 2))
    for half in ("spatial_positions", "temporal_positions"):
        np.testing.assert_array_equal(params[half]["steps"], np.stack([np.eye(6)] * 2))


def test_an_open_gate_lets_attention_through_and_a_shut_one_the_road_network():
    both = STTN(RING, **TINY)
    variables = quick.variables(both, SERIES)
    block = variables["params"]["blocks"]

    def gated(bias):
        gate = {**block["gate_fixed"], "bias": jnp.full((1, 8), bias)}
        params = {**variables["params"], "blocks": {**block, "gate_fixed": gate}}
        _, inner = both.apply({"params": params}, SERIES, mutable="intermediates")
        return inner["intermediates"]["blocks"]

    run = quick.jit(lambda: (gated(100.0), gated(-100.0)))
    open_, shut = run()
    np.testing.assert_allclose(open_["gated"][0], open_["dynamic"][0], rtol=1e-5)
    np.testing.assert_allclose(shut["gated"][0], shut["graph"][0], rtol=1e-5, atol=1e-6)


def test_fixed_graph_reaches_two_hops_and_attention_every_sensor():
    """Which sensors a forecast depends on, one block deep, on a ring of nine."""
    ring = np.roll(np.eye(9), 1, 0) + np.roll(np.eye(9), -1, 0)
    series = jnp.asarray(np.random.default_rng(1).standard_normal((1, 6, 9, 1)), jnp.float32)

    def reached(spatial):
        model = STTN(ring, **TINY, spatial=spatial)
        variables = quick.variables(model, series)
        forecast = lambda series: model.apply(variables, series)[0, :, 0].sum()
        return np.abs(quick.jit(jax.grad(forecast))(series)).sum((0, 1, 3)) > 1e-7

    assert reached("fixed").tolist() == [True] * 3 + [False] * 4 + [True] * 2
    assert reached("dynamic").all()


def test_training_is_random_and_prediction_is_not():
    model = STTN(RING, **TINY, dropout=0.5)
    variables = quick.variables(model, SERIES)

    def both(a, b):
        run = lambda key: model.apply(variables, SERIES, train=True, rngs={"dropout": key})
        return run(a), run(b), model.apply(variables, SERIES)

    first, second, _ = quick.jit(both)(jax.random.key(0), jax.random.key(1))
    assert not np.allclose(first, second)


def test_remat_changes_nothing_but_memory():
    def gradient(remat):
        model = STTN(RING, **TINY, remat=remat)
        loss = lambda variables: jnp.sum(jnp.square(model.apply(variables, SERIES)))
        return quick.jit(jax.grad(loss))(quick.variables(model, SERIES))

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, gradient(True), gradient(False))


def test_penalty_is_of_maps_outside_the_transformers():
    model = STTN(RING, **TINY)
    params = quick.variables(model, SERIES)["params"]
    inside = jax.tree.map(jnp.zeros_like, params["blocks"]["spatial_transformer"])
    without = {**params, "blocks": {**params["blocks"], "spatial_transformer": inside}}
    assert weight_penalty(params) == weight_penalty(without) > 0


def test_one_command_trains_rolls_out_and_reports(tmp_path, capsys):
    """The authors' network, which forecasts one step, on measured traffic's format."""
    speed, _ = traffic.made(4, 3, 24)
    np.savetxt(tmp_path / "V_4.csv", speed, "%.2f", ",")
    np.savetxt(tmp_path / "W_4.csv", 2000 * (1 - np.eye(4)), "%d", ",")
    fields = {
        "data.source": "pemsd7", "data.path": tmp_path, "data.nodes": 4, "data.split": "(1,1,1)",
        "data.minutes": 60, "data.context": 4, "data.horizon": 2, "model.variant": "official",
        "model.features": 8, "model.blocks": 1, "train.steps": 2, "train.batch": 4,
        "task.l2": 0.001, "run.eval_batch": 16, "run.mesh.data": 1,
    }  # fmt: skip
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    cli.main(experiment, config, ["train", f"--workdir={tmp_path / 'run'}", *arguments])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {"last_value", "historical_average"} <= set(report["trivial"])
    assert len(report["metrics"]["mae_by_step"]) == 2
    assert {path.split("-")[0] for path in report["pictures"]} == {"media/day", "media/horizon"}
    assert "of the best trivial predictor's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial": "both"}, "^spatial: 'both' is none of gate, sum, dynamic, fixed"),
        ({"heads": 3}, "^heads: 3 do not divide 8"),
        ({"adjacency": np.ones((4, 4))}, r"^series: .* instead of \(b, t, 4, f\)"),
        ({"positions": "query", "slots": 4}, "^slots: 4 for 6 steps"),
        ({"positions": "none", "embed": 4}, "^embed: 4 with 8 features"),
    ],
)
def test_errors(options, message):
    model = dataclasses.replace(STTN(RING, **TINY), **options)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), SERIES)
