"""Quick tests: nearly all of a tiny case's time is spent compiling, so do it cheaply, or not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

COMPILER_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
jit = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)


def variables(module, *args):
    """Variables of a module's shapes, drawn without compiling its initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    draw = lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), leaf.dtype)
    return jax.tree.map(draw, shapes)
