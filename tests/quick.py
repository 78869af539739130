"""Compilation for tests: nearly all of a tiny case's time is spent compiling, so do it cheaply."""

import functools

import jax

jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
