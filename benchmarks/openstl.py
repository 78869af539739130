"""A training step of SimVP-gSTA and of ConvLSTM, ours against the official PyTorch code, on a CPU.

    pip install torch==2.13.0 torchvision timm
    git clone https://github.com/chengtan9907/OpenSTL ~/OpenSTL
    python -m benchmarks.openstl --official ~/OpenSTL
    python -m benchmarks.openstl --official ~/OpenSTL --sizes "simvp small" --profile

Forward, backward and Adam, in float32. Both start from the official weights and the same batch, and
their losses over the first steps are compared before anything is timed. Stochastic depth is off on
both sides, so that nothing is drawn. Each contender lives in a process of its own and waits while
another computes: in one process the two sets of threads get in each other's way (`--together`
shows how much).
"""

import argparse
import dataclasses
import importlib
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
import types
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from stjax.convert import openstl, simvpv2
from stjax.convert.rules import from_official
from stjax.tasks.frame_prediction import FramePrediction
from stjax.train import mesh as meshes
from stjax.train.optim import optimizer
from stjax.train.state import TrainState
from stjax.train.step import Stepper

RATE = 1e-3
STEPS_COMPARED = 3
LAYOUTS = ("contiguous", "channels_last")


@dataclasses.dataclass(frozen=True)
class Size:
    """A network's official arguments, and the batch. Clips are twice in_shape[0] frames long."""

    network: str
    config: Mapping[str, Any]
    batch: int


def _simvp(in_shape, batch, **config):
    return Size("simvp", {"in_shape": in_shape, "model_type": "gSTA", **config}, batch)


def _convlstm(in_shape, batch, **config):
    fixed = {
        "stride": 1, "layer_norm": 0, "reverse_scheduled_sampling": 0,
        "pre_seq_length": in_shape[0], "aft_seq_length": in_shape[0],
    }
    return Size("convlstm", {"in_shape": in_shape, **fixed, **config}, batch)


SIZES = {
    "simvp tiny": _simvp((5, 1, 16, 16), 16, hid_S=16, hid_T=64, N_S=2, N_T=4, mlp_ratio=4.0),
    "simvp small": _simvp((10, 1, 32, 32), 4, hid_S=32, hid_T=128, N_S=2, N_T=4, mlp_ratio=4.0),
    "convlstm tiny": _convlstm(
        (5, 1, 16, 16), 16, num_hidden=(32, 32), patch_size=2, filter_size=5
    ),
    "convlstm small": _convlstm(
        (10, 1, 32, 32), 8, num_hidden=(64, 64), patch_size=4, filter_size=5
    ),
}


def clip(size: Size) -> np.ndarray:
    """Noise in [0, 1]: (b, t, h, w, c)."""
    frames, channels, height, width = size.config["in_shape"]
    shape = size.batch, 2 * frames, height, width, channels
    return np.random.default_rng(0).random(shape, np.float32)


def visible(size: Size) -> np.ndarray:
    """Scheduled sampling's draws, half way: which of the later inputs are true, (b, t)."""
    frames = size.config["in_shape"][0]
    return np.random.default_rng(1).random((size.batch, frames - 1)) < 0.5


class Contender:
    """What is timed: `step`, a training step that goes on from the last and gives its loss."""

    _watch = None

    def seconds(self) -> float:
        if self._watch is None:
            self._watch = measure.stopwatch(self.step)
        return self._watch()

    def step(self) -> float:
        raise NotImplementedError

    def costs(self) -> measure.Row:
        return {}

    def close(self) -> None:
        pass


class Ours(Contender):
    """Our training step, from official weights."""

    def __init__(self, size: Size, release: str, weights: Mapping[str, np.ndarray]):
        measure.begin()
        frames = size.config["in_shape"][0]
        if size.network == "simvp":
            config = {**size.config, "drop_path": None}
            model, rules, left_out = simvpv2.module(config), simvpv2.rules(config), simvpv2.LEFT_OUT
            sampling = None
        else:
            model = openstl.module("convlstm", size.config, release)
            rules = openstl.rules("convlstm", size.config)
            left_out = openstl.LEFT_OUT["convlstm"]
            truth = jnp.pad(visible(size), ((0, 0), (frames, 0)), constant_values=True)
            sampling = lambda *_: truth.astype(jnp.float32)
        task = FramePrediction(model, frames, frames, sampling=sampling)
        adam = optimizer(steps=1, name="adam", peak=RATE, schedule="constant")
        variables = jax.device_put(from_official(rules, weights, left_out))
        params = variables.pop("params")
        self.state = TrainState(jnp.int32(0), params, variables, adam.init(params), None)
        self.batch = {"video": jnp.asarray(clip(size))}
        mesh = meshes.make({"data": 1}, jax.devices()[:1])
        stepper = Stepper(task, adam, mesh, jax.random.key(0), self.batch)
        self.program = measure.compiled(stepper.jitted(), self.state, self.batch)

    def step(self) -> float:
        self.state, logs = self.program.call(self.state, self.batch)
        return float(logs["loss"])

    def costs(self) -> measure.Row:
        return measure.costs(self.program)

    def profile(self, steps: int = 5) -> dict[str, float]:
        """ms a step of every operation of the compiled program, with where it comes from."""
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(steps):
                    self.step()
            (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
            planes = jax.profiler.ProfileData.from_file(str(path)).planes
            nanoseconds = defaultdict(float)
            for event in (e for plane in planes for line in plane.lines for e in line.events):
                if "hlo_op" in dict(event.stats):
                    nanoseconds[event.name] += event.duration_ns
        origin = dict(re.findall(r"%?([\w.-]+) = .*op_name=\"(.*?)\"", self.program.call.as_text()))
        return {
            f"{name}  {origin.get(name, '')}": total / steps / 1e6
            for name, total in nanoseconds.items()
        }


class Official(Contender):
    """The official network's training step, as plain PyTorch."""

    def __init__(self, size: Size, path: pathlib.Path, layout: str):
        import torch

        self.torch = torch
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        video = clip(size)
        official = _import_official(path, f"{size.network}_model")
        if size.network == "simvp":
            self.model = official.SimVP_Model(**size.config)
            for module in self.model.modules():
                if type(module).__name__ == "DropPath":
                    module.drop_prob = 0.0
            video = torch.from_numpy(np.moveaxis(video, -1, 2).copy())
            context, future = video.chunk(2, dim=1)
            context = context.contiguous()
            self.loss = lambda: torch.nn.functional.mse_loss(self.model(context), future)
        else:
            hidden = size.config["num_hidden"]
            configs = argparse.Namespace(**size.config)
            self.model = official.ConvLSTM_Model(len(hidden), hidden, configs)
            patch = size.config["patch_size"]
            frames = torch.from_numpy(
                einops.rearrange(
                    video, "b t (h p) (w q) c -> b t h w (p q c)", p=patch, q=patch
                )
            )
            mask = torch.from_numpy(np.float32(visible(size)))[:, :, None, None, None]
            mask = mask.expand(-1, -1, *frames.shape[2:]).contiguous()
            self.loss = lambda: self.model(frames, mask)[1]
        if layout == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.model.train()
        self.adam = torch.optim.Adam(self.model.parameters(), lr=RATE)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}

    def step(self) -> float:
        self.adam.zero_grad()
        loss = self.loss()
        loss.backward()
        self.adam.step()
        return loss.item()

    def profile(self, steps: int = 5) -> dict[str, float]:
        """ms a step of every operator."""
        with self.torch.profiler.profile() as profiler:
            for _ in range(steps):
                self.step()
        events = profiler.key_averages()
        return {event.key: event.self_cpu_time_total / steps / 1e3 for event in events}


def _import_official(path: pathlib.Path, module: str) -> types.ModuleType:
    """One module of `openstl.models`, without the package's `__init__`, which wants OpenCV."""
    if not (path / "openstl" / "models").is_dir():
        raise FileNotFoundError(f"--official: {path} is no checkout of OpenSTL")
    sys.path.insert(0, str(path))
    package = types.ModuleType("openstl.models")
    package.__path__ = [str(path / "openstl" / "models")]
    sys.modules.setdefault("openstl.models", package)
    return importlib.import_module(f"openstl.models.{module}")


def release(path: pathlib.Path) -> str:
    """The release that a checkout says it is: "v1.0.0"."""
    version = re.search(r"__version__ = ['\"](.*)['\"]", (path / "openstl/version.py").read_text())
    return f"v{version.group(1)}"


class Remote:
    """A contender in a process of its own; its methods are called there, and waited for."""

    def __init__(self, make: Callable[..., Contender], *args: Any):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        self._answer()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args):
            self._pipe.send((method, args))
            return self._answer()

        return call

    def close(self) -> None:
        self._process.terminate()
        self._process.join()

    def _answer(self):
        result = self._pipe.recv()
        if isinstance(result, Exception):
            raise result
        return result


def _serve(pipe, make, args):
    try:
        contender = make(*args)
        pipe.send(None)
        while True:
            method, args = pipe.recv()
            pipe.send(getattr(contender, method)(*args))
    except EOFError:  # whoever asked is gone
        return
    except Exception as error:
        pipe.send(error)
        raise


def run(
    name: str, path: pathlib.Path, rounds: int, together: bool, profile: int
) -> tuple[list[measure.Row], dict[str, dict[str, float]]]:
    """Rows of one size, and profiles: contender -> operation -> ms a step."""
    size, start = SIZES[name], (lambda make, *args: make(*args)) if together else Remote
    contenders = {f"PyTorch {layout}": start(Official, size, path, layout) for layout in LAYOUTS}
    weights = next(iter(contenders.values())).weights()
    contenders["stjax"] = start(Ours, size, release(path), weights)
    try:
        losses = {
            contender: [own.step() for _ in range(STEPS_COMPARED)]
            for contender, own in contenders.items()
        }
        agree(losses)
        for own in contenders.values():
            own.seconds()
        watches = {contender: own.seconds for contender, own in contenders.items()}
        timed = measure.summary(measure.take_turns(watches, rounds), "PyTorch contiguous")
        rows = [
            {"size": name, "contender": contender} | row | contenders[contender].costs()
            | {"losses": losses[contender]}
            for contender, row in timed.items()
        ]
        profiles = {}
        if profile:
            profiles = {contender: own.profile() for contender, own in contenders.items()}
        return rows, profiles
    finally:
        for own in contenders.values():
            own.close()


def agree(losses: Mapping[str, Sequence[float]]) -> None:
    """Raises AssertionError unless all losses are alike: the first, and those after updates."""
    expected = np.asarray(losses["stjax"])
    for name, values in losses.items():
        error = np.abs(np.asarray(values) / expected - 1)
        assert error[0] < 1e-4, f"{name}'s loss differs: {losses}"
        assert error.max() < 1e-3, f"{name}'s updates differ: {losses}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--official", type=pathlib.Path, required=True, help="checkout of OpenSTL")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--together", action="store_true", help="all in one process")
    parser.add_argument(
        "--profile", type=int, nargs="?", const=15, default=0, metavar="TOP",
        help="show where the time goes: the TOP operations of each (15)",
    )
    arguments = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    environment, rows, profiles = measure.begin(), [], {}
    for name in arguments.sizes:
        new, profiles[name] = run(
            name, arguments.official.expanduser(), arguments.rounds, arguments.together,
            arguments.profile,
        )
        measure.show(new)
        rows += new
        for contender, times in profiles[name].items():
            print(f"\n{name}, {contender}: {sum(times.values()):.4g} ms a step over all threads")
            top = sorted(times.items(), key=lambda item: -item[1])[: arguments.profile]
            measure.show([{"ms": ms, "operation": operation} for operation, ms in top])
    path = measure.write(
        "openstl-together" if arguments.together else "openstl", environment, rows, arguments.out,
        baseline="PyTorch contiguous", rounds=arguments.rounds,
        official=release(arguments.official.expanduser()), profiles=profiles,
    )
    bars = {
        name: {r["contender"]: (r["ms"], r["ms_quartiles"]) for r in rows if r["size"] == name}
        for name in arguments.sizes
    }
    measure.plot_bars(path.with_suffix(".png"), bars, "ms a step")


if __name__ == "__main__":
    main()
