"""Where parameters and activations lie on simulated devices, and that it changes no number."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.layers.causal_transformer import CausalTransformer
from stjax.layers.convs5 import ConvS5
from stjax.layers.partitioning import recording
from stjax.layers.sequence import sequence_layers
from stjax.models.prediction.convs5 import MapSequence, PixelPredictor, VectorSequence
from stjax.models.prediction.predformer import PredFormer
from stjax.ops.s4 import fft_convolution
from stjax.ops.sharding import at_edge
from stjax.tasks.frame_prediction import FramePrediction
from stjax.train import hlo
from stjax.train import mesh as meshes
from stjax.train.optim import optimizer
from stjax.train.step import Stepper
from tests import quick, toy

WIDE = {"param_dtype": jnp.float64}
pixels = functools.partial(
    PixelPredictor, encoder_depths=(8,), decoder_depths=(8,), groups=4, **WIDE
)
MODELS = {
    "predformer": PredFormer(
        "TS", layers=2, patch=4, dim=16, heads=4, head_dim=4, mlp_ratio=2, **WIDE
    ),
    "transformer": pixels(
        functools.partial(
            VectorSequence,
            features=16,
            out=8,
            sequence=functools.partial(
                CausalTransformer, 16, depth=2, heads=4, mlp_features=32, capacity=8, **WIDE
            ),
            start=True,
            **WIDE,
        )
    ),
    "convs5": pixels(
        functools.partial(
            MapSequence,
            8,
            sequence_layers(functools.partial(ConvS5, 8, 16, groups=4, **WIDE), 2, **WIDE),
            **WIDE,
        )
    ),
}
# Of every model, what attends, and what has hidden units.
CUT = {
    "predformer": r"(attention|feed_forward).*kernel",
    "transformer": r"(attention|mlp_(in|out)).*kernel",
    "convs5": r"(into|out_of)_state|eigenvalues|read.*conv.*kernel|block_\d.*conv.*kernel",
}
BATCH = {"video": np.random.default_rng(0).random((8, 5, 8, 8, 1))}


def stepper(name, options=None, **shape):
    """The training step of a model on a mesh; with moments and a moving average."""
    task = FramePrediction(MODELS[name], context=2, horizon=3 if name == "convs5" else 2)
    made = optimizer(steps=4, **(options or {"schedule": "constant", "clip": 1.0}))
    one = {"video": BATCH["video"][:1]}
    return Stepper(task, made, meshes.make(shape), jax.random.key(0), one, ema=0.9)


def compiled(stepper):
    video = jnp.asarray(BATCH["video"])
    sharding = meshes.batch_sharding(stepper.mesh)
    batch = {"video": jax.ShapeDtypeStruct(video.shape, video.dtype, sharding=sharding)}
    step = stepper.jitted().lower(stepper.abstract_state, batch)
    return step.compile(compiler_options=quick.COMPILER_OPTIONS)


def drawn(stepper):
    """A state of the stepper's shapes, where it lies; compiles nothing."""
    rng = np.random.default_rng(0)
    draw = lambda x: rng.uniform(-0.5, 0.5, x.shape) if x.dtype == jnp.float64 else 0
    abstract = stepper.abstract_state
    host = jax.tree.map(lambda x: np.asarray(draw(x), x.dtype), abstract)
    # Second moments are squares, and the schedule is that of the first step.
    host = host.replace(opt_state=jax.tree.map(np.abs, host.opt_state))
    return jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), host, abstract)


def updated(name, **shape):
    """State and logs after one step on the mesh, in float64."""
    ours = stepper(name, **shape)
    batch = jax.device_put(BATCH, meshes.batch_sharding(ours.mesh))
    state, logs = compiled(ours)(drawn(ours), batch)
    for after, before in zip(jax.tree.leaves(state), jax.tree.leaves(ours.abstract_state)):
        assert after.sharding == before.sharding  # else the next step is compiled anew
    return jax.device_get((state, logs))


@functools.cache
def alone(name):
    return updated(name, data=1)


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(np.abs(b).max(), 1))


def leaves(tree, pattern):
    """Leaves by path."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [x for path, x in flat if re.search(pattern, jax.tree_util.keystr(path))]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(meshes, "SMALLEST_SHARDED", 1)
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", MODELS)
def test_tensor_cuts_heads_and_hidden_units_and_sends_activations_alone(name):
    ours = stepper(name, tensor=4)
    program = compiled(ours)
    where = program.input_shardings[0][0]
    state = ours.abstract_state
    found = leaves(state, CUT[name])
    # The parameters, their average and Adam's two moments.
    assert len(found) == 4 * len(leaves(state.params, CUT[name])) > 8
    for array, sharding in zip(found, leaves(where, CUT[name]), strict=True):
        assert math.prod(sharding.shard_shape(array.shape)) * 4 == array.size
    kinds = {one.kind for one in hlo.collectives(program.as_text())}
    assert kinds <= {"all-reduce", "all-gather"}
    gathered = re.findall(r"\w+\[([\d,]*)\]\S* all-gather(?:-start)?\(", program.as_text())
    # One device's map of vectors goes into the decoder whole.
    assert set(gathered) <= ({"8,3,8,8,8"} if name == "transformer" else set())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("predformer", {"tensor": 4}),
        ("predformer", {"data": 2, "fsdp": 2, "tensor": 2}),
        ("transformer", {"tensor": 4}),
        ("convs5", {"data": 2, "tensor": 2, "sequence": 2}),
    ],
)
def test_an_update_has_the_numbers_of_one_device(name, shape):
    assert_same(updated(name, **shape), alone(name))


def test_heads_that_tensor_does_not_divide_stay_whole():
    ours = stepper("predformer", tensor=8).abstract_state
    for array in leaves(ours, r"attention'\].*kernel"):
        assert array.sharding.shard_shape(array.shape) == array.shape
    for array in leaves(ours, r"feed_forward'\].*kernel"):
        assert math.prod(array.sharding.shard_shape(array.shape)) * 8 == array.size
    assert_same(updated("predformer", tensor=8), alone("predformer"))


def test_embed_goes_over_fsdp_beside_tensor():
    ours = stepper("predformer", fsdp=2, tensor=4).abstract_state
    (qkv, *_) = leaves(ours.params, "qkv.*kernel")
    assert qkv.sharding.shard_shape(qkv.shape)[-4:] == (16 // 2, 3, 4 // 4, 4)


def test_fsdp_divides_what_a_device_holds(monkeypatch):
    monkeypatch.undo()  # small arrays stay whole

    def held(fsdp):
        task = FramePrediction(PredFormer(), context=10, horizon=10)
        one = {"video": jnp.zeros((1, 20, 64, 64, 1))}
        mesh = meshes.make({"fsdp": fsdp})
        ours = Stepper(task, optimizer(steps=4), mesh, jax.random.key(0), one, ema=0.9)
        return sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in jax.tree.leaves(ours.abstract_state)
        )

    assert held(8) < held(1) / 7


@pytest.mark.parametrize(
    "options",
    [
        {"name": "adam"},
        {"name": "adamw", "weight_decay": 0.1},
        {"clip": 1.0},
        {"schedule": "one_cycle", "clip": 1.0},
    ],
)
def test_moments_lie_where_their_parameters_do(options):
    state = stepper("transformer", options, fsdp=2, tensor=4).abstract_state
    params = [x.sharding for x in jax.tree.leaves(state.params)]
    moments = [x.sharding for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert moments == 2 * params
    assert any("tensor" in x.spec for x in params)


def test_names_show_to_those_who_ask_alone():
    model, video = MODELS["predformer"], jax.ShapeDtypeStruct((1, 2, 8, 8, 1), jnp.float32)
    boxed = lambda x: isinstance(x, nn.Partitioned)
    shapes = lambda: jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(video.shape)))
    plain = shapes()
    with recording():
        named = shapes()
    assert not any(map(boxed, jax.tree.leaves(plain, is_leaf=boxed)))
    assert jax.tree.structure(shapes()) == jax.tree.structure(plain)
    assert jax.tree.structure(nn.unbox(named)) == jax.tree.structure(plain)
    names = [x.names for x in jax.tree.leaves(named, is_leaf=boxed) if boxed(x)]
    # The letters' transformers, stacked, lead and have no name.
    assert (None, None, "embed", None, "heads", None) in names


def test_names_are_read_under_any_mesh():
    with jax.set_mesh(meshes.make({"tensor": 4})):
        assert leaves(stepper("predformer", tensor=4).abstract_state, "qkv")


def test_an_axis_that_cuts_nothing_is_told():
    one = {name: x[None] for name, x in toy.Points(1)[0].items()}
    task = toy.Regression(nn.Dense(1))
    make = lambda **shape: Stepper(
        task, optimizer(steps=4), meshes.make(shape), jax.random.key(0), one
    )
    advice = lambda stepper: meshes.advice(stepper.mesh, stepper.abstract_state)
    assert advice(make(tensor=4)) == "run.mesh: tensor 4 cuts no parameter of this model"
    assert advice(make(data=4)) is None
    assert advice(stepper("predformer", tensor=4)) is None


def test_activations_at_an_edge_are_cut_by_the_batch_alone():
    mesh = meshes.make({"data": 4, "tensor": 2})

    def run(x):
        with meshes.ambient(mesh):
            return at_edge(2 * x)

    def shard(*shape):
        cut = jax.NamedSharding(mesh, jax.P(None, None, "tensor"))
        x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=cut)
        return jax.jit(run).lower(x).compile().output_shardings.shard_shape(shape)

    assert shard(8, 3, 4) == (2, 3, 4)
    assert shard(6, 3, 4) == (6, 3, 2)  # four devices do not divide six samples
    x = jnp.ones((8, 3, 4))
    assert at_edge(x) is x


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "data"), [(1, 1), (4, 1), (4, 2)])
def test_time_that_is_cut_takes_its_share_of_the_memory(batch, data):
    """A fourth on four devices, gradients aside: nothing of the clips is whole on a device."""
    from experiments import convs5
    from stjax.train.config import override
    from stjax.train.plan import plan

    def temporaries(ways):
        fields = {
            "data.size": "32", "data.digit_size": "14", "data.horizon": "4",
            "train.batch": str(batch), "run.mesh.data": str(data),
            "run.mesh.sequence": str(ways),
        }
        config = override(convs5.convs5.get_config("tiny"), fields)
        return plan(convs5.experiment(config)).temporary_bytes

    assert temporaries(4) < 0.3 * temporaries(1)


def test_fourier_transforms_leave_the_batch_where_it_is():
    mesh = meshes.make({"data": 2, "fsdp": 2})
    u, kernel = np.random.default_rng(0).random((8, 9, 2)), np.random.default_rng(1).random((2, 9))

    def gradients(u, kernel):
        return jax.grad(lambda *args: jnp.sum(fft_convolution(*args) ** 2), (0, 1))(u, kernel)

    def cut(*args):
        with meshes.ambient(mesh):
            return gradients(*args)

    args = jax.device_put((u, kernel), (meshes.batch_sharding(mesh), meshes.whole(mesh)))
    program = quick.jit(cut).lower(*args).compile()
    assert {one.kind for one in hlo.collectives(program.as_text())} == {"all-reduce"}
    assert_same(jax.device_get(program(*args)), quick.jit(gradients)(u, kernel))
