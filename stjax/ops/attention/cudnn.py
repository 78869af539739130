"""cuDNN's flash attention, through JAX."""

import jax
import jax.numpy as jnp

from stjax.ops.attention.masks import Causal, Full, SlidingWindow


def lacks(q, k, v, mask, plain, backend):
    """Why this method cannot do it; nothing if it can."""
    if backend != "gpu":
        return f"{mask} runs on {backend}, not on a GPU"
    if jax.default_backend() != "gpu":
        return "cuDNN is needed to compile for it, and there is no GPU here"
    if not isinstance(mask, Full | Causal | SlidingWindow) or mask.after not in (None, 0):
        return f"{mask} is not one of cuDNN's masks"
    if q.shape[1] > k.shape[1]:
        return f"{mask} with queries that outrun the keys"
    # It has no gradient of the log-sum-exp, and of the bias only for some shapes.
    if not plain:
        return "there is a bias, a key mask or a start other than 0, or the log-sum-exp is wanted"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {q.dtype} is not of 16 bits"
    if q.shape[-1] % 8 or q.shape[-1] > 128 or v.shape[-1] != q.shape[-1]:
        return f"heads of {q.shape[-1]} and {v.shape[-1]} are not alike multiples of 8 up to 128"
    return ""


def cudnn(q, k, v, mask, scale):
    window = (mask.before, mask.after) if isinstance(mask, SlidingWindow) else None
    causal = not isinstance(mask, Full)
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=causal, local_window_size=window, implementation="cudnn"
    )
