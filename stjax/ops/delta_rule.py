"""The delta rule: a matrix memory that corrects what it holds under a key, and may decay."""

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from stjax.ops.chunks import bounded, cut, decays_between, scan_chunks, scan_steps
from stjax.ops.measured import fastest
from stjax.ops.shapes import expect


def delta_rule(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b t h k"],
    v: Float[Array, "b t h v"],
    beta: Float[Array, "b t h"],
    log_decay: Float[Array, "b t h"] | None = None,
    initial: Float[Array, "b h k v"] | None = None,
    *,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "b t h v"], Float[Array, "b h k v"]]:
    """S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T and y_t = S_t^T q_t.

    (DeltaNet, arXiv 2406.06484, section 2.2; gated, arXiv 2412.06464, equation 10.) As in the
    latter and its official code, the memory decays before the key reads from it: the decay is of
    what is erased too, but not of what is written. Nothing is scaled or normalised; the memory does
    not grow by itself where 0 <= beta |k|^2 <= 2.

    Args:
        q, k, v: queries, keys and values.
        beta: strength of writing.
        log_decay: g_t <= 0, -inf to forget everything; None for no decay.
        initial: the state before the first step; None is zero.
        method: "sequential" (a loop over steps), "associative" (logarithmic depth; t matrices of
            k by k in memory), "chunked" (products of matrices within chunks, a loop over them) or
            "auto", the fastest of them (see `stjax.ops.measured`).
        chunk: steps to a chunk, for "chunked"; "sequential" keeps one state a chunk for its
            backward pass.

    Returns:
        The outputs, in the common dtype of q, k and v, and the state after the last step, in
        float32 at least: so are all states.

    Raises:
        ValueError: a shape that does not fit, an unknown method.
    """
    q, k, v, beta, log_decay, initial = _checked(q, k, v, beta, log_decay, initial, chunk)
    if method == "auto":
        method = fastest("delta_rule", q.shape[1])
    if method == "sequential":
        return _sequential(q, k, v, beta, log_decay, initial, chunk)
    if method == "associative":
        return _associative(q, k, v, beta, log_decay, initial)
    if method == "chunked":
        return _chunked(q, k, v, beta, log_decay, initial, chunk)
    raise ValueError(
        f"method: {method!r} is none of 'auto', 'sequential', 'associative', 'chunked'"
    )


def naive_delta_rule(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b t h k"],
    v: Float[Array, "b t h v"],
    beta: Float[Array, "b t h"],
    log_decay: Float[Array, "b t h"] | None = None,
    initial: Float[Array, "b h k v"] | None = None,
) -> tuple[Float[Array, "b t h v"], Float[Array, "b h k v"]]:
    """The definition, step by step: what the methods of `delta_rule` are tested against."""
    decay = jnp.exp(jnp.zeros_like(beta) if log_decay is None else log_decay)
    if initial is None:
        initial = jnp.zeros((v.shape[0], *v.shape[2:3], k.shape[-1], v.shape[-1]))

    def step(state, now):
        q, k, v, beta, decay = now
        beta, decay = beta[..., None, None], decay[..., None, None]
        keep = jnp.eye(k.shape[-1]) - beta * k[..., :, None] * k[..., None, :]
        state = decay * (keep @ state) + beta * k[..., :, None] * v[..., None, :]
        return state, jnp.einsum("bhk,bhkv->bhv", q, state)

    steps = [jnp.moveaxis(x, 1, 0) for x in (q, k, v, beta, decay)]
    last, outputs = lax.scan(step, initial, steps)
    return jnp.moveaxis(outputs, 0, 1), last


def delta_step(
    state: Float[Array, "... k v"],
    k: Float[Array, "... n k"],
    v: Float[Array, "... n v"],
    beta: Float[Array, "..."] | float,
    decay: Float[Array, "..."] | float = 1.0,
) -> Float[Array, "... k v"]:
    """decay (S - beta K^T K S) + beta K^T V: one write of n keys, the rows of K, at once.

    What a frame of n pixels writes in GDKVM (arXiv 2512.10252), whose gates depend on the state, so
    that its frames come one after another. All keys read the same old memory: that is not the same
    as n steps of the delta rule.

    Args:
        state: the memory S.
        k, v: keys and values.
        beta, decay: broadcast against the state by NumPy's rule: a gate for a whole head ends in
            axes (1, 1). The decay is a factor, not its logarithm.
    """
    return decay * (state - beta * (k.mT @ (k @ state))) + beta * (k.mT @ v)


def _checked(q, k, v, beta, log_decay, initial, chunk):
    """Queries, keys and values of one dtype; the rest in that of the states."""
    if q.ndim != 4 or q.shape[1] == 0:
        raise ValueError(f"q: {q.shape} instead of (b, t, h, k) with t > 0")
    expect(q.shape, k=k)
    if v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(f"v: {v.shape} instead of {(*q.shape[:3], 'v')}")
    expect(q.shape[:3], beta=beta, log_decay=log_decay)
    state_shape = q.shape[0], q.shape[2], q.shape[3], v.shape[3]
    expect(state_shape, initial=initial)
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} steps to a chunk")
    given = [x for x in (q, k, v, beta, log_decay, initial) if x is not None]
    dtype, state_dtype = jnp.result_type(q, k, v), jnp.result_type(*given, jnp.float32)
    log_decay = jnp.zeros(beta.shape) if log_decay is None else log_decay
    initial = jnp.zeros(state_shape) if initial is None else initial
    q, k, v = (jnp.asarray(x, dtype) for x in (q, k, v))
    beta, log_decay, initial = (jnp.asarray(x, state_dtype) for x in (beta, log_decay, initial))
    return q, k, v, beta, bounded(log_decay), initial


def _sequential(q, k, v, beta, log_decay, initial, chunk):
    def step(state, now):
        q, k, v, beta, log_decay = (x.astype(state.dtype) for x in now)
        beta, decay = beta[..., None, None], jnp.exp(log_decay)[..., None, None]
        state = delta_step(state, k[..., None, :], v[..., None, :], beta, decay)
        return state, jnp.einsum("bhk,bhkv->bhv", q, state).astype(now[2].dtype)

    return scan_steps(step, initial, (q, k, v, beta, log_decay), chunk)


def _associative(q, k, v, beta, log_decay, initial):
    dtype = v.dtype
    q, k, v = (x.astype(initial.dtype) for x in (q, k, v))
    write = beta[..., None] * k
    erase = jnp.eye(k.shape[-1], dtype=k.dtype) - write[..., :, None] * k[..., None, :]
    keep = jnp.exp(log_decay)[..., None, None] * erase
    written = write[..., :, None] * v[..., None, :]
    written = written.at[:, 0].add(keep[:, 0] @ initial)

    def combine(before, after):
        return after[0] @ before[0], after[0] @ before[1] + after[1]

    states = lax.associative_scan(combine, (keep, written), axis=1)[1]
    return jnp.einsum("bthk,bthkv->bthv", q, states).astype(dtype), states[:, -1]


def _chunked(q, k, v, beta, log_decay, initial, chunk):
    """DeltaNet, section 3; with decays, gated DeltaNet, section 3.3.

    In terms of what is written, S_t = exp(g_t) S_{t-1} + k_t u_t^T, where
    u_t = beta_t (v_t - exp(g_t) S_{t-1}^T k_t). Within a chunk that is a triangular system for the
    rows u_t, linear in the state at its start: it is solved for all chunks at once, and the state
    comes in afterwards.
    """
    length, dtype = q.shape[1], v.dtype
    arrays = cut((q, k, v, beta, log_decay), min(chunk, length))
    q, k, v, beta, log_decay = (jnp.moveaxis(x.astype(initial.dtype), 2, 3) for x in arrays)
    beta, total = beta[..., None], jnp.cumsum(log_decay, -1)
    overlap = jnp.tril((k @ k.mT) * decays_between(total), -1)
    reads = jnp.exp(total)[..., None] * k
    solved = solve_triangular(
        beta * overlap, beta * jnp.concatenate([v, reads], -1), lower=True, unit_diagonal=True
    )
    fresh, reads = jnp.split(solved, [v.shape[-1]], -1)

    def body(state, now):
        q, k, fresh, reads, total = now
        end = total[..., -1:]
        written = fresh - reads @ state
        y = ((q @ k.mT) * decays_between(total)) @ written
        y = y + (q * jnp.exp(total)[..., None]) @ state
        kept = k * jnp.exp(end - total)[..., None]
        state = jnp.exp(end)[..., None] * state + kept.mT @ written
        return state, jnp.moveaxis(y, 1, 2).astype(dtype)

    return scan_chunks(body, initial, (q, k, fresh, reads, total), length)
