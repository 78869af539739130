"""All methods of a recurrence on the same arguments."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import quick


def run_all(runs, arguments):
    """Outputs, last states and gradients of every argument, by every run: one jitted call."""

    def values_and_gradients(run, arguments):
        def loss(arguments):
            y, last = run(**arguments)
            return jnp.sum(jnp.square(y)) + jnp.sum(last), (y, last)

        return jax.grad(loss, has_aux=True)(arguments)

    call = lambda arguments: {
        name: values_and_gradients(run, arguments) for name, run in runs.items()
    }
    return jax.device_get(quick.jit(call)(arguments))


def assert_close(ours, expected, tolerance):
    """To `tolerance` of each array's largest magnitude, or of one."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.float64(a), b, 0, tolerance * max(1, np.abs(b).max())
        ),
        ours,
        expected,
    )
