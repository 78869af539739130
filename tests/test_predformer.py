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
# Encoder, layers, and the parameters of the official network.
PAPER = [
    (MNIST, ["full"], 24, 25_285_952),
    (MNIST, ["S-T", "T-S"], 12, 25_286_464),
    (MNIST, ["TS", "ST"], 12, 25_297_728),
    (MNIST, ["TST", "STS"], 8, 25_297_728),
    (MNIST, ["TSST", "STTS"], 6, 25_297_728),
    (HUMAN, ["full"], 12, 12_725_696),
    (HUMAN, ["S-T", "T-S"], 6, 12_726_208),
    (HUMAN, ["TS", "ST"], 6, 12_731_328),
    (HUMAN, ["TST", "STS"], 4, 12_731_328),
    (HUMAN, ["TSST", "STTS"], 3, 12_731_328),
    (TAXI, ["full"], 8, 8_434_976),
    (TAXI, ["S-T", "T-S"], 4, 8_435_488),
    (TAXI, ["TS", "ST"], 4, 8_438_560),
    (TAXI, ["TST", "STS"], 2, 6_333_216),
    (TAXI, ["TSST", "STTS"], 2, 8_438_560),
    (WEATHER, ["full"], 8, 5_272_848),
    (WEATHER, ["S-T", "T-S"], 4, 5_273_360),
    (WEATHER, ["TS", "ST"], 4, 5_276_432),
    (WEATHER, ["TST", "STS"], 2, 3_959_568),
    (WEATHER, ["TSST", "STTS"], 2, 5_276_432),
]


def init(model, video=VIDEO):
    return quick.jit(model.init)(jax.random.key(0), video)


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
    variables = init(right)
    run = lambda model: quick.jit(model.apply)(variables, VIDEO)
    a, b = run(right), run(published)
    assert not np.allclose(a, b)
    np.testing.assert_allclose(np.sort(a, axis=None), np.sort(b, axis=None), rtol=1e-5, atol=1e-6)


def test_remat_changes_nothing_but_memory():
    def gradient(model):
        loss = lambda variables: jnp.sum(jnp.square(model.apply(variables, VIDEO)))
        return quick.jit(jax.grad(loss))(variables)

    variables = init(PredFormer(**TINY))
    plain, again = (gradient(PredFormer(remat=remat, **TINY)) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, again)


@pytest.mark.parametrize(
    "options",
    [
        {"order": "ST", "drop_path": 0.5, "drop_path_rule": "linear", "dropout": 0.1},
        {"order": "T-S", "drop_path": 0.5, "attn_dropout": 0.1, "remat": True},
    ],
)
def test_training_is_random_and_prediction_is_not(options):
    model = PredFormer(**TINY, **options)
    variables = init(model)
    train = quick.jit(
        lambda key: model.apply(variables, VIDEO, train=True, rngs={"dropout": jax.random.key(key)})
    )
    assert np.allclose(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(*[quick.jit(model.apply)(variables, VIDEO) for _ in range(2)])


def test_options_of_the_paper():
    """A plain feed-forward map, a learned position code, a residual connection around layers."""
    model = PredFormer(order="TS", gate="mlp", position="learned", skip=True, **TINY)
    variables = init(model)
    assert variables["params"]["position"].shape == (3, 4, 8)
    blocks = variables["params"]["encoder"]["transformer_0"]["blocks"]
    assert set(blocks["feed_forward"]) == {"in", "out"}
    zeroed = jax.tree.map(jnp.zeros_like, variables["params"]["encoder"])
    variables = {"params": {**variables["params"], "encoder": zeroed}}
    # A layer of zeros is the identity only with the connection around it.
    apply = lambda model: model.apply(variables, VIDEO)
    assert np.ptp(apply(model)) > 0
    assert np.ptp(apply(model.clone(skip=False)) - variables["params"]["head"]["bias"][0]) > 0


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
