"""Pallas kernels of the recurrences, for GPUs (Triton) and TPUs; `stjax.ops` calls them by method.

The kernels' modules are imported where they run: a CPU needs nothing of Pallas. Compilers do not
cut kernels over a mesh: there, call them within `jax.shard_map(..., check_vma=False)`.
"""

from stjax.ops.backend import backend


def target() -> str:
    """The platform that is traced for, "gpu" or "tpu".

    Raises:
        ValueError: there are no kernels for it.
    """
    platform = backend()
    if platform not in ("gpu", "tpu"):
        raise ValueError(f"method: 'pallas' needs a gpu or tpu; the backend is {platform}")
    return platform
