"""A training step on up to thousands of chips, on paper: what does it wait for?

    python -m benchmarks.scaling [--write] [--count]

prints the tables of docs/scaling.md; `--write` puts them there, `--count` traces the systems' steps
anew for their FLOPs (benchmarks/scaling.json). Nothing is run or compiled.

Every chip has one sample in its share of the batch. Bytes are what one chip sends, by the ring
algorithms: of an array that n chips hold the parts of, gathering it sends (n - 1) / n of its bytes,
summing copies of it twice that. Over several groups of chips with links of their own (a TPU slice,
a GPU node) each collective goes once through the links, and then every chip of a group brings its
part over the network.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

from stjax.train import flops, mesh, plan
from stjax.train.step import Stepper
from stjax.train.topology import CHIPS, Chip

FOLDER = pathlib.Path(__file__).parent
DOCUMENT = FOLDER.parent / "docs" / "scaling.md"
COUNTED = FOLDER / "scaling.json"
BEGIN, END = "<!-- python -m benchmarks.scaling --write -->", "<!-- end -->"

CHIPS_A_RUN = (8, 64, 512, 4096)
UTILISATION = 0.4
WAYS = 8  # that tensor and sequence cut a sample: one GPU node, or a side of a slice

GRADIENT, STATE, ACTIVATION = 4, 16, 2
"""Bytes a number: gradients and what fsdp gathers are float32; a parameter with its gradient and
Adam's two moments is four float32; activations are bfloat16."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Many chips, in groups (slices, nodes) within which they have links.

    Attributes:
        group: chips of a group.
        network: bytes a second out of one chip to other groups.
        sources: pages with these figures, and those of the chip.
    """

    name: str
    chip: Chip
    group: int
    network: float
    sources: tuple[str, ...]

    @property
    def row(self) -> int:
        """Chips of a group along one side."""
        return round(self.group ** (1 / self.chip.sides))

    @property
    def side(self) -> float:
        """Bytes a second out of one chip over the links along one side."""
        return self.chip.links / self.chip.sides


CLUSTERS = (
    # 2 x 100 Gb/s of network for the eight chips of a host.
    Cluster(
        "TPU v5e", CHIPS["v5e"], CHIPS["v5e"].most, 3.125e9,
        ("https://cloud.google.com/tpu/docs/v5e",),
    ),
    # A DGX: eight ports of 400 Gb/s for eight GPUs.
    Cluster(
        "H200", CHIPS["h200"], 8, CHIPS["h200"].network,
        ("https://www.nvidia.com/en-us/data-center/h200/",
         "https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html"),
    ),
)


@dataclasses.dataclass(frozen=True)
class System:
    """What a training step costs, a sample.

    Attributes:
        parameters, flops: of the network; of a step forward and backward.
        batch: samples a step in the published recipe, or the one assumed.
        summed: numbers that tensor parallelism sums over its chips in the forward pass: two arrays
            a transformer block (Shoeybi et al. 2019, arXiv 1909.08053, section 3), one for each two
            convolutions.
        passed: bytes that a chip passes on in a step where time is cut over `ways` chips, as a
            function of them; None where so many ways do not divide the frames.
    """

    name: str
    parameters: int
    flops: float
    batch: int
    summed: float
    passed: Callable[[int], float] | None = None


def transformer_parameters(width: int, depth: int) -> int:
    """Of depth blocks: attention 4, an MLP of four times the width 8, modulation 6 width^2."""
    return 18 * width**2 * depth


def transformer_flops(width: int, depth: int, tokens: int) -> int:
    """Of a step: 24 width^2 + 4 tokens x width a token and block, 12 width^2 once for the
    modulation; backward twice as much again."""
    return 3 * depth * (tokens * (24 * width**2 + 4 * tokens * width) + 12 * width**2)


def ring_attention(layers: int, tokens: int, width: int, ways: int) -> float:
    """Bytes a chip sends where `ways` samples, of which it holds `tokens` tokens, go round a ring.

    Keys and values visit all others forward and again backward, then with their gradients in
    float32, which come home at the end. (See `stjax.ops.attention.ring`.)
    """
    visits = (ways - 1) * (2 * ACTIVATION + GRADIENT)
    return 2 * layers * tokens * width * (visits + GRADIENT)


def recurrence(layers: int, state: int, ways: int) -> float:
    """Bytes a chip sends where recurrences of `ways` samples exchange states of `state` bytes each.

    log2 rounds, one more to the next stretch, and the sum that tells all the last one; backward as
    forward. (See `stjax.ops.sequence_parallel.exchange_carries`.)
    """
    rounds = math.ceil(math.log2(ways)) + 1 + 2 * (ways - 1) / ways
    return 2 * layers * rounds * ways * state


def systems() -> tuple[System, ...]:
    counted = json.loads(COUNTED.read_text())
    # ConvS5's maps: three sizes of encoder and decoder, and two pairs of convolutions a layer.
    frames, maps = 299, 16 * 16 * 256
    shrinking = 64**2 * 64 + 32**2 * 128 + maps
    width, depth, tokens = 2048, 28, 16 * 32 * 32
    return (
        System(
            "ConvS5", **counted["convs5"], batch=8,
            summed=frames * (2 * shrinking + 8 * 2 * maps),
            passed=functools.partial(recurrence, 8, 8 * maps),
        ),
        System("PredFormer", **counted["predformer"], batch=16, summed=2 * 24 * 10 * 64 * 256),
        System(
            "video transformer", transformer_parameters(width, depth),
            transformer_flops(width, depth, tokens), batch=512, summed=2 * depth * tokens * width,
            passed=functools.partial(ring_attention, depth, tokens, width),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that a chip sends in a step: over a slice's or a node's links, over one side of them,
    over the network."""

    links: float = 0
    side: float = 0
    network: float = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.links + other.links, self.side + other.side, self.network + other.network
        )

    def __rmul__(self, factor: float) -> "Traffic":
        return Traffic(factor * self.links, factor * self.side, factor * self.network)

    @property
    def bytes(self) -> float:
        return self.links + self.side + self.network

    def seconds(self, cluster: Cluster) -> float:
        """One kind after the other, without latencies."""
        return (
            self.links / cluster.chip.links + self.side / cluster.side
            + self.network / cluster.network
        )


def gather(size: float, chips: int, group: int) -> Traffic:
    """An array of `size` bytes made whole on `chips` chips, or summed into parts (the reverse)."""
    near = min(chips, group)
    far = chips // near
    return Traffic(
        links=(near - 1) / near * size, network=(far - 1) / far * size / near
    )


def data(system: System, chips: int, group: int) -> Traffic:
    """Gradients are summed: scattered and gathered."""
    return 2 * gather(GRADIENT * system.parameters, chips, group)


def fsdp(system: System, chips: int, group: int) -> Traffic:
    """Parameters are gathered forward and again backward; gradients are summed into parts."""
    return 3 * gather(GRADIENT * system.parameters, chips, group)


def tensor(system: System, chips: int, group: int, ways: int = WAYS) -> Traffic:
    """Activations of `ways` samples are summed, backward as often; and the parts' gradients."""
    activations = 2 * 2 * (ways - 1) / ways * ways * system.summed * ACTIVATION
    replicas = gather(GRADIENT * system.parameters / ways, chips // ways, max(group // ways, 1))
    return Traffic(side=activations) + 2 * replicas


def sequence(system: System, chips: int, group: int, ways: int = WAYS) -> Traffic | None:
    """What passes between stretches of time; and the gradients of all chips."""
    if system.passed is None:
        return None
    return Traffic(side=system.passed(ways)) + data(system, chips, group)


SCHEMES = {
    "data": data, "fsdp": fsdp, f"tensor {WAYS} x data": tensor,
    f"sequence {WAYS} x data": sequence,
}


def compute(system: System, cluster: Cluster) -> float:
    """Seconds of one sample's step at the assumed utilisation."""
    return system.flops / (cluster.chip.flops * UTILISATION)


def smallest_batch(system: System, cluster: Cluster, traffic: Traffic) -> float:
    """Samples a chip that take as long to compute as the chip takes to send."""
    return traffic.seconds(cluster) / compute(system, cluster)


def furthest(system: System, cluster: Cluster) -> int:
    """Chips, a power of two, that share the recipe's batch before they wait for their gradients.

    The batch stays what it is, so that each chip computes less the more there are; what each
    sends does not shrink.
    """
    chips = 1
    while 2 * chips <= system.batch and (
        data(system, 2 * chips, cluster.group).seconds(cluster)
        <= system.batch / (2 * chips) * compute(system, cluster)
    ):
        chips *= 2
    return chips


def most_ways(system: System, cluster: Cluster, scheme: Callable[..., Traffic | None]) -> int:
    """Chips along a side, a power of two, that a sample is cut over before they wait."""
    ways = 1
    while 2 * ways <= cluster.row:
        traffic = scheme(system, 2 * ways, cluster.group, 2 * ways)
        if traffic is None or traffic.side / cluster.side > compute(system, cluster):
            break
        ways *= 2
    return ways


def tables() -> str:
    found = systems()
    parts = [
        _clusters(), _systems(found),
        *(_steps(system) for system in found),
        _batches(found), _furthest(found), _ways(found),
    ]
    return "\n\n".join(parts)


def _clusters():
    rows = (
        (
            _linked(cluster), f"{cluster.chip.flops / 1e12:g}",
            f"{cluster.chip.memory / 1e9:.3g}", cluster.group, f"{cluster.chip.links / 1e9:g}",
            f"{cluster.side / 1e9:g}", f"{cluster.network / 1e9:g}",
        )
        for cluster in CLUSTERS
    )
    return _table(
        ("chip", "TFLOP/s, bfloat16", "GB", "chips with links", "GB/s out over them",
         "along one side", "GB/s out over the network"), rows,
    )


def _linked(cluster):
    links = ", ".join(f"[{k}]({page})" for k, page in enumerate(cluster.sources, 1))
    return f"{cluster.name} ({links})"


def _systems(found):
    rows = (
        (
            system.name, f"{system.parameters:,}", f"{STATE * system.parameters / 1e9:.3g}",
            f"{system.flops / 1e12:.3g}", system.batch,
            *(_ms(compute(system, cluster)) for cluster in CLUSTERS),
        )
        for system in found
    )
    return _table(
        ("system", "parameters", "GB of training state", "TFLOP a sample and step", "batch",
         *(f"ms a sample, {cluster.name}" for cluster in CLUSTERS)), rows,
    )


def _steps(system):
    rows = []
    for cluster in CLUSTERS:
        for chips in CHIPS_A_RUN:
            cells = (
                _cell(scheme(system, chips, cluster.group), cluster, compute(system, cluster))
                for scheme in SCHEMES.values()
            )
            rows.append((f"{chips} {cluster.name}", _ms(compute(system, cluster)), *cells))
    return f"{system.name}:\n\n" + _table(
        ("chips", "computing, ms", *(f"{name}: MB, ms" for name in SCHEMES)), rows
    )


def _cell(traffic, cluster, computing):
    if traffic is None:
        return "-"
    seconds = traffic.seconds(cluster)
    text = f"{traffic.bytes / 1e6:,.0f}, {_ms(seconds)}"
    return f"**{text}**" if seconds > computing else text


def _ms(seconds):
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.01 else f"{1e3 * seconds:.2g}"


def _batches(found):
    rows = (
        (
            f"{system.name}, {cluster.name}",
            *(
                " / ".join(
                    f"{smallest_batch(system, cluster, scheme(system, chips, cluster.group)):.2g}"
                    for scheme in (data, fsdp)
                )
                for chips in CHIPS_A_RUN
            ),
        )
        for system in found for cluster in CLUSTERS
    )
    return "Samples a chip that take as long to compute as to send, data / fsdp:\n\n" + _table(
        ("", *(f"{chips} chips" for chips in CHIPS_A_RUN)), rows
    )


def _furthest(found):
    rows = (
        (
            f"{system.name}, batch {system.batch}",
            *(furthest(system, cluster) for cluster in CLUSTERS),
        )
        for system in found
    )
    return "Chips that share the batch before the step waits for their gradients:\n\n" + _table(
        ("", *(cluster.name for cluster in CLUSTERS)), rows
    )


def _ways(found):
    rows = (
        (
            system.name,
            *(
                f"{most_ways(system, cluster, tensor)} / {_cut(system, cluster)}"
                for cluster in CLUSTERS
            ),
        )
        for system in found
    )
    return "Chips that a sample is cut over before they wait, tensor / sequence:\n\n" + _table(
        ("", *(f"{cluster.name}, up to {cluster.row}" for cluster in CLUSTERS)), rows
    )


def _cut(system, cluster):
    return most_ways(system, cluster, sequence) if system.passed else "-"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def written(document: str) -> str:
    """The document with the tables as they are now."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def count(slug: str) -> dict[str, int]:
    """Parameters, and FLOPs of a step on one sample at paper scale, from shapes alone."""
    config = importlib.import_module(f"configs.{slug}").get_config("paper")
    config.data.digits = "sklearn"  # of the same shape as MNIST's, and at hand
    experiment = importlib.import_module(f"experiments.{slug}").experiment(config)
    sample = {name: jnp.asarray(value)[None] for name, value in experiment.data.train[0].items()}
    stepper = Stepper(
        experiment.task, experiment.optimizer, mesh.make({"data": 1}, jax.devices()[:1]),
        jax.random.key(0), sample,
    )
    state = stepper.abstract_state
    return {
        "parameters": plan.parameters(state),
        "flops": flops.count(stepper.jitted(), state, sample),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    parser.add_argument("--count", action="store_true", help="the systems' FLOPs anew")
    arguments = parser.parse_args(argv)
    if arguments.count:
        counted = {slug: count(slug) for slug in ("convs5", "predformer")}
        COUNTED.write_text(json.dumps(counted, indent=2) + "\n")
    if arguments.write:
        DOCUMENT.write_text(written(DOCUMENT.read_text()))
    else:
        print(tables())


if __name__ == "__main__":
    main()
