"""Accelerators that are not at hand: their devices to compile for, and what they can do."""

import dataclasses
import math
import os
import re

import jax
from jax.experimental import topologies

from stjax.train.hlo import Collective


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device can do.

    Attributes:
        platform: "tpu" or "gpu".
        memory: bytes that a program may use.
        flops: peak in bfloat16, a second.
        bandwidth: of its memory, bytes a second.
        links: to the other chips of the slice or the node, bytes a second out of one chip.
        sides: of the torus that the links make; 1 for a switch.
        most: chips that one slice can have; 0 for no limit.
        network: from node to node, bytes a second out of one chip; 0 where a topology is one slice.
    """

    platform: str
    memory: int
    flops: float
    bandwidth: float
    links: float
    sides: int = 1
    most: int = 0
    network: float = 0

    @property
    def compiler_options(self) -> dict[str, bool] | None:
        """What its compiler has to be told where there is no such chip.

        Tiles of Triton's products of matrices are found by trying them; some that are taken where
        they cannot be tried do not compile.
        """
        return {"xla_gpu_enable_triton_gemm": False} if self.platform == "gpu" else None


_GIB = 2**30
# TPUs: FLOP/s, memory bandwidth and links (half of the bandwidth both ways) are those of the pages
# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; v4 has six links of 50 GB/s (arXiv 2304.01433).
# Their memory is what their compiler (libtpu 0.0.52) says is available.
# GPUs: the data sheets of H100 SXM and H200 SXM, without sparsity; NVLink has 900 GB/s both ways; a
# DGX has one port of 400 Gb/s a GPU to the network.
CHIPS = {
    "v4": Chip("tpu", int(30.75 * _GIB), 275e12, 1.2e12, 300e9, sides=3, most=4096),
    "v5e": Chip("tpu", int(15.75 * _GIB), 197e12, 819e9, 200e9, sides=2, most=256),
    "v5p": Chip("tpu", int(95.73 * _GIB), 459e12, 2.765e12, 600e9, sides=3, most=6144),
    "v6e": Chip("tpu", int(31.24 * _GIB), 918e12, 1.638e12, 400e9, sides=2, most=256),
    "h100": Chip("gpu", 80 * 10**9, 989e12, 3.35e12, 450e9, network=50e9),
    "h200": Chip("gpu", 141 * 10**9, 989e12, 4.8e12, 450e9, network=50e9),
}
_GPUS_A_NODE = 8
_EXAMPLES = "v4:2x2x4, v5e:4x4, v5p:2x2x2, v6e:4x4, h100x16, h200x8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips and what connects them; `devices` can be compiled for, and no more."""

    name: str
    chip: Chip
    devices: tuple[jax.Device, ...]

    @property
    def nodes(self) -> int:
        return len({device.process_index for device in self.devices})

    def __str__(self) -> str:
        kind = self.devices[0].device_kind
        return f"{self.name}: {len(self.devices)} {kind}, hosts: {self.nodes}"

    def link(self, collective: Collective) -> tuple[str, float]:
        """What a collective goes over, and the seconds that it takes by the ring algorithms.

        Of a torus the links along the sides that the groups span are counted; over the network all
        GPUs of a group on one node send at once.
        """
        groups = [[self.devices[k] for k in group] for group in collective.groups]
        if self.chip.platform == "tpu":
            spanned = min(
                sum(len(set(places)) > 1 for places in zip(*(device.coords for device in group)))
                for group in groups
            )
            return "inter-chip links", collective.sent / (
                self.chip.links * max(spanned, 1) / self.chip.sides
            )
        nodes = max(len({device.process_index for device in group}) for group in groups)
        if nodes == 1:
            return "inter-chip links", collective.sent / self.chip.links
        senders = max(map(len, groups)) // nodes
        return "network", collective.sent / senders / self.chip.network


def make(name: str) -> Topology:
    """The topology of a name: a TPU slice such as "v5e:4x4", or GPUs such as "h200x16".

    Raises:
        ValueError: an unknown chip, a shape that it does not come in, or a compiler that is not
            installed.
    """
    parts = re.fullmatch(r"(v\w+):([1-9]\d*(?:x[1-9]\d*)*)|(h\d+)x([1-9]\d*)", name)
    chip = CHIPS.get(parts and (parts[1] or parts[3]))
    if chip is None:
        raise ValueError(f"topology: {name!r} is of none of {', '.join(CHIPS)}, as in {_EXAMPLES}")
    if chip.platform == "tpu":
        devices = _tpus(name, parts[1], parts[2], chip)
    else:
        devices = _gpus(name, chip, int(parts[4]))
    return Topology(name, chip, tuple(devices))


def _tpus(name, kind, shape, chip):
    sides = [int(n) for n in shape.split("x")]
    if len(sides) != chip.sides or math.prod(sides) > chip.most:
        raise ValueError(
            f"topology: {name!r}: a slice of {kind} has {chip.sides} sides, as in {_EXAMPLES}, and "
            f"{chip.most} chips at most"
        )
    # Without these the compiler asks the network and the host what it runs on.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # The lock that it takes is for chips.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # A v4 chip is two cores; as on the machine itself they are one device.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"topology: {name!r}: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        raise ValueError(_lacks(name, "the TPU's compiler", "plan-tpu")) from error


def _gpus(name, chip, count):
    nodes = math.ceil(count / _GPUS_A_NODE)
    if nodes > 1 and count % _GPUS_A_NODE:
        raise ValueError(
            f"topology: {name!r}: up to {_GPUS_A_NODE} GPUs, or whole nodes of {_GPUS_A_NODE}"
        )
    try:
        return topologies.get_topology_desc(
            "", "cuda", topology=f"1x{nodes}x{count // nodes}",
            target_config=_HOPPER.format(
                name=name.partition("x")[0].upper(), memory=chip.memory,
                bandwidth=int(chip.bandwidth),
            ),
        ).devices
    except NotImplementedError as error:
        raise ValueError(_lacks(name, "CUDA's compiler", "plan-cuda")) from error


def _lacks(name, compiler, extra):
    return f"topology: {name!r} needs {compiler}: pip install 'stjax[{extra}]'"


# An SXM board of compute capability 9.0, in XLA's words (GpuTargetConfigProto).
_HOPPER = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: {memory} memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 6 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "NVIDIA {name}"
"""
