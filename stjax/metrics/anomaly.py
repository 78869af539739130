"""How well prediction errors tell abnormal frames from normal ones.

As in Codes/evaluate.py of StevenLiuWen/ano_pred_cvpr2018@9e0f161 (Liu et al. 2018, 1712.09867), a
protocol that the field follows. Scores are of regularity: high is normal. numpy, but for `psnr`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Scores = Float[np.ndarray, " n"]
Labels = Int[np.ndarray, " n"]

_LEAST = 1e-10  # squared error of a frame that was predicted to the bit: 100 dB


def psnr(predicted: Float[Array, "*n h w c"], true: Float[Array, "*n h w c"]) -> Float[Array, "*n"]:
    """10 log10(1 / mean squared error over the frame), of frames in [0, 1], unclipped; in dB."""
    error = jnp.square(predicted - true).mean((-3, -2, -1))
    return -10 * jnp.log10(jnp.maximum(error, _LEAST))


def regularity(psnr: Scores, clip: Labels) -> Scores:
    """(PSNR - least) / (greatest - least) of each clip; 1 in a clip of one value.

    It needs the whole clip, and one that is abnormal from end to end looks like any other.

    Args:
        psnr: of each frame.
        clip: which clip it is of.
    """
    scores = np.ones(len(psnr))
    for which in np.unique(clip):
        own = clip == which
        low, high = psnr[own].min(), psnr[own].max()
        if high > low:
            scores[own] = (psnr[own] - low) / (high - low)
    return scores


def roc(scores: Scores, labels: Labels) -> tuple[Scores, Scores]:
    """Rates of frames with a score of at least a threshold, by falling threshold, from (0, 0) on.

    Points on a line between their neighbours are left out, as scikit-learn does.

    Args:
        scores: of regularity.
        labels: 1 for abnormal.

    Returns:
        Rate among the abnormal frames (false positives: normal is what is looked for) and rate
        among the normal ones.

    Raises:
        ValueError: no abnormal frames, or no normal ones.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if labels.shape != scores.shape or set(np.unique(labels)) != {0, 1}:
        raise ValueError(
            f"labels: {labels.shape} with values {np.unique(labels)[:5]} for {scores.shape} "
            "scores; wanted as many, with 0 and 1 among them"
        )
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    normal = np.cumsum(labels[order] == 0)[last]
    abnormal = 1 + last - normal
    bends = (np.diff(normal, 2) != 0) | (np.diff(abnormal, 2) != 0)
    kept = np.concatenate([[True], bends, [True]])[-len(last):]
    rates = [np.concatenate([[0], x[kept]]) / x[-1] for x in (abnormal, normal)]
    return rates[0], rates[1]


def auc(scores: Scores, labels: Labels) -> float:
    """Area under the ROC curve: how often a normal frame scores higher than an abnormal one.

    Ties count half. Arguments and errors as in `roc`.
    """
    false, true = roc(scores, labels)
    return float(np.trapezoid(true, false))


def equal_error_rate(scores: Scores, labels: Labels) -> float:
    """Rate of abnormal frames called normal, where |that + rate of normal ones - 1| is smallest."""
    false, true = roc(scores, labels)
    return float(false[np.argmin(np.abs(false + true - 1))])
