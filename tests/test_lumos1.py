"""Lumos-1, its tokenizer, masked discrete diffusion, and the loader of its token files."""

import itertools
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lumos1 as config
from stjax.data import video_tokens
from stjax.data.video_tokens import VideoTokens
from stjax.models.generation.cosmos_tokenizer import CosmosTokenizer
from stjax.models.generation.lumos1 import Lumos1, Vocabulary, mm_spectrum
from stjax.processes import masked_tokens as masked
from stjax.tasks.token_generation import TokenGeneration
from stjax.tasks.tokenizing import Tokenizing
from stjax.train import evaluate
from tests import quick

RNG = np.random.default_rng(0)
WORDS = Vocabulary(20, 6, 1, 2, 3, 4, 5, 8, 4)
MODEL = Lumos1(WORDS, 64, 1, 2, 1, 16, strides=(1, 4, 4))
TASK = TokenGeneration(
    MODEL, None, 1, 2, mask="tube", steps=3, guidance=2.0, sharpness=float("inf")
)


def drawn(tokens, layout):
    """Variables of the model, drawn without compiling its initialisation."""
    shapes = jax.eval_shape(lambda tokens: MODEL.init(jax.random.key(0), tokens, layout), tokens)
    draw = lambda leaf: jnp.asarray(0.3 * RNG.standard_normal(leaf.shape), leaf.dtype)
    return jax.tree.map(draw, shapes)


def codes_of(*shape):
    return jnp.asarray(RNG.integers(6, size=shape))


def test_a_sequence_whole_and_frame_by_frame():
    """The cache holds what the next frame needs; each frame sees all of itself."""
    layout = MODEL.layout(3, 3, 2, 2)
    hidden = jnp.asarray(RNG.random((2, 3, layout.content)) < 0.5)
    frames = MODEL.write(codes_of(2, 3, 2, 2), hidden).reshape(2, -1)
    tokens = jnp.concatenate([jnp.asarray(RNG.integers(9, 20, (2, 3))), frames], 1)
    variables = drawn(tokens, layout)
    read = quick.jit(lambda tokens, state: MODEL.apply(variables, tokens, layout, state))
    whole, _, last = read(tokens, None)
    y, _, state = read(tokens[:, : 3 + layout.frame], None)
    parts = [y]
    for start in range(3 + layout.frame, layout.length, layout.frame):
        y, _, state = read(tokens[:, start : start + layout.frame], state)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, 1e-4, 1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-4), state, last)
    changed, *_ = read(tokens.at[:, -3].add(1), None)
    moved = np.abs(changed - whole).max((0, 2)) > 1e-6
    np.testing.assert_array_equal(moved, np.arange(layout.length) >= layout.length - layout.frame)


def test_what_fills_up_a_text_changes_nothing():
    frames = MODEL.write(codes_of(1, 2, 2, 2), jnp.zeros((1, 1, 6), bool)).reshape(1, -1)
    text = jnp.asarray(RNG.integers(9, 20, (1, 4)))
    short, long = MODEL.layout(4, 2, 2, 2), MODEL.layout(7, 2, 2, 2)
    variables = drawn(frames, short)
    read = lambda *parts, layout, begin: quick.jit(
        lambda tokens: MODEL.apply(variables, tokens, layout, begin=begin)[0]
    )(jnp.concatenate(parts, 1))
    plain = read(text, frames, layout=short, begin=None)
    filled = read(jnp.full((1, 3), 9), text, frames, layout=long, begin=jnp.array([3]))
    np.testing.assert_allclose(filled[:, 3:], plain, 1e-4, 1e-4)


def test_heads_are_whole_groups_of_channels():
    with pytest.raises(ValueError, match=r"^head_dim: 24"):
        mm_spectrum(24, 1e4)


@pytest.mark.parametrize("variant", config.VARIANTS)
def test_published_numbers_of_parameters(variant):
    model = Lumos1(**config.VARIANTS[variant])
    tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32)
    shapes = jax.eval_shape(
        lambda tokens: model.init(jax.random.key(0), tokens, model.layout(3, 0, 1, 1)), tokens
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == config.FACTS["parameters_of"][variant]


def test_the_tokenizer_has_the_published_parameters_that_are_read():
    clip = jax.ShapeDtypeStruct((1, 5, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(CosmosTokenizer().init, jax.random.key(0), clip)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # The official resampling convolutions that nothing reads: over time where only pixels are
    # halved, and all three of the levels that halve nothing.
    over = lambda taps, width: taps * width**2 + width
    encoder = over(3, 256) + over(9, 512) + over(3, 512) + over(1, 512)
    decoder = over(3, 512) + over(3, 512) + over(9, 512) + over(1, 512)
    unread = encoder + decoder
    assert count + unread == config.FACTS["parameters_of_tokenizer"]


def test_codes_of_a_clip_begin_with_those_of_its_beginning():
    tokenizer = CosmosTokenizer(
        channels=1, features=4, multipliers=(1, 1), blocks=0, patch=2, time=2, space=4,
        latents=3, scalars=(3, 2),
    )
    clip = jnp.asarray(RNG.standard_normal((1, 5, 8, 8, 1)), jnp.float32)
    variables = quick.variables(tokenizer, clip)
    encode = quick.jit(lambda clip: tokenizer.apply(variables, clip, method="encode"))
    codes = encode(clip)
    assert codes.shape == (1, *tokenizer.grid(5, 8, 8)) == (1, 3, 2, 2)
    np.testing.assert_array_equal(encode(clip[:, :3]), codes[:, :2])
    with pytest.raises(ValueError, match=r"^video: 4 frames"):
        encode(clip[:, :4])


def test_masks_of_training_and_of_history():
    rate = jnp.array([0.001, 0.5, 1.0])
    hidden = masked.tube_mask(rate, jnp.asarray(RNG.random((3, 20))))
    np.testing.assert_array_equal(hidden.sum(1), [1, 10, 20])
    assert masked.masking_rate(jnp.array([0.0, 0.9]), 0.7).tolist() == pytest.approx([1, 0.7])
    pattern = masked.history_pattern(20, 0.3)
    assert set(np.diff(np.flatnonzero(pattern))) == {3, 4}
    assert masked.history_pattern(4, 0.0).sum() == 1


def test_noise_falls_to_nothing_in_the_last_step():
    np.testing.assert_allclose(masked.annealed(2, 4), [1.5, 1, 0.5, 0])
    np.testing.assert_allclose(masked.compounded(2, 4), [1.5, 0.75, 0.1875, 0])


def test_codes_are_drawn_a_few_at_a_time_the_surest_first():
    given = jnp.asarray(RNG.standard_normal((2, 12, 5)), jnp.float32) * 3
    seen = []

    def logits(codes):
        jax.debug.callback(lambda codes: seen.append(np.array(codes)), codes)
        return given

    codes = masked.unmask(
        logits, (2, 12), masked.annealed(0.0, 4), jax.random.key(0), sharpness=float("inf")
    )
    jax.effects_barrier()
    np.testing.assert_array_equal(codes, given.argmax(-1))
    known = [(step != masked.HIDDEN).sum(1).tolist() for step in seen]
    wanted = [12 - int(12 * np.cos(np.pi / 2 * s / 4)) for s in range(4)]
    assert known == [[count] * 2 for count in wanted]
    sure = jax.nn.softmax(given, -1).max(-1)
    first = seen[1] != masked.HIDDEN
    for sample in range(2):
        assert sure[sample][first[sample]].min() > sure[sample][~first[sample]].max()
    drawn = [masked.unmask(lambda _: given, (2, 12), np.ones(3), jax.random.key(k)) for k in (0, 1)]
    assert (drawn[0] != drawn[1]).any()


def batch_of_codes():
    text = np.array([[-1, -1, 9, 12], [11, 13, 9, 12]], np.int32)
    return {"codes": codes_of(2, 3, 2, 2), "text": jnp.asarray(text)}


def drawn_for(batch):
    tokens, layout, _ = TASK._prefix(batch, 3, 2, 2)
    return {"params": {"model": drawn(tokens, layout)["params"]}}


def test_guidance_tells_apart_what_has_a_text():
    """Without a text both branches see the same, so that guidance changes nothing."""
    batch = batch_of_codes()
    variables = drawn_for(batch)
    empty = {**batch, "text": jnp.full((2, 4), -1)}
    guided, plain = (
        quick.jit(
            lambda batch, task=task: task.generate(
                variables, batch, batch["codes"][:, :1], 2, jax.random.key(1)
            )
        )(empty)
        for task in (TASK, TokenGeneration(**{**vars(TASK), "guidance": 1.0}))
    )
    assert guided.shape == (2, 2, 2, 2)
    assert guided.min() >= 0
    assert guided.max() < 6
    np.testing.assert_array_equal(guided, plain)


@pytest.mark.parametrize("mask", ["tube", "random"])
def test_the_loss_is_of_hidden_codes_alone(mask):
    batch = batch_of_codes()
    task = TokenGeneration(**{**vars(TASK), "mask": mask})
    variables = drawn_for(batch)
    rate, key = jnp.array([0.5, 1.0]), jax.random.key(1)
    losses, hidden = quick.jit(
        lambda batch: task._cross_entropy(variables, batch, batch["codes"], rate, key)
    )(batch)
    assert (losses[~hidden] == 0).all()
    assert (losses[hidden] > 0).all()
    assert hidden[1].all()
    alike = (hidden[0] == hidden[0, :1]).all()
    assert alike == (mask == "tube")
    value, aux = quick.jit(lambda batch: task.loss(variables, batch, jax.random.key(2), 0))(batch)
    assert value > 0
    assert set(aux.metrics) == {"first_frame", "last_frame"}


def test_codes_alone_are_compared_with_their_use_in_training():
    batch = batch_of_codes()
    variables = drawn_for(batch)
    predict = quick.jit(lambda batch: TASK.predict(variables, batch, jax.random.key(1)))
    found = TASK.metrics(predict(batch), batch)
    report = TASK.summarise({name: np.asarray(value) for name, (value, _) in found.items()})
    assert TASK.headline in report
    assert len(report["nats_by_frame"]) == 3
    assert 0 < report["unigram_entropy"] <= np.log(6)
    trivial = TASK.trivial(TASK.summary(batch), batch)
    nats = {name: TASK.metrics(x, batch)["cross_entropy"][0].mean() for name, x in trivial.items()}
    assert nats["unigram"] <= nats["uniform"] == pytest.approx(np.log(6))
    assert TASK.render(predict(batch), batch)


def test_the_engine_evaluates_trivial_predictions_by_name():
    batch = batch_of_codes()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    reports = evaluate.evaluate_trivial(TASK, [batch], [batch], here)
    assert reports["uniform"]["cross_entropy"] == pytest.approx(np.log(6))
    assert set(reports) == {"uniform", "unigram"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"mask": "none"}, "^task.mask: 'none'"), ({"context": 0}, "^context 0")],
)
def test_tasks_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        TokenGeneration(**{**vars(TASK), **fields})


def test_a_tokenizer_is_compared_with_frames_that_do_not_move():
    tokenizer = CosmosTokenizer(
        channels=1, features=2, multipliers=(1,), blocks=0, patch=4, time=4, space=4, latents=2,
        scalars=(3, 2),
    )
    task = Tokenizing(tokenizer)
    batch = {"video": RNG.integers(256, size=(2, 5, 8, 8, 1)).astype(np.uint8)}
    variables = quick.variables(tokenizer, jnp.zeros((2, 5, 8, 8, 1)))
    clips = task.predict(variables, batch, jax.random.key(0))
    assert clips.shape == (2, 5, 8, 8, 1)
    assert set(task.metrics(clips, batch)) >= {task.headline, "psnr"}
    trivial = task.trivial(task.summary(batch), batch)
    assert {x.shape for x in trivial.values()} == {clips.shape}
    with pytest.raises(ValueError, match=r"^task.loss_name"):
        Tokenizing(tokenizer, "none")


def frame(codes):
    rows = [[*(video_tokens.CODES + row).tolist(), video_tokens.LINE_END] for row in codes]
    return [video_tokens.FRAME_START, 8805, 8805, *itertools.chain(*rows), video_tokens.FRAME_END]


def stored(folder, name, token):
    with (folder / f"{name}.pkl").open("wb") as file:
        pickle.dump({"token": token, "label": [-100] * len(token), "id": 0}, file)


@pytest.fixture
def folder(tmp_path):
    """Six records, in the published form."""
    files = tmp_path / "pre_tokenize" / "files"
    files.mkdir(parents=True)
    for k in range(6):
        codes = np.arange(3 * 2 * 4).reshape(3, 2, 4) + k
        video = itertools.chain(*map(frame, codes))
        stored(files, k, [0, 70, 8710, video_tokens.VIDEO_START, 8806, 8816, *video, 9005, 8710])
    records = [{"file": f"pre_tokenize/files/{k}.pkl", "len": 1, "id": k} for k in range(6)]
    (files.parent / "merge-record.json").write_text(json.dumps(records))
    return files.parent


def test_token_files(folder):
    train, test = (VideoTokens(str(folder), 2, 2, 4, 5, training) for training in (True, False))
    assert (len(train), len(test)) == (5, 1)
    record = test[0]
    np.testing.assert_array_equal(record["codes"], np.arange(16).reshape(2, 2, 4) + 5)
    assert record["text"].tolist() == [-1, -1, 0, 70, 8710]
    assert {k: (v.shape, v.dtype) for k, v in test.spec.items()} == {
        k: (v.shape, v.dtype) for k, v in record.items()
    }
    short = VideoTokens(str(folder), 2, 2, 4, 2, True)
    assert short[0]["text"].tolist() == [70, 8710]


class Command:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (Command(), "names posix.system"),
        ([1.5], "float64 .* instead of a list of integers"),
        ([1, 2], "2 tokens without a video"),
        ([9004, 1, 1, *frame(np.zeros((2, 2), int))[:-1]], "frames that are not alike"),
        ([9004, 1, 1, *frame(np.full((2, 2), 64_000))], "not codes and line ends"),
        ([9004, 1, 1, *frame(np.zeros((2, 4), int))], r"codes \(1, 2, 4\) instead of \(2, 2, 4\)"),
    ],
)
def test_token_files_that_are_no_videos(folder, token, message):
    with (folder / "files" / "0.pkl").open("wb") as file:
        pickle.dump({"token": token}, file)
    with pytest.raises(ValueError, match=f"0.pkl: token: .*{message}"):
        VideoTokens(str(folder), 2, 2, 4, 5, True)[0]


def test_lists_of_token_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"merge-record.json: no such file"):
        len(VideoTokens(str(tmp_path), 2, 2, 4, 5, True))
    (folder / "files" / "0.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"files/0.pkl is in none"):
        len(VideoTokens(str(folder), 2, 2, 4, 5, True))
    (folder / "merge-record.json").write_text('[{"len": 3}]')
    with pytest.raises(ValueError, match=r"no list of records"):
        len(VideoTokens(str(folder), 2, 2, 4, 5, True))
