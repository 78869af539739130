"""Cross-entropy over large vocabularies."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def chunked_cross_entropy(
    features: Float[Array, "n d"],
    kernel: Float[Array, "d codes"],
    labels: Int[Array, "n"],
    chunk: int = 200,
) -> Float[Array, "n"]:
    """-log softmax(features kernel)[label] of every token, without all logits at once.

    Logits are made `chunk` tokens at a time, in float32 at least, and made again for the gradient.

    Args:
        features: what the last linear map sees of each token.
        kernel: that map, to the logits of the codes.
        labels: the true codes.
        chunk: tokens whose logits are held at a time.

    Raises:
        ValueError: labels that are not as many as tokens; a chunk of none.
    """
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels: {labels.shape} for features {features.shape}")
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} tokens")
    count = len(labels)
    chunks = -(-count // chunk)
    pad = lambda x: jnp.pad(x, ((0, chunks * chunk - count), *[(0, 0)] * (x.ndim - 1)))
    cut = lambda x: pad(x).reshape(chunks, -1, *x.shape[1:])

    @jax.checkpoint
    def of_chunk(features, labels):
        logits = features @ kernel.astype(features.dtype)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        true = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - true

    if chunks == 1:
        return of_chunk(features, labels)
    return jax.lax.map(lambda at: of_chunk(*at), (cut(features), cut(labels))).reshape(-1)[:count]
