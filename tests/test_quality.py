"""Rated videos: made and real ones, tables, questions, tokenizers, metrics, pictures."""

import os
import pathlib
import pickle

import numpy as np
import pytest

from stjax.data import quality, quality_prompts
from stjax.data.tokenizer import FileTokenizer, WordTokenizer
from stjax.data.tokenizer import load as load_tokenizer
from stjax.metrics.quality import agreement, level, logistic_fit, parse_score
from stjax.viz import quality as pictures

REAL = pathlib.Path(os.environ.get("STJAX_DATA", "no data")) / "video"
WORDS = WordTokenizer.of([*quality_prompts.every(True), "poor", "fair", "good"])
CUTS = (50.0, 70.0)


def table(path, rows, header="name,mos"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_made_videos_are_functions_of_their_index_and_worse_with_lower_scores():
    videos = quality.MadeVideos(16, 2, 8, count=400, seed=(3,))
    first = videos[7]
    np.testing.assert_array_equal(first["clips"], videos[7]["clips"])
    np.testing.assert_array_equal(first["frames"], first["clips"][:, 0])
    assert first["mos"] == np.float32(videos.scores[7])
    assert {k: (np.shape(x), np.asarray(x).dtype) for k, x in first.items()} == {
        k: (np.shape(x), np.asarray(x).dtype) for k, x in videos.spec.items()
    }
    assert 15 < videos.scores.std() < 18
    assert 55 < videos.scores.mean() < 65


@pytest.mark.parametrize(
    ("freezes", "still"), [(True, True), (False, False)], ids=("frozen", "shaking")
)
def test_what_is_bad_in_time_alone_shows_in_no_single_frame(freezes, still):
    class Drawn:
        """A generator whose coins are known."""

        def __init__(self):
            self.rng, self.coins = np.random.default_rng(0), [[0.1, 0.1 if freezes else 0.9]]

        def uniform(self, *args, size=None):
            return np.array(self.coins.pop()) if size == 2 else self.rng.uniform(*args, size=size)

        def standard_normal(self, size):
            return self.rng.standard_normal(size)

    good, bad = (quality._textures(Drawn(), 0.0, b, 24, 64) / 255 for b in (0.0, 1.0))
    assert abs(good.std((1, 2)).mean() - bad.std((1, 2)).mean()) < 0.01
    change = lambda video: np.abs(np.diff(video, axis=0)).mean((1, 2))
    assert (np.mean(change(bad) == 0) > 0.5) == still
    assert (change(bad).mean() > 1.3 * change(good).mean()) != still


def test_questions_differ_in_training_and_stay_in_testing():
    videos = quality.MadeVideos(8, 1, 4, count=3)
    train = quality.Questions(videos, WORDS, CUTS, drawn=True)
    test = quality.Questions(videos, WORDS, CUTS)
    said = lambda source, place: WORDS.decode(source.at(1, place)["prompts"][0].tolist())
    assert len({said(train, place) for place in range(8)}) > 4
    assert len({said(test, place) for place in range(8)}) == 1
    record = test[1]
    assert record["prompts"].shape == train.spec["prompts"].shape
    answers = [WORDS.decode(answer.tolist()) for answer in record["answers"]]
    assert answers == [f"{record['mos']:.3f}", level(record["mos"], CUTS)]
    assert np.all((record["prompts"] == WORDS.image).sum(1) == 1)
    assert record["prompts"][0, -1] == WORDS.encode(":")[0]


def test_prompts_come_from_as_many_sentences_as_published():
    assert len(set(quality_prompts.DESCRIPTIONS)) == 10
    for kind in quality_prompts.KINDS:
        assert len(set(quality_prompts.QUESTIONS[kind])) == 20
        assert len(set(quality_prompts.REQUESTS[kind])) == 10
    assert len(set(quality_prompts.every())) == 400


def test_words_there_and_back():
    text = "The score is 76.844, and fair!"
    tokenizer = WordTokenizer.of([text])
    tokens = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.pad, *tokens, tokenizer.end, 5]) == (
        "the score is 76.844 , and fair !"
    )
    assert max(tokens) < tokenizer.size
    with pytest.raises(ValueError, match=r"^text: 'poor' is none of"):
        tokenizer.encode("poor")


def test_a_tokenizer_json(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<|eot_id|>": 0, "76": 1, ".": 2, "good": 3, "?": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    found = pickle.loads(pickle.dumps(load_tokenizer(f"file:{path}", ())))
    # Three tokens are added: of the tag, of the image, of padding.
    assert (found.size, found.end, found.image, found.pad) == (8, 0, 6, 7)
    assert found.encode("good <image> 76") == [3, 6, 1]
    assert found.decode([3, 0, 1]) == "good"
    with pytest.raises(ValueError, match="no token '</s>'"):
        FileTokenizer(path, "</s>")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        load_tokenizer(f"file:{path}", ())
    with pytest.raises(FileNotFoundError, match="no such tokenizer"):
        load_tokenizer(f"file:{tmp_path}/none.json", ())
    with pytest.raises(ValueError, match=r"^data.tokenizer: 'letters'; there are"):
        load_tokenizer("letters", ())


def test_tables_of_the_published_forms(tmp_path):
    for name in ("A001.mp4", "3339962845.mp4", "yfcc-batch1/747.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    konvid = table(tmp_path / "k.csv", ['"3339962845","4.64"'], '"flickr_id","mos"')
    paths, scores = quality.ratings(pathlib.Path(konvid), tmp_path, 20.0)
    assert paths == (tmp_path / "3339962845.mp4",)
    np.testing.assert_allclose(scores, 92.8)
    lsvq = table(
        tmp_path / "l.csv", ['yfcc-batch1/747,"[15, 527]",720,67.75'], "name,p1,height,mos"
    )
    assert quality.ratings(pathlib.Path(lsvq), tmp_path)[1] == [67.75]
    assert quality.ratings(pathlib.Path(table(tmp_path / "v.csv", ["A001.mp4,80.2"])), tmp_path)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("name,mos", ["a.mp4,50", "b.mp4,50", "c.mp4,50"], "2 of 3 .* not there, first .*b"),
        ("name,mos", ["a.mp4,good"], r"line 2: mos 'good' is no number"),
        ("name,mos", ["a.mp4,50", "a.mp4,101"], "line 3: mos 101 times 1 is not above 0"),
        ("name,score", ["a.mp4,50"], r"columns \['name', 'score'\], none of them of .'mos'"),
        ("name,mos", [], "no videos"),
    ],
)
def test_wrong_tables(tmp_path, header, rows, message):
    (tmp_path / "a.mp4").touch()
    path = table(tmp_path / "table.csv", rows, header)
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        quality.ratings(pathlib.Path(path), tmp_path)
    with pytest.raises(FileNotFoundError, match="no such table of scores"):
        quality.ratings(tmp_path / "none.csv", tmp_path)
    with pytest.raises(ValueError, match=r"^unknown source 'table:x'"):
        quality.load("table:x")


@pytest.mark.skipif(not REAL.is_dir(), reason="STJAX_DATA names no folder with videos")
def test_real_videos_with_a_table(tmp_path):
    pytest.importorskip("av")
    names = sorted(p.name for p in REAL.iterdir() if p.suffix == ".mp4")[:3]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = [f"{REAL / name},{50 + k}" for k, name in enumerate(names)]
    train = table(tmp_path / "train.csv", [f"{tmp_path / 'broken.mp4'},10", *rows])
    test = table(tmp_path / "test.csv", [*rows, f"{tmp_path / 'broken.mp4'},10"])
    splits, tokenizer, _ = quality.load(
        f"tables:{train},{test}", size=16, seconds=2, frames=4, cuts=(20.0, 51.0)
    )
    assert (len(splits.train), tokenizer.size) == (4, WORDS.size)
    with pytest.warns(UserWarning, match="1 of 4 videos cannot be read and are left out"):
        assert len(splits.test) == 3
    record = splits.test[1]
    assert record["frames"].shape == (2, 16, 16, 3)
    assert record["clips"].shape == (2, 4, 16, 16, 3)
    assert record["mos"] == 51
    assert {k: np.shape(x) for k, x in record.items()} == {
        k: np.shape(x) for k, x in splits.test.spec.items()
    }
    # Key frames are the first of their seconds, the middle of them, and clips are squeezed.
    assert names[1] == "bikes.mp4"  # 272 x 640
    assert abs(record["frames"].mean() - record["clips"][:, 0, :, 5:11].mean()) < 10
    assert abs(record["frames"].mean() - record["clips"][:, 0].mean()) > 20
    with pytest.warns(UserWarning, match="another clip is taken"):
        np.testing.assert_array_equal(splits.train[0]["clips"], splits.test[0]["clips"])


def test_agreement():
    rng = np.random.default_rng(0)
    true = rng.uniform(20, 90, 50)
    monotone = 1 / (1 + np.exp(-(true - 50) / 10))
    found = agreement(monotone, true)
    assert found["srcc"] == pytest.approx(1)
    assert found["krcc"] == pytest.approx(1)
    assert found["plcc"] > agreement(monotone, true, fit=False)["plcc"]
    constant = agreement(np.full(50, 60.0), true)
    assert (constant["srcc"], constant["plcc"]) == (0, 0)
    assert constant["rmse"] == pytest.approx(true.std())
    np.testing.assert_array_equal(logistic_fit(np.array([1.0, 2.0]), np.array([2.0, 1.0])), [1, 2])


def test_scores_and_levels_of_texts():
    assert parse_score("it is 0.5 of 100") == 60
    assert parse_score("100") == 10
    levels = [level(score, CUTS) for score in (50, 50.1, 70, 70.1)]
    assert levels == ["poor", "fair", "fair", "good"]
    with pytest.raises(ValueError, match=r"^score: 0 instead of above 0"):
        level(0, CUTS)


def test_pictures():
    clips = np.random.default_rng(0).uniform(size=(2, 2, 4, 8, 8, 1))
    sheet = pictures.asked(clips, [("a question", "an answer")] * 2)
    dots = pictures.scatter(np.array([10.0, 90.0]), np.array([20.0, 80.0]), "true", "said")
    for picture in (sheet, dots):
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
    assert (dots == (0, 114, 178)).all(-1).sum() > 10
