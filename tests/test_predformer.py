"""PredFormer beyond what the golden files hold: sizes, options, training mode, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.models.prediction.predformer import OPTIONS, PredFormer
from tests import quick

TINY = {"layers": 2, "patch": 4, "dim": 8, "heads": 2, "head_dim": 4, "mlp_ratio": 2}
VIDEO = jnp.linspace(0, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8, 1)

MNIST = {"frame": (10, 64, 64, 1), "patch": 8}
HUMAN = {"frame": (4, 256, 256, 3), "patch": 8}
TAXI = {"frame": (4, 32, 32, 2), "patch": 4}
WEATHER = {"frame": (12, 32, 64, 1), "patch": 4, "mlp_ratio": 2}
# Encoders, layers, and the parameters of the official network.
PAPER = [
    (MNIST, ["full"], 24, 25_285_952),
    (MNIST, ["S-T", "T-S"], 12, 25_286_464),
    (MNIST, ["TS", "ST"], 12, 25_297_728),
    (MNIST, ["TST", "STS"], 8, 25_297_728),
    (MNIST, ["TSST", "STTS"], 6, 25_297_728),
    (HUMAN, ["full"], 12, 12_725_696),
    (HUMAN, ["S-T"], 6, 12_726_208),
    (HUMAN, ["TS"], 6, 12_731_328),
    (HUMAN, ["TST"], 4, 12_731_328),
    (HUMAN, ["TSST"], 3, 12_731_328),
    (TAXI, ["full"], 8, 8_434_976),
    (TAXI, ["T-S"], 4, 8_435_488),
    (TAXI, ["ST"], 4, 8_438_560),
    (TAXI, ["STS"], 2, 6_333_216),
    (TAXI, ["STTS"], 2, 8_438_560),
    (WEATHER, ["full"], 8, 5_272_848),
    (WEATHER, ["T-S"], 4, 5_273_360),
    (WEATHER, ["TS"], 4, 5_276_432),
    (WEATHER, ["TST"], 2, 3_959_568),
    (WEATHER, ["TSST"], 2, 5_276_432),
]


@pytest.mark.parametrize(("data", "orders", "layers", "official"), PAPER)
def test_parameters_at_paper_scale(data, orders, layers, official):
    options = {key: value for key, value in data.items() if key != "frame"}
    video = jax.ShapeDtypeStruct((1, *data["frame"]), jnp.float32)
    for order in orders:
        model = PredFormer(order=order, layers=layers, **options)
        variables = jax.eval_shape(model.init, jax.random.key(0), video)
        assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == official, order


def test_published_order_of_the_factorised_encoder_is_a_permutation_of_the_right_one():
    """Tokens (patch, frame) read as (frame, patch): the same values in other places."""
    right, published = (PredFormer(order="S-T", scramble=flag, **TINY) for flag in (False, True))
    variables = quick.variables(right, VIDEO)
    run = lambda model: quick.jit(model.apply)(variables, VIDEO)
    a, b = run(right), run(published)
    assert not np.allclose(a, b)
    np.testing.assert_allclose(np.sort(a, axis=None), np.sort(b, axis=None), rtol=1e-5, atol=1e-6)


def test_remat_changes_nothing_but_memory():
    def gradient(remat):
        model = PredFormer(order="T-S", remat=remat, **TINY)
        loss = lambda variables: jnp.sum(jnp.square(model.apply(variables, VIDEO)))
        return quick.jit(jax.grad(loss))(quick.variables(model, VIDEO))

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, gradient(True), gradient(False))


@pytest.mark.parametrize(
    "options",
    [
        {"order": "ST", "drop_path": 0.5, "drop_path_rule": "linear", "dropout": 0.1},
        {"order": "T-S", "drop_path": 0.5, "attn_dropout": 0.1, "remat": True},
    ],
)
def test_training_is_random_and_prediction_is_not(options):
    model = PredFormer(**TINY, **options)
    variables = quick.variables(model, VIDEO)
    train = quick.jit(
        lambda key: model.apply(variables, VIDEO, train=True, rngs={"dropout": jax.random.key(key)})
    )
    assert np.allclose(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    quick.jit(model.apply)(variables, VIDEO)  # asks for no random key


def test_options_of_the_paper():
    """A plain feed-forward map, a learned position code, a residual connection around layers."""
    model = PredFormer(order="S-T", gate="mlp", position="learned", skip=True, **TINY)
    params = quick.variables(model, VIDEO)["params"]
    assert params["position"].shape == (3, 4, 8)
    blocks = params["encoder"]["transformer_0"]["blocks"]
    assert set(blocks["feed_forward"]) == {"in", "out"}

    # A layer whose weights are all zero gives zeros, so that all patches come out alike; with the
    # connection around it, it gives its input.
    zeros = jax.tree.map(jnp.zeros_like, params["encoder"])
    run = lambda model: quick.jit(model.apply)({"params": {**params, "encoder": zeros}}, VIDEO)
    alike = lambda video: np.allclose(video[:, :, :4, :4], video[:, :, 4:, 4:])
    assert not alike(run(model))
    assert alike(run(model.clone(skip=False)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, "8 x 8 pixels do not divide in patches of 3"),
        ({"order": "TTS"}, "'TTS' is not one of " + ", ".join(OPTIONS["order"])),
        ({"gate": "relu"}, "gate 'relu' is not one of swiglu, mlp"),
        ({"scramble": True}, "scramble is for order 'S-T'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PredFormer(**{**TINY, **options}).init(jax.random.key(0), VIDEO)
