"""Pictures: where the frames end up, and that files can be read back."""

import numpy as np
import pytest
from PIL import Image

from stjax.viz import curves, frames


@pytest.fixture
def videos():
    rng = np.random.default_rng(0)
    make = lambda time: rng.random((3, time, 8, 8, 1), np.float32)
    return make(4), make(6), make(6)


def find(picture, frame, scale):
    """How often a frame stands in a picture, enlarged by whole pixels."""
    wanted = np.rint(255 * frame).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    views = np.lib.stride_tricks.sliding_window_view(picture[..., 0], wanted.shape[:2])
    return int((views == wanted[..., 0]).all((-2, -1)).sum())


def test_every_frame_stands_in_the_sheet(videos):
    context, truth, prediction = videos
    picture = frames.sheet(*videos, sequences=2, scale=2)
    assert picture.dtype == np.uint8
    for sequence in range(2):
        for video in (context, truth, prediction, np.abs(prediction - truth)):
            for frame in video[sequence]:
                assert find(picture, frame, 2) == 1
    assert find(picture, truth[2, 0], 2) == 0


def test_long_videos_are_thinned_out_and_keep_their_ends(videos):
    context, truth, prediction = videos
    picture = frames.sheet(context, truth, prediction, columns=3, scale=1)
    shown = [find(picture, frame, 1) for frame in truth[0]]
    assert (shown[0], shown[-1], sum(shown)) == (1, 1, 3)
    whole = frames.sheet(context, truth, prediction, scale=1)
    assert picture.shape[1] < whole.shape[1]


@pytest.mark.parametrize("channels", [1, 2, 3, 12])
def test_any_number_of_channels_and_small_frames_are_enlarged(channels):
    video = np.full((1, 2, 5, 7, channels), 0.5, np.float32)
    assert (frames.sheet(video, video, video) == 128).all(-1).sum() >= 4 * 50 * 70


def test_animation_shows_context_then_both(videos):
    context, truth, prediction = videos
    moving = frames.animation(*videos, scale=2)
    assert moving.shape[0] == 10
    assert find(moving[1], context[0, 1], 2) == 2
    assert find(moving[6], truth[1, 2], 2) == find(moving[6], prediction[1, 2], 2) == 1


def test_predictions_may_leave_the_range_but_must_fit(videos):
    context, truth, prediction = videos
    picture = frames.sheet(context, truth, 3 * prediction - 1)
    clipped = frames.sheet(context, truth, np.clip(3 * prediction - 1, 0, 1))
    np.testing.assert_array_equal(picture, clipped)
    for wrong in ((context, truth, prediction[:, 1:]), (context[:2], truth, prediction)):
        with pytest.raises(ValueError, match="do not belong together"):
            frames.sheet(*wrong)
    with pytest.raises(ValueError, match="do not belong together"):
        frames.animation(context[0], truth[0], prediction[0])


def test_files_are_read_back(videos, tmp_path):
    picture, moving = frames.sheet(*videos), frames.animation(*videos)
    frames.save(tmp_path / "media" / "sheet.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "media/sheet.png")), picture)
    frames.save(tmp_path / "media" / "moving.gif", moving, fps=10)
    with Image.open(tmp_path / "media" / "moving.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (10, 100, 0)
    with pytest.raises(ValueError, match=r"moving picture is written as .gif"):
        frames.save(tmp_path / "moving.png", moving)


def test_curves_rise_where_the_values_do():
    picture = curves.curves({"up": np.arange(5.0), "flat": np.ones(5)}, title="error")
    rows, columns = np.nonzero((picture == (0x00, 0x72, 0xB2)).all(-1))
    line = columns < 490  # labels stand to the right
    assert np.corrcoef(rows[line], columns[line])[0, 1] < -0.99


@pytest.mark.parametrize(
    "values", [[0.0], [3.0, np.nan, 1.0], [-2.0, 5.0], [1e-7, 2e-7], [0.0, 0.0], [np.inf, 1.0]]
)
def test_curves_of_odd_values(values):
    assert curves.curves({"a": np.array(values)}).shape == (360, 640, 3)


def test_points_that_coincide_are_labelled_side_by_side():
    alone, both = (
        curves.scatter(dict.fromkeys(names, (10.0, 1.0)), title="error", axis="cost")
        for names in (["a"], ["a", "b"])
    )
    inked = lambda picture: (picture < 100).any(-1).sum()
    assert inked(both) > inked(alone)
    with pytest.raises(ValueError, match="x > 0"):
        curves.scatter({"free": (0.0, 1.0)})


def test_curves_of_nothing():
    with pytest.raises(ValueError, match="no finite values"):
        curves.curves({"a": np.array([np.nan])})


@pytest.mark.parametrize("span", [(0, 1), (0, 7), (-3, 12), (0, 1e-9), (0, 0), (0, 99.9)])
def test_ticks_are_round_and_enclose(span):
    ticks = curves._ticks(*span)
    assert ticks[0] <= span[0] <= span[1] <= ticks[-1] * (1 + 1e-12)
    assert 4 <= len(ticks) <= 12
