"""Convolution over the nodes of a graph."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.ops.precision import promote


class GraphConvolution(nn.Module):
    """y = sum_k S_k x W_k + b, where S_k x mixes nodes and x W_k channels.

    With the Chebyshev polynomials of a scaled Laplacian (`stjax.ops.graph`) that is the spectral
    convolution of Defferrard et al. (2016, arXiv 1606.09375, equation 4), with one normalised
    adjacency that of Kipf and Welling (2017, arXiv 1609.02907); S_k[m, n] is what node m takes
    from node n. Kernel (k, channels, features).

    Attributes:
        features: channels of the output.
        supports: the matrices S_k.
    """

    features: int
    supports: Float[np.ndarray, "k n n"]
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... n c"]) -> Float[Array, "... n features"]:
        terms, nodes, _ = self.supports.shape
        if x.shape[-2] != nodes:
            raise ValueError(f"x: {x.shape} on a graph of {nodes} nodes")
        shape = (terms, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x, kernel, bias = promote((x, kernel, bias), self.dtype)
        supports = jnp.asarray(self.supports, x.dtype)
        return jnp.einsum("kmn,...nc,kco->...mo", supports, x, kernel) + bias
