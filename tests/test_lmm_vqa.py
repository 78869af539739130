"""LMM-VQA beyond its golden files: two-branch attention, the splice, what is trained, answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lmm_vqa as configs
from experiments.lmm_vqa import experiment
from stjax.data import pipeline
from stjax.models.backbones.llama import IMAGE, PAD, TEXT, Decoder
from stjax.models.language.lmm_vqa import aligned, mmca, splice
from stjax.ops.attention import Causal
from stjax.train.config import override
from tests import quick

TINY = {
    "data.size": "8", "data.seconds": "2", "data.frames": "4", "clip.patch": "4",
    "clip.width": "8", "clip.depth": "1", "clip.heads": "2", "clip.hidden": "8",
    "slowfast.depths": "(1,)", "slowfast.width": "4", "model.width": "8", "language.depth": "1",
    "language.heads": "2", "language.kv_heads": "1", "language.hidden": "8", "train.batch": "2",
    "run.mesh.data": "1",
}
KINDS = np.array([[TEXT, IMAGE, IMAGE, TEXT, TEXT]])


def built(**fields):
    made = experiment(override(configs.get_config("tiny"), TINY | fields))
    return made, next(pipeline(made.data.train, 2))


def sines(*steps, shape=(1, 5, 1, 4)):
    return [np.sin(step * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
            for step in steps]


def test_two_softmaxes_are_added():
    """The dossier's numbers of the published code."""
    q, k, v = sines(0.3, 0.5, 0.9)
    run = lambda **options: quick.jit(functools.partial(mmca, mask=Causal(), **options))
    leaking = run(leak=True)(q, k, v, kinds=KINDS)
    wanted = [0.4772567, 0.7646391, 0.4733578, -0.1761512]
    np.testing.assert_allclose(leaking[0, 4, 0], wanted, atol=1e-6)
    evenly = v[0, 0, 0] + v[0, :3, 0].mean(0)
    np.testing.assert_allclose(leaking[0, 0, 0], evenly, atol=1e-6)
    tight = run()(q, k, v, kinds=KINDS)
    np.testing.assert_allclose(tight[0, 0, 0], v[0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(tight[0, 1:], leaking[0, 1:], atol=1e-6)
    # Two images see the same text and themselves, not each other.
    np.testing.assert_allclose(tight[0, 2, 0], v[0, 2, 0] + v[0, 0, 0], atol=1e-6)


def test_a_stream_of_two_branches_gives_the_same_as_whole():
    model = Decoder(2, 2, 1, 8, 6, attend=mmca)
    (x,) = sines(0.7, shape=(1, 6, 8))
    kinds = jnp.array([[PAD, TEXT, IMAGE, IMAGE, TEXT, TEXT]])
    variables = quick.variables(model, x, None, kinds)

    @quick.jit
    def run(x):
        whole, _ = model.apply(variables, x, None, kinds)
        first, state = model.apply(variables, x[:, :4], None, kinds[:, :4])
        parts = [first]
        for k in (4, 5):
            y, state = model.apply(variables, x[:, k : k + 1], state, kinds[:, k : k + 1])
            parts.append(y)
        return whole, jnp.concatenate(parts, 1)

    np.testing.assert_allclose(*run(x), rtol=1e-5, atol=1e-5)


def test_visual_tokens_stand_where_the_image_token_stood():
    ids = np.array([[0, 5, 1, 6], [5, 6, 7, 1]])
    visual = np.array([[[-1.0], [-2.0]], [[-3.0], [-4.0]]])
    embedded = ids[..., None].astype(np.float32)
    tokens, kinds = splice(ids, embedded, visual, image_token=1, pad_token=0)
    np.testing.assert_array_equal(tokens[..., 0], [[0, 5, -1, -2, 6], [5, 6, 7, -3, -4]])
    np.testing.assert_array_equal(kinds, [[0, 1, 2, 2, 1], [1, 1, 1, 2, 2]])


def test_aligned_motion_is_a_mean_of_the_spatial_tokens():
    motion, features = sines(0.3, shape=(1, 2, 1, 4))[0], sines(0.5, shape=(1, 2, 3, 4))[0]
    logits = np.einsum("bsoc,bsnc->bsn", motion, features) / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = np.einsum("bsn,bsnc->bsc", weights, features)
    np.testing.assert_allclose(aligned(motion, features)[:, :, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 6),
        ({"model.aggregate": "interleave"}, 12),
        ({"model.branches": "('spatial',)"}, 5),
        ({"model.branches": "('motion',)"}, 1),
    ],
)
def test_tokens_of_a_video(fields, tokens):
    made, batch = built(**fields)
    task = made.task
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert set(variables["params"]) == set(task.model.parts)
    see = lambda variables: task.model.apply(variables, *task._seen(batch), method="see")
    assert jax.eval_shape(see, variables).shape == (2, tokens, 8)


def test_a_step_trains_adapters_and_what_is_not_frozen():
    frozen = ("clip", "slowfast", "language", "head")
    fields = {"model.frozen": str(frozen), "model.regresses": "False", "lora.rank": "2"}
    made, batch = built(**fields)
    task = made.task
    (phase,) = task.phases
    assert set(phase.trains) == {"motion_projector", "projector", "embedding", "lora"}
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert set(shapes["params"]) == {*frozen, *phase.trains}
    ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    merged = task._whole(ones)["params"]
    assert "lora" not in merged
    # Every kernel of the language model has an adapter; nothing else changes.
    for path, leaf in jax.tree_util.tree_leaves_with_path(merged):
        changed = path[0].key == "language" and path[-1].key == "kernel"
        np.testing.assert_allclose(leaf, 1 + 16.0 * changed)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_networks_keep_their_running_statistics(frozen):
    made, batch = built(**{"model.frozen": "('slowfast',)" * frozen or "()"})
    model, inputs = made.task.model, made.task._seen(batch)
    shapes = jax.eval_shape(made.task.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    see = lambda: model.apply(variables, *inputs, method="see", train=True, mutable="batch_stats")
    after = quick.jit(lambda: see()[1])()["batch_stats"]
    same = jax.tree.map(np.array_equal, variables["batch_stats"], jax.device_get(after))
    assert all(jax.tree.leaves(same)) == frozen


def test_answers_are_those_of_the_whole_model():
    """Greedy decoding with a cache says what the whole pass finds likeliest, told the same.

    And the loss is that of the true answers, their padding left out.
    """
    made, batch = built(**{"model.frozen": "('slowfast',)", "model.regresses": "False"})
    task = made.task
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.uniform(-0.5, 0.7, x.shape).astype(x.dtype), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])

    @quick.jit
    def run(variables):
        said = task.predict(variables, batch, jax.random.key(0))
        said = jnp.stack([said["score"], said["level"]], 1)
        whole = lambda answers: task.model.apply(
            variables, *task._seen(batch), batch["prompts"], answers
        )[0]
        loss, _ = task.loss(variables, batch, jax.random.key(0), 0)
        return said, jnp.argmax(whole(said), -1), whole(batch["answers"]), loss

    said, likeliest, logits, loss = run(variables)
    ended = np.cumsum(said == task.tokenizer.end, -1) - (said == task.tokenizer.end) > 0
    np.testing.assert_array_equal(np.where(ended, 0, said), np.where(ended, 0, likeliest))
    losses = -np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), batch["answers"][..., None], -1
    )[..., 0]
    np.testing.assert_allclose(loss, losses[batch["answers"] > 0].mean(), rtol=1e-4)


def test_a_whole_set_is_summed_up_and_drawn():
    made, batch = built()
    task, tokens = made.task, made.task.tokenizer
    padded = lambda text: np.pad([*tokens.encode(text), tokens.end], (0, 8))[:8]
    texts = {"score": ("10.5", "poor"), "level": ("poor", "good")}
    said = {name: np.stack([padded(text) for text in both]) for name, both in texts.items()}
    samples = {"mos": np.array([10.5, 80.0]), **said}
    report = task.summarise(samples)
    assert (round(report["srcc"], 6), report["l1"], report["level_error"]) == (1, 10, 0)
    number = {"mos": samples["mos"], "number": np.array([80.0, 10.5])}
    report = task.summarise(number)
    assert (round(report["srcc"], 6), report["level_error"]) == (-1, 1)
    drawn = task.render(said, batch)
    assert drawn["answers"].shape[2] == drawn["scatter"].shape[2] == 3
    trivial = task.trivial(task.summary(batch), batch)
    assert all(np.all(np.isfinite(x["number"])) for x in trivial.values())


def test_parts_at_paper_scale():
    offline = {"data.source": "made", "data.tokenizer": "words"}
    config = override(configs.get_config("paper"), offline)
    task = (made := experiment(config)).task
    batch = {name: np.asarray(x)[None] for name, x in made.data.train.spec.items()}
    params = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    sizes = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in params.items()}
    assert sizes == configs.FACTS["parameters_of"]
    (phase,) = task.phases
    assert set(phase.trains) == {"projector", "motion_projector", "embedding"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.aggregate": "sum"}, "^aggregate: 'sum' is none of"),
        ({"model.branches": "('sound',)"}, "^branches: .'sound',. are none of"),
        ({"model.vocabulary": "5"}, "^model.vocabulary: 5, and .* tokens"),
        ({"language.capacity": "50"}, "^x: .*more tokens than the context of 50"),
    ],
)
def test_errors(fields, message):
    def start():
        made, batch = built(**fields)
        jax.eval_shape(made.task.init, jax.random.key(0), batch)

    with pytest.raises(ValueError, match=message):
        start()


def test_a_context_that_holds_no_answer_is_refused():
    made, batch = built(**{"language.capacity": "52"})
    shorter = {**batch, "answers": batch["answers"][..., :4]}
    variables = jax.eval_shape(made.task.init, jax.random.key(0), shorter)
    message = r"^batch\['prompts'\] .*56 in all, where the context is 52"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(made.task.predict, variables, batch, jax.random.key(0))
    short = {**batch, "clips": batch["clips"][:, :1]}
    with pytest.raises(ValueError, match=r"^batch\['frames'\]"):
        jax.eval_shape(made.task.predict, variables, short, jax.random.key(0))
