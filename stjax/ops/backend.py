"""Which platform the operators choose their form for."""

import contextlib

import jax

# A context of JAX's own is part of the key under which traced functions are kept: what was traced
# for one platform is not taken for another.
_platform = jax.make_user_context(None)


def backend() -> str:
    """The platform that what is being traced will run on: "cpu", "gpu" or "tpu".

    The default backend, unless a program is compiled for another (see `compiling_for`).
    """
    return _platform.value or jax.default_backend()


def compiling_for(platform: str | None) -> contextlib.AbstractContextManager:
    """What is traced within takes the form for this platform; None is the default backend's.

    For compiling ahead of time, on a machine that has no such chip.
    """
    return _platform(platform)
