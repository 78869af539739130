"""How what is new joins what is carried on: in residual blocks as in recurrent cells."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Logits of each kind for every feature; "rate" and "leaky" learn theirs, the others read them.
LOGITS = {"additive": 0, "rate": 1, "leaky": 1, "input": 1, "coupled": 1, "uncoupled": 2}
LEARNED = ("rate", "leaky")


def join(
    kind: str,
    carried: Float[Array, "... d"],
    new: Float[Array, "... d"],
    logits: Float[Array, "... l"] | None = None,
) -> Float[Array, "... d"]:
    """keep * carried + write * new.

    | kind | keep | write | as in |
    | --- | --- | --- | --- |
    | additive | 1 | 1 | residual blocks |
    | rate | 1 | a | ReZero (arXiv 2003.04887) |
    | leaky | 1 - s(a) | s(a) | leaky integrators |
    | input | 1 | s(z) | |
    | coupled | 1 - s(z) | s(z) | highways (arXiv 1505.00387), GRU, RHN |
    | uncoupled | s(k) | s(z) | LSTM |

    s is the logistic function; a is learned and the same at every input, z and k depend on it.

    Args:
        logits: a, z or (z, k) side by side: (..., LOGITS[kind] d). None where there are none.

    Raises:
        ValueError: an unknown kind, or logits of another width.
    """
    if kind not in LOGITS:
        raise ValueError(f"kind: {kind!r} is none of {', '.join(LOGITS)}")
    wanted = LOGITS[kind] * carried.shape[-1]
    if wanted != (0 if logits is None else logits.shape[-1]):
        shape = None if logits is None else logits.shape
        raise ValueError(f"logits: {shape} of {kind!r}, instead of (..., {wanted})")
    if kind == "additive":
        return carried + new
    if kind == "rate":
        return carried + logits * new
    gate = jax.nn.sigmoid(logits)
    if kind == "input":
        return carried + gate * new
    if kind == "uncoupled":
        write, keep = jnp.split(gate, 2, -1)
        return keep * carried + write * new
    return carried + gate * (new - carried)
