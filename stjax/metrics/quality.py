"""How well predicted video quality agrees with what people said, and scores out of texts.

As in metric_csv.py and preprocess_ds.py of Zhanghahah/ds-vqa-yuyu@a915f52 (LMM-VQA, arXiv
2408.14008): a protocol that the field shares. numpy and scipy, on the host.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

Scores = Float[np.ndarray, " n"]

LEVELS = ("poor", "fair", "good")
# What an answer without a score counts as.
NO_SCORE = 60.0


def agreement(predicted: Scores, true: Scores, *, fit: bool = True) -> dict[str, float]:
    """PLCC, SRCC, KRCC, RMSE, R2 and L1.

    PLCC and RMSE are of predictions that went through `logistic_fit`, if asked for; the ranks'
    correlations, R2 and L1 of raw ones. A constant correlates with nothing: 0.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    shown = logistic_fit(predicted, true) if fit else predicted
    error = predicted - true
    return {
        "plcc": _correlation(stats.pearsonr, shown, true),
        "srcc": _correlation(stats.spearmanr, predicted, true),
        "krcc": _correlation(stats.kendalltau, predicted, true),
        "rmse": float(np.sqrt(np.mean((shown - true) ** 2))),
        "r2": float(1 - np.sum(error**2) / np.sum((true - true.mean()) ** 2)),
        "l1": float(np.abs(error).mean()),
    }


def logistic_fit(predicted: Scores, true: Scores) -> Scores:
    """Predictions brought to the scale of the truth by a logistic of four parameters.

    b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), least squares from the start b1 = the largest
    truth, b2 the least, b3 = the mean prediction, b4 = 1/2. Predictions that are all alike become
    the mean of the truth; where there are fewer than four, or no fit is found, they stay.
    """
    if np.ptp(predicted) == 0:
        return np.full(len(true), np.mean(true))

    def logistic(x, top, bottom, middle, width):
        return bottom + (top - bottom) * special.expit((x - middle) / np.abs(width))

    start = (np.max(true), np.min(true), np.mean(predicted), 0.5)
    try:
        found, _ = optimize.curve_fit(logistic, predicted, true, p0=start, maxfev=100_000)
    except (TypeError, RuntimeError):  # too few values; none found
        return predicted
    return logistic(predicted, *found)


def parse_score(text: str) -> float:
    """The score of 0 to 100 that an answer gives, as the published code reads it.

    No number, or one that begins with zeros alone ("0.5"), is `NO_SCORE`. Without a point, the
    first two of all digits, leading zeros left out, count: "100" is 10. With several, all digits
    do, with a point after the second. With one the first number does; if it is not within (0, 100),
    all digits do, with a point after the second, or `NO_SCORE` if that is not within (10, 100).
    Signs mean nothing.
    """
    numbers = re.findall(r"\d+", text)
    if not numbers or int(numbers[0]) == 0:
        return NO_SCORE
    digits, points = "".join(numbers).lstrip("0"), text.count(".")
    if not points:
        return float(digits[:2])
    shifted = float(f"{digits[:2]}.{digits[2:]}")
    if points > 1:
        return shifted
    score = float(re.search(r"\d+\.?\d*", text).group())
    if 0 < score < 100:
        return score
    return shifted if 10 < shifted < 100 else NO_SCORE


def level_cuts(scores: Scores) -> tuple[float, float]:
    """The 33rd and 66th percentiles: up to the first is poor, above the second good."""
    low, high = np.percentile(np.asarray(scores, np.float64), (33, 66))
    return float(low), float(high)


def level(score: float, cuts: Sequence[float]) -> str:
    """One of `LEVELS`.

    Raises:
        ValueError: a score that is not positive, which the published code gives no level.
    """
    if not score > 0:
        raise ValueError(f"score: {score} instead of above 0")
    return LEVELS[sum(score > cut for cut in cuts)]


def score_text(score: float) -> str:
    """What a model is taught to answer: three decimals."""
    return f"{score:.3f}"


def _correlation(of, a, b):
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(of(a, b)[0])
