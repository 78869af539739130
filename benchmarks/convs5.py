"""A whole training step of ConvS5, ours against the published algorithm.

    python -m benchmarks.convs5
    python -m benchmarks.convs5 --sizes tiny --lengths 10 40

The peer is the same network with the same parameters, but its state-space layers compute as the
authors' code does (NVlabs/ConvSSM, `apply_convSSM_parallel`): complex convolutions of complex
frames, and `lax.associative_scan` of an operator that joins (decay, input) pairs. Their losses are
compared before anything is timed.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import measure
from configs import convs5 as config_module
from experiments import convs5 as experiment_module
from stjax.layers.convs5 import ConvS5
from stjax.ops.ssm import from_pair
from stjax.train import mesh as meshes
from stjax.train.config import override
from stjax.train.step import Stepper

# Overrides of the tiny config of ConvS5.
SIZES = {
    "tiny": {"train.batch": "8"},
    "small": {
        "data.size": "32", "data.digit_size": "14", "train.batch": "2",
        "model.features": "64", "model.encoder_depths": "(32, 64)",
        "model.decoder_depths": "(32, 64)", "convs5.state_size": "128",
    },
}
LENGTHS = (10, 40, 120)
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def as_it_stands(method, args, kwargs, context):
    """Interceptor of flax's method calls that changes nothing."""
    return method(*args, **kwargs)


def published(method, args, kwargs, context):
    """Interceptor that computes `ConvS5.linear` as published, everything else as it stands."""
    layer = context.module
    if not (isinstance(layer, ConvS5) and context.method_name == "linear"):
        return method(*args, **kwargs)
    x, state = (*args, None)[:2]
    decay, into_state = layer.discretised()
    return published_linear(decay, into_state, from_pair(layer.out_of_state), x, state)


def published_linear(decay, into_state, out_of_state, x, state=None):
    """x_k = A x_{k-1} + B * u_k, y_k = 2 Re(C * x_k), in complex numbers throughout."""
    frames = jnp.moveaxis(x, 1, 0)
    drive = _convolve(frames.astype(decay.dtype), into_state)
    if state is not None:
        drive = drive.at[0].add(decay * state)

    @jax.vmap
    def join(before, after):
        return after[0] * before[0], after[0] * before[1] + after[1]

    decays = jnp.broadcast_to(decay, (len(frames), *decay.shape))
    _, states = lax.associative_scan(join, (decays, drive))
    y = 2 * _convolve(states, out_of_state).real
    return jnp.moveaxis(y, 0, 1), states[-1]


@functools.partial(jax.vmap, in_axes=(0, None))
def _convolve(frames, kernel):
    return lax.conv_general_dilated(frames, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def stepper(size: str, length: int) -> tuple[Stepper, dict[str, jax.Array]]:
    """The training step of a size on clips of `length` frames, and a batch of noise for it."""
    half = {"data.context": str(length // 2), "data.horizon": str(length - length // 2)}
    tiny = {"test.count_test": "1"}
    config = override(config_module.get_config("tiny"), SIZES[size] | half | tiny)
    experiment = experiment_module.experiment(config)
    side = config.data.size
    shape = config.train.batch, length, side, side, 1
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mesh = meshes.make({"data": 1}, jax.devices()[:1])
    batch = {"video": jnp.asarray(video)}
    one = {"video": batch["video"][:1]}
    return Stepper(experiment.task, experiment.optimizer, mesh, jax.random.key(0), one), batch


def run(size: str, length: int, rounds: int) -> list[dict]:
    """Rows of one size; refuses to time what does not compute the same loss."""
    ours, batch = stepper(size, length)
    start = ours.create()
    programs, watches, losses = {}, {}, {}
    for name, interceptor in {"stjax": as_it_stands, "published": published}.items():
        state = jax.tree.map(jnp.copy, start)
        with nn.intercept_methods(interceptor):
            programs[name] = measure.compiled(ours.jitted(), state, batch)
        step = Step(programs[name].call, state, batch)
        losses[name] = float(step())
        watches[name] = measure.stopwatch(step)
    first, second = losses.values()
    assert abs(first - second) < 1e-4 * abs(first), f"losses differ: {losses}"
    rows = measure.summary(measure.take_turns(watches, rounds), "stjax")
    return [
        {"size": size, "frames": length, "contender": name, "loss": losses[name]}
        | row | measure.costs(programs[name])
        for name, row in rows.items()
    ]


class Step:
    """A training step that goes on from its own last state."""

    def __init__(self, step: Callable, state, batch):
        self.step, self.state, self.batch = step, state, batch

    def __call__(self) -> jax.Array:
        self.state, logs = self.step(self.state, self.batch)
        return logs["loss"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, help="frames of a clip")
    arguments = parser.parse_args(argv)
    environment = measure.begin()
    rows, panels = [], {}
    for size in arguments.sizes:
        panels[size] = {"stjax": ([], []), "published": ([], [])}
        for length in arguments.lengths:
            new = run(size, length, arguments.rounds)
            measure.show(new)
            rows += new
            for row in new:
                xs, ys = panels[size][row["contender"]]
                xs.append(length)
                ys.append(row["ms"])
    path = measure.write(
        "convs5", environment, rows, arguments.out, baseline="stjax", rounds=arguments.rounds
    )
    measure.plot_lines(path.with_suffix(".png"), panels, "frames", "ms a step")


if __name__ == "__main__":
    main()
