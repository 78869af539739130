"""Cells run over time: what they see, what they leave behind, and their gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stjax.layers.convolution import Conv
from stjax.layers.rollout import Rollout
from tests import quick


class Cell(nn.Module):
    """Our convolution beside one that autodiff takes apart, a loss, and running statistics."""

    wide: int = 4
    own: bool = True

    def start(self, frame):
        return jnp.zeros((*frame.shape[:-1], self.wide), frame.dtype)

    @nn.compact
    def __call__(self, frame, state, *, train=False):
        layer = Conv if self.own else nn.Conv
        seen = layer(self.wide, (3, 3), name="frame")(frame)
        state = jnp.tanh(seen + nn.Conv(self.wide, (3, 3), name="state")(state))
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")
        state = nn.Dropout(0.5, deterministic=not train)(norm(state))
        self.sow("losses", "size", jnp.mean(state**2))
        return layer(frame.shape[-1], (1, 1), name="out")(state), state


def test_gradients_losses_and_statistics_are_those_of_a_plain_loop():
    with jax.enable_x64(True):
        video = jax.random.normal(jax.random.key(0), (2, 5, 4, 6, 3))
        truth = jnp.ones((2, 5)).at[0, 2:].set(0).at[1, 4].set(0)
        variables = quick.variables(Rollout(Cell), video)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
        params, stats = variables["params"], variables["batch_stats"]["cell"]
        rng = jax.random.key(1)

        def rolled(params):
            (out, state), left = Rollout(Cell).apply(
                {"params": params, "batch_stats": {"cell": stats}}, video, train=True, truth=truth,
                rngs={"dropout": rng}, mutable=["losses", "batch_stats"],
            )
            return out, state[0], left["losses"]["cell"]["size"][0], left["batch_stats"]["cell"]

        def looped(params, keys):
            cell = Cell(own=False)
            state, last, now, outs, losses = cell.start(video[:, 0]), 0, stats, [], []
            for t in range(5):
                seen = truth[:, t, None, None, None]
                frame = seen * video[:, t] + (1 - seen) * last
                (last, state), left = cell.apply(
                    {"params": params["cell"], "batch_stats": now}, frame, state, train=True,
                    rngs={"dropout": keys[t]}, mutable=["losses", "batch_stats"],
                )
                now = left["batch_stats"]
                outs.append(last)
                losses.append(left["losses"]["size"][0])
            return jnp.stack(outs, 1), state, jnp.stack(losses), now

        class Keys(nn.Module):
            """The key that `Rollout` splits."""

            def __call__(self):
                return jax.random.split(self.make_rng("dropout"), 5)

        keys = Keys().apply({}, rngs={"dropout": rng})
        loss = lambda out: sum(jnp.sum(x**2) for x in jax.tree.leaves(out))
        both = lambda f: jax.value_and_grad(lambda *args: (loss(f(*args)), f(*args)), has_aux=True)
        (_, ours), by_params = quick.jit(both(rolled))(params)
        (_, theirs), expected = quick.jit(both(looped))(params, keys)
        same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        jax.tree.map(same, ours, theirs)
        jax.tree.map(same, by_params, expected)


def test_whole_in_chunks_and_as_precise_as_it_came():
    video = jax.random.normal(jax.random.key(0), (2, 4, 4, 6, 3))
    model = Rollout(Cell)
    variables = quick.variables(model, video)
    whole, last = model.apply(variables, video)
    first, state = model.apply(variables, video[:, :1])
    rest, state = model.apply(variables, video[:, 1:], state)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(close, (jnp.concatenate([first, rest], 1), state), (whole, last))
