"""What a language model is asked of a video's quality, in many words that mean the same.

A prompt is a description of the task (or none), a question and a request for a form of answer,
each drawn from its list: as many lists, of as many sentences, as LMM-VQA's (arXiv 2408.14008),
whose own sentences are not published under a licence.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from stjax.data.tokenizer import IMAGE

TEMPLATE = (
    "You see a video and answer the question about it.\n\n"
    f"### Image:\n{IMAGE}\n\n### Question:\n{{question}}\n\n### Answer:\n"
)
KINDS = ("score", "level")

DESCRIPTIONS = (
    "Video quality assessment measures how good a video looks to people.",
    "The task is to judge the quality of a video as a viewer would.",
    "Quality depends on sharpness, noise, colour and how smoothly things move.",
    "Blur, noise, frozen frames and shaky motion make a video worse.",
    "A viewer's opinion of a video falls with every visible distortion.",
    "Assess both the single frames and the motion between them.",
    "Spatial and temporal distortions count alike for the quality of a video.",
    "Quality assessment without a reference judges the video alone.",
    "Judge the technical quality of the video and not what it shows.",
    "The quality of a video is the mean opinion of many viewers.",
)
QUESTIONS = {
    "score": (
        "What is the quality score of this video?",
        "How high is the quality of this video?",
        "Which score does this video deserve?",
        "Can you score the quality of these frames?",
        "Please score the quality of this video.",
        "How would you score this video?",
        "What quality score would viewers give?",
        "Tell me the quality score of the video.",
        "Could you work out the quality score?",
        "Please compute the score of this video.",
        "I would like to know the quality score.",
        "What score fits the quality you see?",
        "How good is this video as a score?",
        "Estimate the quality score from the frames.",
        "Give the video a quality score, please.",
        "What is the score of the clip?",
        "Could you estimate how good the video looks?",
        "Which quality score do the frames suggest?",
        "Please determine the quality of the clip.",
        "How much quality does this clip have?",
    ),
    "level": (
        "What is the quality level of this video?",
        "How would you rate this video?",
        "Which level does this video deserve?",
        "Can you rate the quality of these frames?",
        "Please rate the quality of this video.",
        "How does this video look to you?",
        "What rating would viewers give?",
        "Tell me the quality level of the video.",
        "Could you judge the quality of the video?",
        "Please assess the level of this video.",
        "I would like to know the quality level.",
        "What level fits the quality you see?",
        "How good is this video as a level?",
        "Estimate the quality level from the frames.",
        "Give the video a rating, please.",
        "What is the level of the clip?",
        "Could you review how good the video looks?",
        "Which quality level do the frames suggest?",
        "Please evaluate the quality of the clip.",
        "How well was this clip made?",
    ),
}
REQUESTS = {
    "score": (
        "Answer with a number from 0 to 100.",
        "Reply with a number between 0 and 100.",
        "Please give a number from 0 to 100.",
        "The answer is a number between 0 and 100.",
        "Use a number in the range of 0 to 100.",
        "Respond with one number from 0 to 100.",
        "A number between 0 and 100, please.",
        "Write a number from 0 to 100.",
        "Choose a number between 0 and 100.",
        "Only a number from 0 to 100.",
    ),
    "level": (
        "Answer with good, fair or poor.",
        "Reply with good, fair or poor.",
        "Please say good, fair or poor.",
        "The answer is good, fair or poor.",
        "Use one word of good, fair or poor.",
        "Respond with one of good, fair or poor.",
        "Good, fair or poor, please.",
        "Write good, fair or poor.",
        "Choose good, fair or poor.",
        "Only good, fair or poor.",
    ),
}


def draw(kind: str, rng: np.random.Generator, described: bool = False) -> str:
    """A prompt of one of `KINDS`, in the template.

    Args:
        described: whether a description of the task comes first.
    """
    return _prompt(rng.choice(sentences) for sentences in _lists(kind, described))


def every(described: bool = False) -> Iterator[str]:
    """All prompts there are."""
    for kind in KINDS:
        yield from map(_prompt, itertools.product(*_lists(kind, described)))


def _lists(kind, described):
    return [DESCRIPTIONS] * described + [QUESTIONS[kind], REQUESTS[kind]]


def _prompt(sentences):
    return TEMPLATE.format(question=" ".join(sentences))
