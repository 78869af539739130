"""Learning-rate schedules of OpenSTL."""

import jax
import jax.numpy as jnp

from stjax.train import optim
from tests.golden_files import Golden
from tests.parity import Case


def schedules(golden: Golden) -> Case:
    config = golden.config
    peak, steps, epochs = config["lr"], config["total_steps"], config["epochs"]

    def forward(_, inputs):
        del inputs
        outputs = {
            "onecycle_lr": jax.vmap(optim.one_cycle(peak, steps))(jnp.arange(steps)),
            "onecycle_beta1": jax.vmap(optim.one_cycle_momentum(steps))(jnp.arange(steps)),
        }
        for warmup in config["warmup"]:
            cosine = optim.epoch_cosine(peak, epochs, steps_per_epoch=1, warmup_epochs=warmup)
            outputs[f"cosine_warmup{warmup}_lr"] = jax.vmap(cosine)(jnp.arange(epochs))
        return None, outputs

    return Case(forward)


DRIVERS = {"OpenSTL::get_optim_scheduler": schedules}
