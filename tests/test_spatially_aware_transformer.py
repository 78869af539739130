"""Spatially-Aware Transformer beyond what the golden files hold: memory, worlds, data, tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import spatially_aware_transformer as config
from experiments.spatially_aware_transformer import experiment
from stjax.data import ballet, image_walks, pipeline
from stjax.envs.grid_walk import STEPS, GridWalk
from stjax.envs.room_ballet import BalletTour, RoomBallet, shown
from stjax.layers.hcam import HCAM
from stjax.models.language.spatially_aware_transformer import (
    FrameEncoder,
    MemoryTransformer,
    SpatiallyAwareTransformer,
)
from stjax.ops import episodic_memory as memory
from stjax.tasks.episode_questions import EpisodeQuestions
from stjax.train.config import override
from tests import quick

WORLD = RoomBallet(side=2, steps=24, dance=4, delay=2, cell=3, questions=2)
TOUR = BalletTour(dance=2, delay=1, cell=3)


def reader(variant="shcams", **options):
    layers = MemoryTransformer(1, variant, 2, 4, 8, WORLD.period, 2)
    encoder = FrameEncoder(8, (4, 4), (3, 3), (3, 1))
    return SpatiallyAwareTransformer(
        encoder, layers, places=4, steps=24, period=WORLD.period, **options
    )


def naive_kept(places, heuristic, capacity):
    """A list for each place, as one would write it down."""
    items = []
    for now in range(len(places)):
        if len(items) == capacity:
            if heuristic == "lifo":
                continue
            held = [places[i] for i in items]
            counts = {p: held.count(p) for p in sorted(set(held))}
            choose = {"lvfo": min, "mvfo": max}.get(heuristic)
            gone = items[0] if choose is None else next(
                i for i in items if places[i] == choose(counts, key=counts.get)
            )
            items.remove(gone)
        items.append(now)
    if heuristic in ("fifo", "lifo"):
        return items
    first = {p: list(places).index(p) for p in places}
    return sorted(items, key=lambda i: (first[places[i]], i))


def test_heuristics_are_those_of_a_list():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 5, (8, 20))
    places[0], places[1, 3:] = 2, 4  # one place alone; one that takes over
    allocate = jax.vmap(
        jax.vmap(lambda p, h: memory.allocate(p, h, 6, 5), (None, 0)), (0, None)
    )
    found = quick.jit(allocate)(places, jnp.arange(4))
    for row, lists in zip(places, np.asarray(found)):
        for name, items in zip(memory.HEURISTICS, lists):
            assert items.tolist() == naive_kept(row.tolist(), name, 6), name
    short = quick.jit(memory.allocate, static_argnums=(2, 3))(np.array([1, 0, 1]), 3, 6, 5)
    assert short.tolist() == [0, 2, 1, -1, -1, -1]


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("pad", [1, 2, -1, -1, 0, 3, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1]),
        ("drop", [1, 2, -1, -1, 0, 3, 4, 5, -1, -1, -1, -1, -1, -1, -1, -1]),
    ],
)
def test_place_memory_never_mixes_places(rest, expected):
    order = quick.jit(lambda places: memory.place_order(places, 3, 4, 16, rest))(
        np.array([1, 0, 0, 1, 1, 1, 1])
    )
    assert order.tolist() == expected


def test_whole_reading_is_what_looking_into_every_chunk_of_one_item_gives():
    """The short way through ordinary attention, against top-k of all chunks but an absent one."""
    rng = np.random.default_rng(0)
    queries, items = (jnp.asarray(rng.standard_normal((2, n, 8)), "float32") for n in (3, 5))
    whole = HCAM(2, 4, chunk=1)
    variables = quick.variables(whole, queries, items)  # all of one sign: nothing cancels
    mask = np.ones((2, 6), bool)
    mask[:, 0] = False
    padded = jnp.pad(items, ((0, 0), (1, 0), (0, 0)), constant_values=7.0)

    @quick.jit
    def both(variables):
        read = whole.apply(variables, queries, padded, mask)
        # An absent item's content is nothing to the reader.
        long = HCAM(2, 4, chunk=1, top_k=5)
        return read, long.apply(variables, queries, padded.at[:, 0].set(-3.0), mask)

    np.testing.assert_allclose(*both(variables), rtol=2e-5)
    with pytest.raises(ValueError, match=r"^top_k: 3 of 2 chunks of 4 items"):
        jax.eval_shape(HCAM(2, 4, chunk=4, top_k=3).apply, variables, queries, items)


def test_rooms_show_what_their_frames_are_step_by_step():
    key = jax.random.key(3)
    episode = quick.jit(WORLD.episode)(key)
    start, walk, _ = jax.random.split(key, 3)
    actions = jax.random.randint(walk, (WORLD.steps - 1,), 0, 4)

    def act(state, action):
        state, seen, reward, done = WORLD.step(state, action, key)
        return state, (seen, reward, done)

    walk = quick.jit(lambda start, actions: jax.lax.scan(act, WORLD.reset(start), actions)[1])
    seen, reward, done = walk(start, actions)
    places = np.asarray(episode["places"])
    assert places[1:].tolist() == seen.place.tolist()
    assert np.all(np.abs(np.diff(places)) <= WORLD.side)
    phases = np.arange(1, WORLD.steps) % WORLD.period
    frames = np.asarray(episode["frames"])
    expected = frames[places[1:] * WORLD.dance + shown(phases, WORLD.dance, WORLD.delay)]
    np.testing.assert_array_equal(seen.frames, expected)
    assert not reward.any()
    assert done.tolist() == [False] * (WORLD.steps - 2) + [True]
    # A dance ends in the middle of its room, from where its class cannot be told.
    ends = frames.reshape(WORLD.rooms, WORLD.dance, 15, 15, 3)[:, -1]
    assert ends[:, 6:9, 6:9].any((1, 2, 3)).all()
    outside = np.ones((15, 15), bool)
    outside[6:9, 6:9] = False
    assert (ends[:, outside] == ends[:1, outside]).all()


def test_each_task_of_a_tour_is_answered_by_its_own_heuristic():
    keys = jax.random.split(jax.random.key(0), 40)

    def rewards(key):
        episode = TOUR.episode(key)
        play = lambda task, h: TOUR.play(TOUR.start(episode, task), h, key)[1]
        return jax.vmap(jax.vmap(play, (None, 0)), (0, None))(jnp.arange(4), jnp.arange(4))

    found = np.asarray(quick.jit(jax.vmap(rewards))(keys))
    assert found[:, range(4), range(4)].all()
    assert (found.mean((0, 1)) < 0.85).all()  # and none is good at all four


def test_a_grid_walk_prefers_where_it_has_not_been():
    world = GridWalk(5)
    walk = quick.jit(world.walk, static_argnums=1)(jax.random.key(1), 40)
    positions, actions = map(np.asarray, walk)
    np.testing.assert_array_equal(np.diff(positions, axis=0), STEPS[actions])
    assert ((positions >= 0) & (positions < 5)).all()
    assert len({tuple(p) for p in positions}) > 20


def test_variants_of_memory_differ_and_place_memory_looks_where_it_reads():
    batch = {"seed": np.arange(4, dtype=np.uint32).reshape(2, 2)}
    tasks = {v: EpisodeQuestions(reader(v), WORLD) for v in ("cams", "shcams")}
    shapes = jax.eval_shape(tasks["shcams"].init, jax.random.key(0), batch)
    variables = drawn(shapes)
    found = quick.jit(lambda variables: {
        name: task.predict(variables, batch, None) for name, task in tasks.items()
    })(variables)
    scores = [np.asarray(each["scores"]) for each in found.values()]
    assert all(s.shape == (2, 2, 8) for s in scores)
    assert all(not np.allclose(a, b) for k, a in enumerate(scores) for b in scores[:k])
    for each in found.values():
        np.testing.assert_allclose(each["looks"].sum(1), 1, rtol=1e-5)
    # Two chunks of a place memory are of two places at most.
    places = quick.jit(tasks["cams"].episodes)(batch)["places"]
    for looks, walk in zip(found["shcams"]["looks"], places):
        assert len(set(np.asarray(walk)[np.asarray(looks) > 1e-6])) <= 2
    with pytest.raises(ValueError, match=r"^variant: 'cama' keeps actions"):
        jax.eval_shape(EpisodeQuestions(reader("cama"), WORLD).init, jax.random.key(0), batch)


def tiny(**fields):
    fields = {
        "model.dim": "8", "model.head_dim": "4", "model.hidden": "8", "model.layers": "1",
        "multi_task.dance": "2", "multi_task.delay": "1", "test.count_test": "8",
        "imagination.grid": "3", "imagination.memorize": "9", "imagination.imagine": "3",
        "imagination.clusters": "2", "imagination.chunk": "2", **fields,
    }
    return experiment(override(config.get_config("tiny"), fields))


def drawn(shapes):
    """Variables of these shapes, without compiling their initialisation."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.float32(rng.normal(0, 0.5, x.shape)), shapes)


def batch_of(source, count):
    batches = pipeline(source, count)
    batch = next(batches)
    batches.close()
    return batch


def test_the_allocator_learns_from_its_answers_alone():
    built = tiny(**{"task.name": "multi_task", "model.variant": "cams"})
    task, batch = built.task, batch_of(built.data.test, 8)
    variables = drawn(jax.eval_shape(task.init, jax.random.key(0), batch))

    @quick.jit
    def run(variables):
        def loss(allocator, step=0):
            params = {**variables["params"], "allocator": allocator}
            return task.loss({"params": params}, batch, jax.random.key(1), step)

        slopes, aux = jax.grad(loss, has_aux=True)(variables["params"]["allocator"])
        late = loss(variables["params"]["allocator"], 10_000)[1].metrics["epsilon"]
        answers = task.predict(variables, batch, None)
        trivial = task.trivial(task.summary(batch), batch)
        metrics = {k: task.metrics(p, batch) for k, p in {**trivial, "": answers}.items()}
        return slopes, aux.metrics, late, answers, metrics

    slopes, logs, late, answers, metrics = run(variables)
    assert float(logs["epsilon"]) == pytest.approx(1 - 0.8 / 500)
    assert float(late) == pytest.approx(0.2)
    assert np.abs(slopes["out"]["kernel"]).max() > 0
    assert answers["kept"].sum(1).tolist() == [9] * 8
    assert set(metrics) >= {"", "commonest", "by what fifo kept", "by its frame"}
    assert metrics[""]["error_lvfo"][1].tolist() == [0, 0, 1, 0] * 2
    picture = task.render(jax.device_get(answers), batch)["tours"]
    assert picture.dtype == np.uint8
    assert picture.ndim == 3


def test_imagination_renders_and_has_trivial_predictors():
    built = tiny(**{"task.name": "imagination", "model.variant": "space_model"})
    task, batch = built.task, batch_of(built.data.test, 3)
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    views = jax.eval_shape(lambda v: task.predict(v, batch, None), variables)
    assert views.shape == (3, 3, 16, 16, 3)

    @quick.jit
    def run(batch):
        trivial = task.trivial(task.summary(batch), batch)
        return trivial, {k: task.metrics(p, batch)["mse"][0] for k, p in trivial.items()}

    trivial, errors = run(batch)
    assert set(trivial) == {"mean view", "view given", "mean remembered"}
    assert errors["mean remembered"].mean() < errors["view given"].mean()
    assert task.render(np.asarray(trivial["mean view"]), batch)["views"].ndim == 3


def save_episode(path, dancers=4, **changed):
    arrays = {
        "image": np.zeros((dancers * 2, 15, 15, 3), np.uint8),
        "motions": np.arange(dancers), "rooms": np.arange(dancers), **changed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def walk_file(path, walk=((0, 0), (1, 1), (1, 2))):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(walk))


def load(root):
    return ballet.short_stay(f"files:{root}/dance", walks=f"{root}/walks", rooms=4, dance=2)


def test_episodes_in_the_authors_format(tmp_path):
    for split in ("train", "eval"):
        save_episode(tmp_path / "dance" / split / "0.npz", dancers=6)
        walk_file(tmp_path / "walks" / split / "agent_poses_times_0.npy")
    source = load(tmp_path).train
    record = source[0]
    assert record["frames"].shape == (8, 15, 15, 3)
    assert record["motion"].tolist() == [0, 1, 2, 3]
    assert record["places"].tolist() == [0, 1, 1]
    assert len({int(source.at(0, place)["asked"][0]) for place in range(20)}) == 4
    places, labels = np.arange(18) % 8, np.arange(4)
    for split in ("train", "eval"):
        save_episode(
            tmp_path / "tours" / split / "0.npz", dancers=18, space=places, task_label=labels,
            motion=np.arange(18) % 8,
        )
    built = tiny(**{
        "task.name": "multi_task", "model.variant": "cams", "multi_task.source":
        f"files:{tmp_path}/tours",
    })
    batch = batch_of(built.data.train, 1)
    shapes = jax.eval_shape(built.task.init, jax.random.key(0), batch)
    assert set(shapes["params"]) == {"reader", "allocator"}


@pytest.mark.parametrize(
    ("changed", "walk", "message"),
    [
        ({"image": None}, ((0, 0),), r"0.npz: no entry 'image'; there are \['motions', 'rooms'\]"),
        ({"image": np.zeros((7, 15, 15, 3), np.uint8)}, ((0, 0),), "0.npz: image of 7 frames, mot"),
        ({"image": np.zeros((8, 15, 15, 3))}, ((0, 0),), "0.npz: image float64"),
        ({}, ((0, 1), (1, 2)), r"agent_poses_times_0.npy: \(2, 2\), wanted \(steps, 2\)"),
        ({}, ((0, 0), (9, 1)), "agent_poses_times_0.npy: rooms to 9, and there are 4"),
    ],
)
def test_bad_episodes_are_named(tmp_path, changed, walk, message):
    for split in ("train", "eval"):
        save_episode(tmp_path / "dance" / split / "0.npz", **changed)
        walk_file(tmp_path / "walks" / split / "agent_poses_times_0.npy", walk)
    with pytest.raises(ValueError, match=message):
        load(tmp_path).train[0]


def test_images_in_a_folder_and_stored_walks(tmp_path):
    pixels = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)
    for split in ("train", "eval"):
        (tmp_path / split / "00000").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / split / "00000" / "00000.png")
    walks = tmp_path / "knn_sort.npz"
    np.savez(walks, positions=np.zeros((2, 4, 2), np.uint8), actions=np.zeros((2, 3), np.uint8))
    options = {"size": 24, "grid": 2, "length": 4}
    splits = image_walks.load(f"folder:{tmp_path}", walks=(walks, walks), **options)
    record = splits.train.at(0, 1)
    assert record["image"].shape == (24, 24, 3)
    assert record["positions"].shape == (4, 2)
    with pytest.raises(ValueError, match=r"positions \(2, 4, 2\), wanted \('n', 5, 2\)"):
        image_walks.load(f"folder:{tmp_path}", walks=(walks, walks), **{**options, "length": 5})
    with pytest.raises(ValueError, match=r"00000.png: image \(40, 30, 3\), and 64 pixels"):
        image_walks.load(f"folder:{tmp_path}", **{**options, "size": 64}).test[0]
    with pytest.raises(FileNotFoundError, match="nowhere/train: no images"):
        image_walks.load("folder:nowhere", **options)
    made = image_walks.load(count_train=4, count_test=4, **options)
    assert made.train[0]["image"].shape == (24, 24, 3)
    assert made.train[0]["seed"].shape == (2,)


def test_published_counts():
    for name, count in config.FACTS["parameters_of"].items():
        task, _, variant = name.partition(" ")
        fields = {"task.name": task} | ({"model.variant": variant} if variant else {})
        built = experiment(override(config.get_config("paper"), fields))
        batch = {key: np.asarray(x)[None] for key, x in built.data.train[0].items()}
        shapes = jax.eval_shape(built.task.init, jax.random.key(0), batch)
        assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count, name
