"""Pallas kernels of the recurrences, for GPUs (Triton) and TPUs; `stjax.ops` calls them by method.

Imported only where they run: a CPU needs nothing of it.
"""
