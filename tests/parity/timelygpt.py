"""li-lab-mcgill/TimelyGPT: its parts."""

import einops
import jax
import jax.numpy as jnp

from stjax.convert import timelygpt as convert
from stjax.layers.retention import moved
from stjax.ops.gated_linear_attention import retention as retention_op
from stjax.ops.xpos import xpos
from tests.parity import Case


def retention(golden):
    config = golden.config
    module = convert.retention(config)
    heads, qk = config["num_heads"], config["qk_dim"]
    split = lambda y: einops.rearrange(y, "b t (h c) -> b t h c", h=heads)

    def forward(variables, inputs):
        z = inputs["z"]
        length, positions = z.shape[1], jnp.arange(z.shape[1])

        def run(method, **options):
            y, state = module.clone(method=method, chunk=config["chunk"]).apply(
                variables, z, **options
            )
            # The official memory is as seen from the first step.
            return y, moved(state, -length)

        def step(state, z):
            y, state = module.apply(variables, z[:, None], state)
            return state, y[:, 0]

        q, k, _ = jnp.split(z @ variables["params"]["qkv"]["kernel"], [qk, 2 * qk], -1)
        coded = {
            name: (xpos(q, positions + offset), xpos(k, positions + offset, keys=True))
            for name, offset in (("", 0), ("_offset", config["offset"]))
        }
        q, k = map(split, coded[""])
        # What every step retains of the others: values that tell the steps apart.
        steps = jnp.broadcast_to(jnp.eye(length)[:, None], (len(z), length, heads, length))
        weights, _ = retention_op(q, k, steps, module.decay())

        parallel, parallel_state = run("parallel")
        masked, masked_state = run("parallel", mask=inputs["retention_mask"])
        chunkwise, chunkwise_state = run("chunked")
        recurrent_state, recurrent = jax.lax.scan(
            step, jnp.zeros_like(parallel_state), jnp.moveaxis(z, 1, 0)
        )
        loss = jnp.mean(jnp.square(parallel - inputs["y"]))
        return loss, {
            **{f"xpos_q{name}": q for name, (q, _) in coded.items()},
            **{f"xpos_k{name}": k for name, (_, k) in coded.items()},
            "parallel": parallel,
            "parallel_state": parallel_state,
            "retention_map": jnp.moveaxis(weights, 2, 1),
            "parallel_masked": masked,
            "masked_state": masked_state,
            "chunkwise": chunkwise,
            "chunkwise_state": chunkwise_state,
            "recurrent": jnp.moveaxis(recurrent, 0, 1),
            "recurrent_state": moved(recurrent_state, -length),
            "loss": loss,
        }

    return Case(forward, convert.retention_rules(config), convert.RETENTION_LEFT_OUT)


DRIVERS = {"TimelyGPT::MultiScaleRetention": retention}
