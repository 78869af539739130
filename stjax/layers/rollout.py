"""Cells of frames, run over time on true frames or on their own outputs."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float, Shaped

from stjax.ops.conv_recurrence import conv_scan

# What a cell may leave behind at every step, stacked over them, and what it may draw from.
_LEFT_BEHIND = ("intermediates", "losses")
_DRAWN_FROM = ("dropout", "sample")


class Rollout(nn.Module):
    """A cell over frames: output t is its prediction of frame t + 1.

    On a CPU the loop is unrolled, and everywhere the gradient of every kernel of a
    `stjax.layers.convolution.Linear` within the cell is taken once over all steps
    (`stjax.ops.conv_recurrence`). What the cell sows as "intermediates" or "losses" is stacked over
    time; its other collections are carried from step to step.

    Attributes:
        cell: factory of a module `cell(frame, state, *, train) -> (next_frame, state)`, whose
            function of the frame's shape alone `cell.start(frame) -> state` is the state before
            the first. Its `Linear` layers may not lie within loops of its own.
    """

    cell: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self,
        frames: Float[Array, "b t h w d"],
        state: Any = None,
        *,
        train: bool = False,
        truth: Shaped[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t h w d"], Any]:
        """Next frames, and the state after the last.

        Args:
            state: what an earlier call returned; None at the start of a clip.
            truth: where it is 0 or False, the cell sees its own last output in the frame's place
                (at the start of a clip, zeros). None: it sees every frame.
        """
        first, steps = frames[:, 0], frames.shape[1]
        if state is None:
            state = self.cell(parent=None).start(first), jnp.zeros_like(first)
        if self.is_initializing():
            out, _ = self.cell(name="cell")(first, state[0], train=train)
            return jnp.repeat(out[:, None], steps, 1), state
        variables = {name: tree["cell"] for name, tree in self.variables.items() if "cell" in tree}
        params = variables.pop("params")
        scanned = {"frame": jnp.moveaxis(frames, 1, 0)}
        if truth is not None:
            scanned["truth"] = jnp.moveaxis(truth, 1, 0)[..., None, None, None]
        scanned["rngs"] = {
            name: jax.random.split(self.make_rng(name), steps)
            for name in _DRAWN_FROM if train and self.has_rng(name)
        }
        left = [name for name in _LEFT_BEHIND if self.is_mutable_collection(name)]
        changed = [name for name in variables if train and self.is_mutable_collection(name)]

        def step(convolve, params, carry, now):
            variables, state, last = carry
            seen = now["frame"]
            if truth is not None:
                seen = now["truth"] * seen + (1 - now["truth"]) * last
            with nn.intercept_methods(functools.partial(_through, convolve)):
                (out, state), updates = self.cell(parent=None).apply(
                    {"params": params, **variables}, seen, state, train=train,
                    rngs=now["rngs"], mutable=[*left, *changed],
                )
            kept = {name: updates.pop(name) for name in left if name in updates}
            after = {**variables, **updates}, state, out
            # What is carried stays as precise as it came in, whatever the cell computes in.
            return jax.tree.map(lambda new, old: new.astype(old.dtype), after, carry), (out, kept)

        carry = variables, *state
        kernels = _kernels(step, params, carry, scanned)
        (variables, *state), (out, kept) = conv_scan(step, kernels, params, carry, scanned)
        for collection, tree in (kept | {name: variables[name] for name in changed}).items():
            self.put_variable(collection, "cell", tree)
        return jnp.moveaxis(out, 0, 1), tuple(state)


def _kernels(step, params, carry, scanned):
    """The kernels of all `Linear` layers that a step goes through, by their modules' paths."""
    params, names = traverse_util.flatten_dict(params, sep="/"), []

    def record(name, x, by):
        names.append(name)
        return by(x, params[f"{name}/kernel"])

    nested = traverse_util.unflatten_dict(params, sep="/")
    now = jax.tree.map(lambda x: x[0], scanned)
    jax.eval_shape(lambda carry, now: step(record, nested, carry, now), carry, now)
    return {name: params[f"{name}/kernel"] for name in names}


def _through(convolve, call, arguments, options, context):
    """For `nn.intercept_methods`: every `Linear`'s map goes through `convolve`."""
    if context.method_name != "linear":
        return call(*arguments, **options)
    function, x, kernel = arguments
    by = lambda x, stored: function(x, stored.astype(kernel.dtype))
    return convolve("/".join(context.module.path), x, by)
