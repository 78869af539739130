"""OpenSTL's predictors on a CPU, a training step and a forecast: ours against the official code.

    pip install torch==2.13.0 torchvision timm==0.6.11
    git clone -b OpenSTLv0.3.0 https://github.com/chengtan9907/OpenSTL ~/OpenSTL
    git clone https://github.com/yyyujintang/PredFormer ~/PredFormer
    python -m benchmarks.openstl --official ~/OpenSTL --predformer ~/PredFormer
    python -m benchmarks.openstl --official ~/OpenSTL --sizes "simvp small" --profile

A step is forward, backward and Adam, a forecast the future of one batch, in float32. Both sides
start from the official weights and the same batch; their losses over the first steps and their
forecasts are compared before anything is timed. Stochastic depth is off on both sides, so that
nothing is drawn. Each contender lives in a process of its own and waits while another computes: in
one process the two sets of threads get in each other's way (`--together` shows how much).
"""

import argparse
import dataclasses
import functools
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
from stjax.convert import mau, openstl, phydnet, predformer, simvpv2
from stjax.convert.rules import from_official
from stjax.tasks.frame_prediction import FramePrediction
from stjax.train import mesh as meshes
from stjax.train.optim import optimizer
from stjax.train.state import TrainState
from stjax.train.step import Stepper

RATE = 1e-3
STEPS_COMPARED = 3
LAYOUTS = ("contiguous", "channels_last")
WHAT = ("step", "forecast")


@dataclasses.dataclass(frozen=True)
class Size:
    """A network's official arguments, and the batch. Clips are twice in_shape[0] frames long."""

    network: str
    config: Mapping[str, Any]
    batch: int


def _simvp(in_shape, batch, model_type="gSTA", **config):
    return Size("simvp", {"in_shape": in_shape, "model_type": model_type, **config}, batch)


def _recurrent(network, in_shape, batch, **config):
    frames = in_shape[0]
    fixed = {
        "in_shape": in_shape, "stride": 1, "layer_norm": 0, "reverse_scheduled_sampling": 0,
        "pre_seq_length": frames, "aft_seq_length": frames, "total_length": 2 * frames,
        "filter_size": 5, "patch_size": 4, "device": "cpu",
    }
    return Size(network, {**fixed, **config}, batch)


_LONG, _SHORT = (10, 1, 32, 32), (5, 1, 32, 32)
_SMALL = {"hid_S": 32, "hid_T": 128, "N_S": 2, "N_T": 4, "mlp_ratio": 4.0}
_PREDFORMER = {
    "variant": "Quadruplet_TSST", "height": 32, "width": 32, "num_channels": 1, "pre_seq": 10,
    "after_seq": 10, "patch_size": 4, "dim": 64, "heads": 4, "dim_head": 16, "dropout": 0.0,
    "attn_dropout": 0.0, "drop_path": 0.0, "scale_dim": 4, "depth": 1, "Ndepth": 2,
    "in_shape": _LONG,
}
SIZES = {
    "simvp tiny": _simvp((5, 1, 16, 16), 16, hid_S=16, hid_T=64, N_S=2, N_T=4, mlp_ratio=4.0),
    "simvp small": _simvp(_LONG, 4, **_SMALL),
    "simvp vit": _simvp(_LONG, 4, "ViT", **_SMALL),
    "tau": _simvp(_LONG, 4, "tau", **_SMALL),
    "predformer": Size("predformer", _PREDFORMER, 4),
    "convlstm tiny": _recurrent(
        "convlstm", (5, 1, 16, 16), 16, num_hidden=(32, 32), patch_size=2
    ),
    "convlstm small": _recurrent("convlstm", _LONG, 8, num_hidden=(64, 64)),
    "predrnn": _recurrent("predrnn", _LONG, 8, num_hidden=(64, 64)),
    "e3dlstm": _recurrent("e3dlstm", _SHORT, 4, num_hidden=(32, 32)),
    "mau": _recurrent(
        "mau", _LONG, 8, num_hidden=(64, 64), patch_size=1, sr_size=4, tau=5, cell_mode="normal",
        model_mode="normal",
    ),
    "phydnet": _recurrent("phydnet", _LONG, 8),
}


def clip(size: Size) -> np.ndarray:
    """Noise in [0, 1]: (b, t, h, w, c)."""
    frames, channels, height, width = size.config["in_shape"]
    shape = size.batch, 2 * frames, height, width, channels
    return np.random.default_rng(0).random(shape, np.float32)


def visible(size: Size) -> np.ndarray:
    """Which of the later inputs are true, (b, t): half of them, by scheduled sampling's draws.

    PhyDNet's are its own outputs.
    """
    shape = size.batch, size.config["in_shape"][0] - 1
    if size.network == "phydnet":
        return np.zeros(shape, bool)
    return np.random.default_rng(1).random(shape) < 0.5


class Contender:
    """What is timed: `step`, a training step that goes on from the last and gives its loss, and
    `forecast`, which gives the future frames.
    """

    def seconds(self, what: str) -> float:
        if not hasattr(self, "_watches"):
            self._watches = {}
        if what not in self._watches:
            self._watches[what] = measure.stopwatch(getattr(self, what))
        return self._watches[what]()

    def step(self) -> float:
        raise NotImplementedError

    def forecast(self) -> np.ndarray:
        """(b, t, h, w, c)."""
        raise NotImplementedError

    def costs(self) -> measure.Row:
        return {}

    def close(self) -> None:
        pass


class Ours(Contender):
    """Our training step and forecast, from official weights."""

    def __init__(self, size: Size, release: str, weights: Mapping[str, np.ndarray]):
        measure.begin()
        frames, sampling = size.config["in_shape"][0], None
        model, rules, left_out = _ours(size, release)
        if model.predicts == "next":
            truth = jnp.pad(visible(size), ((0, 0), (frames, 0)), constant_values=True)
            sampling = lambda *_: truth.astype(jnp.float32)
        loss = "mse_plus_l1" if size.network == "e3dlstm" else "mse"
        task = FramePrediction(model, frames, frames, loss_name=loss, sampling=sampling)
        adam = optimizer(steps=1, name="adam", peak=RATE, schedule="constant")
        variables = jax.device_put(from_official(rules, weights, left_out))
        self.batch, key = {"video": jnp.asarray(clip(size))}, jax.random.key(0)
        self.read = measure.compiled(task.predict, variables, self.batch, key)
        self.forecast = lambda: jax.block_until_ready(self.read.call(self.start, self.batch, key))
        self.start = jax.tree.map(jnp.copy, variables)
        params = variables.pop("params")
        self.state = TrainState(jnp.int32(0), params, variables, adam.init(params), None)
        mesh = meshes.make({"data": 1}, jax.devices()[:1])
        stepper = Stepper(task, adam, mesh, key, self.batch)
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


def _ours(size, release):
    """Our model, its table of rules, and what that leaves out."""
    config = size.config
    if size.network == "simvp":
        config = {**config, "drop_path": None}
        return simvpv2.module(config), simvpv2.rules(config), simvpv2.LEFT_OUT
    if size.network == "predformer":
        return predformer.module(config), predformer.rules(config), ()
    if size.network in ("mau", "phydnet"):
        convert = {"mau": mau, "phydnet": phydnet}[size.network]
        return convert.module(config), convert.rules(config), convert.LEFT_OUT
    name, left_out = size.network, openstl.LEFT_OUT[size.network]
    return openstl.module(name, config, release), openstl.rules(name, config), left_out


class Official(Contender):
    """The official network's training step and forecast, as plain PyTorch."""

    def __init__(self, size: Size, paths: Mapping[str, pathlib.Path], layout: str):
        import torch

        self.torch = torch
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        build = {
            "simvp": self._clip_model, "predformer": self._clip_model, "phydnet": self._phydnet,
        }.get(size.network, self._recurrent)
        build(size, paths)
        if layout == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.model.train()
        self.adam = torch.optim.Adam(self.model.parameters(), lr=RATE)

    def _clip_model(self, size, paths):
        """A clip to its future."""
        if size.network == "simvp":
            official = _import_official(paths["openstl"], "simvp_model")
            self.model = official.SimVP_Model(**size.config)
        else:
            name = f"PredFormer_{size.config['variant']}"
            official = _import_official(paths["predformer"], name)
            self.model = official.PredFormer_Model(size.config)
        for module in self.model.modules():
            if type(module).__name__ == "DropPath":
                module.drop_prob = 0.0
        context, future = self._frames_first(clip(size)).chunk(2, dim=1)
        context, mse = context.contiguous(), self.torch.nn.functional.mse_loss
        self.loss = lambda: mse(self.model(context), future)
        self.read = lambda: self.model(context)

    def _recurrent(self, size, paths):
        """Frame by frame, on frames folded in patches."""
        config, name = size.config, size.network
        official = _import_official(paths["openstl"], f"{name}_model")
        make = getattr(official, {"convlstm": "ConvLSTM_Model", "predrnn": "PredRNN_Model",
                                  "e3dlstm": "E3DLSTM_Model", "mau": "MAU_Model"}[name])
        hidden, patch = config["num_hidden"], config["patch_size"]
        self.model = make(len(hidden), hidden, argparse.Namespace(**config))
        pattern = "b t (h p) (w q) c -> b t h w (p q c)"
        frames = self.torch.from_numpy(einops.rearrange(clip(size), pattern, p=patch, q=patch))
        seen = self.torch.from_numpy(np.float32(visible(size)))[:, :, None, None, None]
        seen = seen.expand(-1, -1, *frames.shape[2:]).contiguous()
        self.loss = lambda: self.model(frames, seen)[1]
        pattern, none = "b t h w (p q c) -> b t c (h p) (w q)", self.torch.zeros_like(seen)

        def read():
            out = self.model(frames, none, return_loss=False)[0][:, -config["aft_seq_length"] :]
            if name == "mau":  # whose outputs have their channels first
                out = out.movedim(2, -1)
            return einops.rearrange(out, pattern, p=patch, q=patch)

        self.read = read

    def _phydnet(self, size, paths):
        official = _import_official(paths["openstl"], "phydnet_model")
        self.model = official.PhyDNet_Model(argparse.Namespace(**size.config))
        context, future = (
            part.contiguous() for part in self._frames_first(clip(size)).chunk(2, dim=1)
        )
        constraints = self.torch.eye(49).reshape(49, 7, 7)
        steps = 2 * size.config["pre_seq_length"] - 1
        # The published sum over steps, as the mean that ours is.
        self.loss = lambda: self.model(context, future, constraints) / steps
        self.read = lambda: self.model.inference(context, future, constraints, return_loss=False)[0]

    def _frames_first(self, video):
        return self.torch.from_numpy(np.moveaxis(video, -1, 2).copy())

    def weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}

    def step(self) -> float:
        self.adam.zero_grad()
        loss = self.loss()
        loss.backward()
        self.adam.step()
        return loss.item()

    def forecast(self) -> np.ndarray:
        self.model.eval()
        with self.torch.no_grad():
            out = self.read().numpy()
        self.model.train()
        return np.moveaxis(out, 2, -1)

    def profile(self, steps: int = 5) -> dict[str, float]:
        """ms a step of every operator."""
        with self.torch.profiler.profile() as profiler:
            for _ in range(steps):
                self.step()
        events = profiler.key_averages()
        return {event.key: event.self_cpu_time_total / steps / 1e3 for event in events}


def _import_official(path: pathlib.Path, module: str) -> types.ModuleType:
    """One module of `openstl.models`, without the package's `__init__`, which wants OpenCV.

    timm's MaxxViT, which nobody asks for, does not import on Python 3.11.
    """
    if not (path / "openstl" / "models").is_dir():
        raise FileNotFoundError(f"--official: {path} is no checkout of OpenSTL")
    sys.path.insert(0, str(path))
    sys.modules.setdefault("timm.models.maxxvit", types.ModuleType("timm.models.maxxvit"))
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
    name: str, paths: Mapping[str, pathlib.Path], rounds: int, together: bool, profile: int
) -> tuple[list[measure.Row], dict[str, dict[str, float]]]:
    """Rows of one size, and profiles: contender -> operation -> ms a step."""
    size, start = SIZES[name], (lambda make, *args: make(*args)) if together else Remote
    contenders = {f"PyTorch {layout}": start(Official, size, paths, layout) for layout in LAYOUTS}
    weights = next(iter(contenders.values())).weights()
    contenders["stjax"] = start(Ours, size, release(paths["openstl"]), weights)
    try:
        agree({contender: np.asarray(own.forecast()) for contender, own in contenders.items()})
        losses = {
            contender: [own.step() for _ in range(STEPS_COMPARED)]
            for contender, own in contenders.items()
        }
        agree(losses)
        rows = []
        for what in WHAT:
            watches = {
                contender: functools.partial(own.seconds, what)
                for contender, own in contenders.items()
            }
            for watch in watches.values():
                watch()
            timed = measure.summary(measure.take_turns(watches, rounds), "PyTorch contiguous")
            rows += [
                {"size": name, "what": what, "contender": contender} | row
                | (contenders[contender].costs() if what == "step" else {})
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


def agree(values: Mapping[str, Any]) -> None:
    """Raises AssertionError unless all contenders' numbers are alike, the later less closely."""
    expected = np.asarray(values["stjax"])
    for name, theirs in values.items():
        error = np.abs(np.asarray(theirs) - expected) / np.abs(expected).max()
        assert error[0].max() < 1e-4, f"{name}'s numbers differ by {error[0].max():.1e}"
        assert error.max() < 1e-3, f"{name}'s numbers differ by {error.max():.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--official", type=pathlib.Path, required=True, help="checkout of OpenSTL")
    parser.add_argument("--predformer", type=pathlib.Path, help="checkout of PredFormer")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="all, unless said otherwise")
    parser.add_argument("--together", action="store_true", help="all in one process")
    parser.add_argument(
        "--profile", type=int, nargs="?", const=15, default=0, metavar="TOP",
        help="show where the time goes: the TOP operations of each (15)",
    )
    arguments = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    paths = {"openstl": arguments.official.expanduser()}
    if arguments.predformer:
        paths["predformer"] = arguments.predformer.expanduser()
    sizes = arguments.sizes or [name for name in SIZES if name != "predformer" or name in paths]
    environment, rows, profiles = measure.begin(), [], {}
    for name in sizes:
        new, profiles[name] = run(
            name, paths, arguments.rounds, arguments.together, arguments.profile
        )
        measure.show(new)
        rows += new
        for contender, times in profiles[name].items():
            print(f"\n{name}, {contender}: {sum(times.values()):.4g} ms a step over all threads")
            top = sorted(times.items(), key=lambda item: -item[1])[: arguments.profile]
            measure.show([{"ms": ms, "operation": operation} for operation, ms in top])
    path = measure.write(
        "openstl-together" if arguments.together else "openstl", environment, rows, arguments.out,
        baseline="PyTorch contiguous", rounds=arguments.rounds, official=release(paths["openstl"]),
        profiles=profiles,
    )
    bars = {
        what: {
            f"{r['size']}, {r['contender']}": (r["ratio"], r["ratio_quartiles"])
            for r in rows if r["what"] == what
        }
        for what in WHAT
    }
    measure.plot_bars(path.with_suffix(".png"), bars, "of PyTorch's time")


if __name__ == "__main__":
    main()
