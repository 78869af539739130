"""Pallas kernels of the recurrences, for GPUs (Triton) and TPUs; `stjax.ops` calls them by method.

The kernels' modules are imported where they run: a CPU needs nothing of Pallas. Compilers do not
cut kernels over a mesh: there, call them within `jax.shard_map(..., check_vma=False)`.
"""

import jax


def target() -> str:
    """The default backend, "gpu" or "tpu".

    Raises:
        ValueError: there are no kernels for it.
    """
    backend = jax.default_backend()
    if backend not in ("gpu", "tpu"):
        raise ValueError(f"method: 'pallas' needs a gpu or tpu; the backend is {backend}")
    return backend
