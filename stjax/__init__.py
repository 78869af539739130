"""stjax: published space-time systems in JAX, side by side, proved against their official code."""

__version__ = "0.1.0"
