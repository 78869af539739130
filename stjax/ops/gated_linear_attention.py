"""Linear attention whose memory decays: S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, y_t = S_t^T q_t.

One recurrence, many names: linear attention (no decay), retention (a constant decay for each head),
Mamba-2 (one decay for each head and step), gated linear attention (one for each key channel).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from stjax.ops.chunks import bounded, cut, decays_between, masked_exp, scan_chunks, scan_steps
from stjax.ops.measured import fastest
from stjax.ops.recurrence import linear_recurrence
from stjax.ops.shapes import expect

# Steps within which decays of single channels are compared pair by pair (GLA, section 4.3).
_SUB_CHUNK = 16


def gated_linear_attention(
    q: Float[Array, "b t g k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t h v"],
    log_decay: Float[Array, "h"] | Float[Array, "b t h"] | Float[Array, "b t h k"] | None = None,
    initial: Float[Array, "b h k v"] | None = None,
    *,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "b t h v"], Float[Array, "b h k v"]]:
    """S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T and y_t = S_t^T q_t, for every head.

    (Linear attention, arXiv 2006.16236; RetNet, arXiv 2307.08621; Mamba-2, arXiv 2405.21060; gated
    linear attention, arXiv 2312.06635.) Nothing is scaled or normalised.

    Args:
        q, k: queries and keys in g groups, g dividing h; h / g heads in a row share a group.
        v: values.
        log_decay: g_t <= 0, -inf to forget everything: `(h,)` constant, `(b, t, h)` one for each
            head and step, `(b, t, h, k)` one for each key channel, None for no decay.
        initial: the state before the first step; None is zero.
        method: "sequential" (a loop over steps), "associative" (logarithmic depth; all t states in
            memory), "chunked" (products of matrices within chunks, a loop over them) or "auto", the
            fastest of them (see `stjax.ops.measured`).
        chunk: steps to a chunk, for "chunked"; "sequential" keeps one state a chunk for its
            backward pass.

    Returns:
        The outputs, in the common dtype of q, k and v, and the state after the last step, in
        float32 at least: so are all states.

    Raises:
        ValueError: a shape that does not fit, an unknown method.
    """
    q, k, v, log_decay, initial = _checked(q, k, v, log_decay, initial, chunk)
    if method == "auto":
        of_channels = "channel_" if log_decay.shape[-1] > 1 else ""
        method = fastest(f"{of_channels}gated_linear_attention", q.shape[1])
    if method == "sequential":
        return _sequential(q, k, v, log_decay, initial, chunk)
    if method == "associative":
        return _associative(q, k, v, log_decay, initial)
    if method == "chunked":
        return _chunked(q, k, v, log_decay, initial, chunk)
    raise ValueError(
        f"method: {method!r} is none of 'auto', 'sequential', 'associative', 'chunked'"
    )


def naive_gated_linear_attention(
    q: Float[Array, "b t g k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t h v"],
    log_decay: Float[Array, "h"] | Float[Array, "b t h"] | Float[Array, "b t h k"] | None = None,
    initial: Float[Array, "b h k v"] | None = None,
) -> tuple[Float[Array, "b t h v"], Float[Array, "b h k v"]]:
    """The definition, step by step: what the methods of the above are tested against."""
    batch, _, heads, _ = v.shape
    q, k = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (q, k))
    if log_decay is None:
        log_decay = jnp.zeros(heads)
    if log_decay.ndim < 4:
        log_decay = log_decay[..., None]
    decay = jnp.broadcast_to(jnp.exp(log_decay), k.shape)
    if initial is None:
        initial = jnp.zeros((batch, heads, k.shape[-1], v.shape[-1]))

    def step(state, now):
        q, k, v, decay = now
        state = decay[..., None] * state + k[..., None] * v[..., None, :]
        return state, jnp.einsum("bhk,bhkv->bhv", q, state)

    last, outputs = lax.scan(step, initial, [jnp.moveaxis(x, 1, 0) for x in (q, k, v, decay)])
    return jnp.moveaxis(outputs, 0, 1), last


def retention(
    q: Float[Array, "b t g k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t h v"],
    decay: Float[Array, "h"],
    initial: Float[Array, "b h k v"] | None = None,
    *,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "b t h v"], Float[Array, "b h k v"]]:
    """Retention: S_t = decay S_{t-1} + k_t v_t^T, y_t = S_t^T q_t / sqrt(k).

    (RetNet, arXiv 2307.08621, section 2.1.) Of the paper's three normalisations of scores this is
    the first; the other two, which also divide by sums over the past, vanish in the norm over each
    head's values that follows, and TimelyGPT (arXiv 2312.00817) leaves them out.

    Args:
        decay: within (0, 1].
        method: "parallel" (one chunk of the whole length, quadratic) or one of
            `gated_linear_attention`'s; the rest of the arguments, too, is explained there.

    Raises:
        ValueError: a shape that does not fit, an unknown method.
    """
    expect(v.shape[2:3], decay=decay)
    if method == "parallel":
        method, chunk = "chunked", max(q.shape[1], 1)
    scale = q.shape[-1] ** -0.5
    return gated_linear_attention(
        scale * q, k, v, jnp.log(decay), initial, method=method, chunk=chunk
    )


def ssd(
    x: Float[Array, "b t h p"],
    step: Float[Array, "b t h"],
    rates: Float[Array, "h"],
    B: Float[Array, "b t g n"],
    C: Float[Array, "b t g n"],
    skip: Float[Array, "h"] | None = None,
    initial: Float[Array, "b h n p"] | None = None,
    *,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "b t h p"], Float[Array, "b h n p"]]:
    """Mamba-2's state space: S_t = exp(step_t rate) S_{t-1} + step_t B_t x_t^T.

    y_t = S_t^T C_t + skip x_t (Mamba-2, arXiv 2405.21060, section 6 and listing 1).

    Args:
        x: inputs of h heads of p channels.
        step: step sizes, positive.
        rates: A of the paper, negative.
        B, C: into the state and out of it, in g groups that divide the heads.
        skip: D of the paper; None for none.
        initial, method, chunk: see `gated_linear_attention`; the outputs have the dtype of x.

    Raises:
        ValueError: a shape that does not fit, an unknown method.
    """
    if x.ndim != 4:
        raise ValueError(f"x: {x.shape} instead of (b, t, h, p)")
    batch, length, heads, _ = x.shape
    expect((batch, length, heads), step=step)
    expect((heads,), rates=rates, skip=skip)
    if B.ndim != 4 or B.shape[:2] != x.shape[:2] or heads % B.shape[2]:
        raise ValueError(f"B: {B.shape} instead of {(batch, length, 'g', 'n')}, g dividing {heads}")
    expect(B.shape, C=C)
    y, last = gated_linear_attention(
        C, B, step[..., None] * x, step * rates, initial, method=method, chunk=chunk
    )
    y = y if skip is None else y + skip[:, None] * x
    return y.astype(jnp.result_type(x)), last


def elu_plus_one(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The feature map of linear attention (arXiv 2006.16236, equation 7)."""
    return jax.nn.elu(x) + 1


def linear_attention(
    q: Float[Array, "b n h k"],
    k: Float[Array, "b m h k"],
    v: Float[Array, "b m h v"],
    *,
    causal: bool = False,
    feature_map: Callable[[Float[Array, "..."]], Float[Array, "..."]] = elu_plus_one,
    eps: float = 1e-6,
    method: str = "auto",
    chunk: int = 64,
) -> Float[Array, "b n h v"]:
    """Attention with weights f(q_i)^T f(k_j) instead of exp(q_i^T k_j), in linear time.

    (Katharopoulos et al., arXiv 2006.16236, equations 5 and 9.)

    Args:
        causal: every token attends to itself and those before it alone; then n = m.
        feature_map: f, positive.
        eps: added to the sum of weights that the output is divided by.
        method, chunk: of the causal form, see `gated_linear_attention`.

    Raises:
        ValueError: shapes that do not fit.
    """
    if k.ndim != 4 or q.shape[::2] != k.shape[::2] or q.shape[3:] != k.shape[3:]:
        raise ValueError(f"k: {k.shape} does not fit q of shape {q.shape}")
    if v.ndim != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: {v.shape} instead of {(*k.shape[:3], 'v')}")
    dtype = jnp.result_type(q, k, v)
    q, k, v = (x.astype(jnp.promote_types(dtype, jnp.float32)) for x in (q, k, v))
    q, k = feature_map(q), feature_map(k)
    # The sum of weights is one more channel of values: that of ones.
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
    if causal:
        sums, _ = gated_linear_attention(q, k, v, method=method, chunk=chunk)
    else:
        sums = jnp.einsum("bnhk,bhkv->bnhv", q, jnp.einsum("bmhk,bmhv->bhkv", k, v))
    return (sums[..., :-1] / (sums[..., -1:] + eps)).astype(dtype)


def _checked(q, k, v, log_decay, initial, chunk):
    """Queries, keys and values of one dtype; decays (b or 1, t, h, k or 1); a state."""
    if q.ndim != 4 or q.shape[1] == 0:
        raise ValueError(f"q: {q.shape} instead of (b, t, g, k) with t > 0")
    expect(q.shape, k=k)
    if v.ndim != 4 or v.shape[:2] != q.shape[:2] or v.shape[2] % q.shape[2]:
        raise ValueError(f"v: {v.shape} instead of (b, t, h, v) with h divided by g of q {q.shape}")
    (batch, length, heads, _), features = v.shape, q.shape[-1]
    per_step = batch, length, heads
    if log_decay is not None and log_decay.shape not in (
        (heads,),
        per_step,
        (*per_step, features),
    ):
        raise ValueError(
            f"log_decay: {log_decay.shape} is none of {(heads,)}, {per_step}, "
            f"{(*per_step, features)}"
        )
    state_shape = batch, heads, features, v.shape[-1]
    expect(state_shape, initial=initial)
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} steps to a chunk")
    given = [x for x in (q, k, v, log_decay, initial) if x is not None]
    state_dtype = jnp.result_type(*given, jnp.float32)
    initial = jnp.asarray(jnp.zeros(state_shape) if initial is None else initial, state_dtype)
    log_decay = jnp.asarray(jnp.zeros(heads) if log_decay is None else log_decay, state_dtype)
    if log_decay.ndim == 1:
        log_decay = jnp.broadcast_to(log_decay, (1, length, heads))
    if log_decay.ndim == 3:
        log_decay = log_decay[..., None]
    q, k, v = (jnp.asarray(x, jnp.result_type(q, k, v)) for x in (q, k, v))
    return q, k, v, bounded(log_decay), initial


def _sequential(q, k, v, log_decay, initial, chunk):
    shared = v.shape[2] // q.shape[2]

    def step(state, now):
        q, k, v, log_decay = (x.astype(state.dtype) for x in now)
        q, k = (jnp.repeat(x, shared, axis=1) for x in (q, k))
        state = jnp.exp(log_decay)[..., None] * state + k[..., None] * v[..., None, :]
        return state, jnp.einsum("bhk,bhkv->bhv", q, state).astype(now[2].dtype)

    return scan_steps(step, initial, (q, k, v, log_decay), chunk)


def _associative(q, k, v, log_decay, initial):
    shared, dtype = v.shape[2] // q.shape[2], v.dtype
    q, k, v = (x.astype(initial.dtype) for x in (q, k, v))
    q, k = (jnp.repeat(x, shared, axis=2) for x in (q, k))
    written = k[..., None] * v[..., None, :]
    decay = jnp.exp(log_decay)[..., None]
    states, last = linear_recurrence(
        decay, written, initial, method="associative", over_time=False
    )
    return jnp.einsum("bthk,bthkv->bthv", q, states).astype(dtype), last


def _chunked(q, k, v, log_decay, initial, chunk):
    length, groups, dtype = q.shape[1], q.shape[2], v.dtype
    sub_chunk = min(_SUB_CHUNK, chunk, length)
    chunk = -(-min(chunk, length) // sub_chunk) * sub_chunk

    def heads_first(x):
        """(b, c, h, ...) as (b, g, h / g, c, ...)"""
        x = jnp.moveaxis(x.astype(initial.dtype), 1, 2)
        return x.reshape(x.shape[0], groups, -1, *x.shape[2:])

    def body(state, now):
        q, k, v, log_decay = map(heads_first, now)
        # Exponents are sums of log decays after some step, never positive.
        total = jnp.cumsum(log_decay, -2)
        end = total[..., -1:, :]
        y = _scores(q, k, total, sub_chunk) @ v + (q * jnp.exp(total)) @ state
        state = jnp.exp(end).mT * state + (k * jnp.exp(end - total)).mT @ v
        y = y.reshape(y.shape[0], -1, *y.shape[3:])
        return state, jnp.moveaxis(y, 1, 2).astype(dtype)

    state = initial.reshape(initial.shape[0], groups, -1, *initial.shape[2:])
    y, last = scan_chunks(body, state, cut((q, k, v, log_decay), chunk), length)
    return y, last.reshape(initial.shape)


def _scores(q, k, total, sub_chunk):
    """sum_k q_ik k_jk exp(G_ik - G_jk) for i >= j, else 0: (b, g, h / g, c, c).

    A decay for each head comes out of the sum. One for each channel stays within: factors
    exp(G_i) and exp(-G_j) would overflow, so pairs in one sub-chunk are taken one by one, and those
    of two sub-chunks through what has decayed just before the query's (GLA, section 4.3).
    """
    if total.shape[-1] == 1:
        return (q @ k.mT) * decays_between(total[..., 0])
    cut_up = lambda x: x.reshape(*x.shape[:-2], -1, sub_chunk, x.shape[-1])
    queries, keys, totals = cut_up(q), cut_up(k), cut_up(total)
    number, size = totals.shape[-3], total.shape[-2]

    between = totals[..., :, None, :] - totals[..., None, :, :]
    decays = masked_exp(between, np.tri(sub_chunk, dtype=bool)[..., None])
    same = jnp.sum(queries[..., :, None, :] * keys[..., None, :, :] * decays, -1)
    same = same[..., None, :] * np.eye(number)[:, None, :, None].astype(same.dtype)

    widths = [(0, 0)] * (totals.ndim - 3) + [(1, 0), (0, 0)]
    start = jnp.pad(totals[..., :-1, -1, :], widths)
    earlier = np.arange(size) < sub_chunk * np.arange(number)[:, None]
    decays = masked_exp(start[..., None, :] - total[..., None, :, :], earlier[..., None])
    queries = queries * jnp.exp(totals - start[..., None, :])
    other = queries @ (k[..., None, :, :] * decays).mT
    return (same.reshape(other.shape) + other).reshape(*other.shape[:-3], size, size)
