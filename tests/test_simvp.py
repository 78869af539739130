"""SimVP beyond what the golden files hold: sizes, training mode, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.models.prediction.simvp import SimVP, translator
from stjax.models.prediction.translators import SwinBlock
from stjax.train import flops
from tests import quick

# Data, (hid_S, hid_T, N_S, N_T), and the parameters of the official network.
PAPER = {
    "mmnist-L": ((10, 64, 64, 1), (128, 1024, 4, 24), 524_004_353),
    "taxibj": ((4, 32, 32, 2), (32, 256, 2, 8), 9_961_058),
    "weather": ((12, 32, 64, 1), (32, 256, 2, 8), 12_758_305),
    "kth": ((10, 128, 128, 1), (64, 256, 2, 6), 15_632_961),
    "kitticaltech": ((10, 128, 160, 3), (64, 256, 2, 6), 15_634_243),
    "human": ((4, 256, 256, 3), (64, 256, 4, 8), 11_327_235),
}


# Of OpenSTL's Moving MNIST configs: parameters, and multiply-adds of a clip in 1e9 as its benchmark
# has them (docs/en/model_zoos/video_benchmarks.md, to one digit).
TRANSLATORS = {
    "incepu": (57_946_113, 19.4),
    "gsta": (46_769_665, 16.5),
    "tau": (44_656_001, 16.0),
    "vit": (46_102_273, 16.9),
    "swin": (46_105_409, 16.4),
    "uniformer": (44_834_817, 16.5),
    "mlp": (38_192_449, 14.7),
    "convmixer": (3_919_361, 5.5),
    "poolformer": (37_115_393, 14.1),
    "convnext": (37_313_921, 14.1),
    "van": (44_520_833, 16.0),
    "hornet": (45_738_305, 16.3),
    "moga": (46_777_065, 16.5),
}
TAU = {
    "taxibj": 9_545_442,
    "weather": 12_219_553,
    "kth": 14_955_201,
    "kitticaltech": 14_956_483,
    "human": 10_866_435,
}
MMNIST, WIDTHS = (10, 64, 64, 1), (64, 512, 4, 8)


def simvp(hid_S, hid_T, N_S, N_T, name="gsta", **options):
    return SimVP(hid_S, N_S, translator(name, hid_T, N_T, **options))


def parameters(model, frame):
    video = jax.ShapeDtypeStruct((1, *frame), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(("frame", "widths", "official"), PAPER.values(), ids=PAPER)
def test_parameters_at_paper_scale(frame, widths, official):
    assert parameters(simvp(*widths), frame) == official


@pytest.mark.parametrize("data", TAU)
def test_parameters_of_tau_at_paper_scale(data):
    frame, widths, _ = PAPER[data]
    assert parameters(simvp(*widths, "tau"), frame) == TAU[data]


@pytest.mark.parametrize("name", TRANSLATORS)
def test_every_translator_at_paper_scale(name):
    """Parameters, costs, and that training in half precision gives what it should."""
    official, published = TRANSLATORS[name]
    model = SimVP(*WIDTHS[::2], translator(name, *WIDTHS[1::2], remat=True), dtype=jnp.bfloat16)
    video = jax.ShapeDtypeStruct((1, *MMNIST), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    train = lambda video: model.init_with_output(keys, video, train=True)
    frames, variables = jax.eval_shape(train, video)
    assert (frames.shape, frames.dtype) == (video.shape, jnp.bfloat16)
    parameters = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in parameters) == official
    assert {leaf.dtype for leaf in parameters} == {jnp.dtype("float32")}
    count = flops.count(model.apply, variables, video) / 2e9
    assert count == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("hid_S", "official"), [(64, 15_778_433), (16, 13_866_401)])
def test_parameters_of_the_first_simvp(hid_S, official):
    model = SimVP(hid_S, translator=translator("incepu", hid_T=256), version=1)
    assert parameters(model, MMNIST) == official


@pytest.mark.parametrize("cyclic", [False, True])
def test_shifted_windows_go_over_the_edge_only_if_asked_to(cyclic):
    """What a pixel in the corner of an 8 by 12 map is told by the opposite corner."""
    block = SwinBlock(cyclic=cyclic, mlp_ratio=1.0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 12, 8)), jnp.float32)
    variables = quick.variables(block, x)
    run = quick.jit(lambda x: block.apply(variables, x, layer=1))
    change = jnp.abs(run(x.at[0, -1, -1, 0].add(1.0)) - run(x))[0, 0, 0].max()
    assert (change > 1e-6) == cyclic


def test_training_moves_the_running_statistics_and_drops_paths():
    model = simvp(2, 4, 2, 3, mlp_ratio=1.0, kernel_size=9)
    video = jax.random.uniform(jax.random.key(0), (2, 2, 4, 6, 1))
    variables = quick.variables(model, video)
    variables["batch_stats"] = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    rngs = {"dropout": jax.random.key(2)}
    train = quick.jit(lambda v: model.apply(v, video, train=True, rngs=rngs, mutable="batch_stats"))
    frames, updates = train(variables)
    assert frames.shape == video.shape
    first = updates["batch_stats"]["translator"]["first"]["block"]["attention_norm"]
    assert np.all(np.asarray(first["mean"]) != 0)
    # Running statistics are a moving average that keeps 0.9 of the old.
    again = train({**variables, **updates})[1]["batch_stats"]["translator"]["first"]["block"]
    mean = again["attention_norm"]["mean"]
    np.testing.assert_allclose(mean, 1.9 * first["mean"], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: simvp(2, 4, 4, 2), "frames of 4 x 6 pixels do not divide by 4"),
        (lambda: simvp(2, 4, 1, 2), "N_S: 1"),
        (lambda: simvp(2, 4, 2, 1), "N_T: 1"),
        (lambda: simvp(2, 4, 2, 1, "incepu"), "N_T: 1"),
        (lambda: simvp(2, 4, 2, 2, "resnet"), "translator: 'resnet' is none of convmixer, "),
        (lambda: simvp(2, 4, 2, 2, "vit", kernel_size=9), "translator: 'vit' has no kernel_size"),
        *[
            (lambda name=name: simvp(2, 4, 2, 2, name), "channels: 4 do not divide by 8")
            for name in ("vit", "swin", "uniformer", "moga", "hornet")
        ],
        (lambda: simvp(2, 32, 2, 2, "incepu", groups=8), "features: 4 do not divide by 8"),
        (lambda: SimVP(2, 2, version=3), "version: 3"),
    ],
)
def test_errors(model, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        jax.eval_shape(model().init, jax.random.key(0), jnp.zeros((1, 2, 4, 6, 1)))
