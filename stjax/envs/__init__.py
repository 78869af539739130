"""Worlds that step on the device, as pure functions; they know no model.

    state = world.reset(key)
    state, observation, reward, done = world.step(state, action, key)

Both are functions of one world: `jax.vmap` makes many, `jax.jit` and `lax.scan` run them. A state
is a tree of arrays, of the same shapes from the first step to the last.
"""
