"""Plans: collectives counted exactly, by axis; memory that fits or not; chips not at hand."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from stjax.ops import loops
from stjax.ops.attention import attention
from stjax.ops.backend import backend, compiling_for
from stjax.ops.measured import EXPECTED, fastest
from stjax.train import hlo
from stjax.train import mesh as meshes
from stjax.train import plan as plans
from stjax.train import topology as topologies
from stjax.train.cli import main
from stjax.train.config import override
from stjax.train.errors import RunError
from stjax.train.hlo import Collective
from stjax.train.topology import CHIPS, Topology
from tests import toy

BOTH = meshes.make({"data": 2, "sequence": 4})
psum = lambda x, axis: jax.lax.psum(x, axis)


def shift(x, axis):
    size = jax.lax.axis_size(axis)
    return jax.lax.ppermute(x, axis, [(k, (k + 1) % size) for k in range(size)])


def repeated(times, body):
    """`body` in a loop that XLA does not unroll, on a carry that it cannot hoist."""
    return lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(body(x)), None), x, None, times)[0]


def exchanged(function, mesh=BOTH):
    """Totals of a function that every device runs on its own (8, 16) floats: 512 bytes."""
    run = jax.shard_map(
        function, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    compiled = jax.jit(run).lower(jax.ShapeDtypeStruct((8, 16), jnp.float32)).compile()
    return hlo.totals(hlo.collectives(compiled.as_text()), mesh.shape)


REDUCED, MOVED = ("all-reduce", ("sequence",)), ("collective-permute", ("sequence",))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: psum(x, "data"), {("all-reduce", ("data",)): (1, 512)}),
        (lambda x: psum(x, ("data", "sequence")),
         {("all-reduce", ("data", "sequence")): (1, 512)}),
        (lambda x: jax.lax.all_gather(x, "data"), {("all-gather", ("data",)): (1, 1024)}),
        (lambda x: jax.lax.psum_scatter(x, "sequence", tiled=True),
         {("reduce-scatter", ("sequence",)): (1, 128)}),
        (lambda x: jax.lax.all_to_all(x, "sequence", 0, 0, tiled=True),
         {("all-to-all", ("sequence",)): (1, 512)}),
        (lambda x: shift(x, "sequence"), {MOVED: (1, 512)}),
        (repeated(5, lambda x: psum(x, "sequence")), {REDUCED: (5, 5 * 512)}),
        (repeated(5, repeated(3, lambda x: psum(x, "sequence"))), {REDUCED: (15, 15 * 512)}),
        (repeated(7, lambda x: shift(psum(x, "data"), "sequence")),
         {("all-reduce", ("data",)): (7, 7 * 512), MOVED: (7, 7 * 512)}),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: psum(psum(jnp.tanh(x), "data"), "sequence"),
                                lambda x: shift(x, "sequence"), x),
         {("all-reduce", ("data",)): (1, 512), REDUCED: (1, 512)}),
    ],
    ids=["one axis", "both axes", "gather", "scatter", "all to all", "permute", "loop", "nested",
         "two in a loop", "the branch that exchanges most"],
)
def test_collectives_of_a_program_are_counted_exactly(function, expected):
    assert exchanged(function) == expected


def test_a_loop_of_unknown_length_counts_as_one_trip_and_says_so():
    loop = lambda x: jax.lax.while_loop(
        lambda x: x[0, 0] < 5, lambda x: psum(x, "data") + 1, x
    )
    mesh = meshes.make({"data": 8})
    run = jax.shard_map(
        loop, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    text = jax.jit(run).lower(jax.ShapeDtypeStruct((8, 16), jnp.float32)).compile().as_text()
    assert {(one.kind, one.times, one.exact) for one in hlo.collectives(text)} == {
        ("all-reduce", 1, False)
    }


def program(*lines, computations="", devices=8):
    body = "\n".join(f"  {line}" for line in lines)
    return (
        f"HloModule m, num_partitions={devices}\n{computations}\n"
        f"ENTRY %main (x: f32[]) -> f32[] {{\n{body}\n}}\n"
    )


@pytest.mark.parametrize(
    ("printed", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("replica_groups={}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("replica_groups=[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}",
         ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("replica_groups=mesh['a'=8] {'a':(1)2,'a':(4)2}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}",
         ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,1,0,2) {'a'}", ((3, 0), (1, 2))),
        ("source_target_pairs={{0,1},{1,0}}", ((0, 1), (1, 0))),
    ],
)
def test_groups_are_read_in_every_form(printed, groups):
    text = program(f"ROOT %a = f32[4]{{0}} all-reduce(%x), channel_id=1, {printed}, to_apply=%add")
    (found,) = hlo.collectives(text)
    assert found.groups == groups


ALL = "replica_groups=[1,8]<=[8]"


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        (f"%a = (f32[8,4]{{1,0}}, f32[2]{{0}}) all-reduce(%x, %y), {ALL}", "all-reduce", 136),
        (f"%a = (f32[2]{{0}}, bf16[2]{{0}}) all-reduce-start(%x, %y), {ALL}", "all-reduce", 12),
        (f"%a = ((f32[2]{{0}}), f32[2]{{0}}, u32[]) all-reduce-start(%x), {ALL}", "all-reduce", 8),
        (f"%a = (bf16[2]{{0:T(8,128)(2,1)S(1)}}, bf16[16]{{0}}) all-gather-start(%x), {ALL}",
         "all-gather", 32),
        (f"%a = ((f32[2,3]{{1,0}}, s8[2]{{0}}), (f32[16,3]{{1,0}}, s8[16]{{0}})) "
         f"all-gather-start(%x, %y), {ALL}", "all-gather", 16 * 12 + 16),
        (f"%a = ((f32[16]{{0}}), f32[2]{{0}}) reduce-scatter-start(%x), {ALL}",
         "reduce-scatter", 8),
        ("%a = (c64[4]{0}, c64[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), "
         "source_target_pairs={{0,1},{1,0}}", "collective-permute", 32),
        (f"%a = (pred[2]{{0}}, /*index=5*/f8e4m3fn[4]{{0}}) all-to-all(%x, %y), {ALL}",
         "all-to-all", 6),
    ],
)
def test_sizes_are_those_of_results_and_a_start_counts_once(line, kind, size):
    done = f"ROOT %d = f32[2]{{0}} {kind}-done(%a)"
    (found,) = hlo.collectives(program(line, done))
    assert (found.kind, found.size) == (kind, size)


def test_groups_of_one_exchange_nothing():
    line = "ROOT %a = f32[4]{0} all-reduce(%x), replica_groups=[8,1]<=[8], to_apply=%add"
    assert hlo.collectives(program(line)) == ()


# As the TPU's compiler prints them: one gather spread over three fusions, a reduce-scatter in
# disguise, and a loop whose trips are for the reader to count.
TPU = """
%first (p: f32[2]) -> (f32[2], f32[16]) {
  %p = f32[2]{0} parameter(0)
  %g.1 = f32[16] all-gather(%p), GROUPS, backend_config={"async_collective_fusion_config":{}}
  ROOT %s = (f32[2]{0}, f32[16]{0}) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%last (p: f32[2]) -> f32[16] {
  %p = f32[2]{0} parameter(0)
  %g.2 = f32[16] all-gather(%p), GROUPS, backend_config={"async_collective_fusion_config":{}}
  ROOT %d = f32[16]{0} custom-call(%p, %g.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (p: f32[16]) -> f32[2] {
  %p = f32[16]{0} parameter(0)
  %r = f32[16]{0} all-reduce(%p), GROUPS, to_apply=%add
  ROOT %c = f32[2]{0} dynamic-slice(%r), dynamic_slice_sizes={2}
}

%test (q: (s32[], f32[2])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[2]{0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  %n = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (q: (s32[], f32[2])) -> (s32[], f32[2]) {
  %q = (s32[]{:T(128)}, f32[2]{0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  %x = f32[2]{0} get-tuple-element(%q), index=1
  %step = s32[] constant(2)
  %j = s32[] add(%i, %step)
  %started = (f32[2]{0}, f32[16]{0}) fusion(%x), kind=kCustom, calls=%first
  %done = f32[16]{0} fusion(%started), kind=kCustom, calls=%last
  %y = f32[2]{0} fusion(%done), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %t = (s32[], f32[2]{0}) tuple(%j, %y)
}
"""


def test_what_the_tpu_compiler_prints():
    lines = (
        "%one = s32[] constant(1)",
        "%start = s32[] copy(%one)",
        "%in = (s32[], f32[2]{0}) tuple(%start, %x)",
        "ROOT %w = (s32[], f32[2]{0}) while(%in), condition=%test, body=%body",
    )
    found = hlo.collectives(program(*lines, computations=TPU.replace("GROUPS", ALL)))
    assert hlo.totals(found, {"data": 8}) == {
        ("all-gather", ("data",)): (3, 3 * 64),
        ("reduce-scatter", ("data",)): (3, 3 * 8),
    }
    assert all(one.exact for one in found)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 150), ("all-gather", 75), ("all-to-all", 75), ("reduce-scatter", 300)],
)
def test_bytes_sent_round_a_ring(kind, sent):
    assert Collective(kind, 100, ((0, 1, 2, 3),)).sent == sent
    assert Collective("collective-permute", 100, ((0, 1), (1, 0))).sent == 100


def test_operators_take_the_form_of_what_is_compiled_for():
    forms = []

    @jax.jit
    def traced(x):
        forms.append((backend(), loops.trips_at_once(3), fastest("linear_recurrence", 8)))
        return x

    expected = EXPECTED["linear_recurrence"][0][1]
    traced(1.0)
    with compiling_for("tpu"):
        jax.make_jaxpr(traced)(1.0)
    with compiling_for(None):
        traced(1.0)
    assert forms == [(jax.default_backend(), 3, "sequential"), ("tpu", 1, expected)]


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN is at hand")
def test_without_a_gpu_a_plan_for_one_does_without_cudnn():
    q = jax.ShapeDtypeStruct((1, 16, 2, 8), jnp.bfloat16)
    with compiling_for("gpu"):
        assert jax.eval_shape(attention, q, q, q).shape == q.shape
        with pytest.raises(ValueError, match=r"^method: 'cudnn'.*there is no GPU here"):
            attention(*[jnp.zeros(q.shape, q.dtype)] * 3, method="cudnn")


def test_a_plan_of_the_command_line_says_what_is_exchanged_and_what_is_needed(capsys):
    mesh = ["--config.run.mesh.data=4", "--config.run.mesh.fsdp=2"]
    main(toy.experiment, toy.CONFIGS, ["plan", *mesh])
    out = capsys.readouterr().out
    assert "devices            data 4 x fsdp 2\n" in out
    assert "parameters         4,225" in out
    # Forward 2 (64 x 64 + 64) a sample; backward twice that, less the inputs' own gradient.
    flops = 16 * 2 * (3 * (64 * 64 + 64) - 64 * 64)
    assert f"FLOPs a step       {flops:.3e}" in out
    assert "data, fsdp" in out
    assert "all-gather" in out
    assert "waits for" not in out


def slice_of(shape, chip):
    """A topology of made-up devices, four to a host."""
    width = shape[-1]
    devices = tuple(
        SimpleNamespace(
            coords=(k % width, k // width, 0), process_index=k // 4, device_kind=chip, id=k
        )
        for k in range(shape[0] * width)
    )
    return Topology(f"{chip}:made-up", CHIPS[chip], devices)


def test_exchanges_go_over_the_links_that_their_groups_span():
    gathered = functools.partial(Collective, "all-gather", 4 * 200 * 10**6)
    cube = slice_of((4, 4), "v5e")
    row, column = ((0, 1, 2, 3),), ((0, 4, 8, 12),)
    # 600 MB out of each chip, over half of its 200 GB/s: the links along one side of two.
    for groups in (row, column):
        assert cube.link(gathered(groups)) == ("inter-chip links", pytest.approx(6e-3))
    assert cube.link(gathered(((0, 1, 4, 5),)))[1] == pytest.approx(3e-3)
    # Of GPUs, four to a node here, the network is only for groups of several nodes.
    gpus = slice_of((2, 4), "h200")
    assert gpus.link(gathered(row)) == ("inter-chip links", pytest.approx(0.6 / 450))
    assert gpus.link(gathered(((0, 4), (1, 5)))) == ("network", pytest.approx(0.4 / 50))
    whole = gathered((tuple(range(8)),))
    assert gpus.link(whole) == ("network", pytest.approx(0.7 / 4 / 50))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b200x8", r"'b200x8' is of none of v4, v5e, v5p, v6e, h100, h200"),
        ("v5e", "is of none of"),
        ("v5e:0x4", "is of none of"),
        ("v5e:2x2x2", "a slice of v5e has 2 sides"),
        ("v4:4x4", "a slice of v4 has 3 sides"),
        ("v5e:32x32", "256 chips at most"),
        ("h200x12", "up to 8 GPUs, or whole nodes of 8"),
    ],
)
def test_a_topology_that_does_not_exist_is_refused_by_name(name, message):
    with pytest.raises(ValueError, match=f"^topology: .*{message}"):
        topologies.make(name)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("v5e:2x2", "libtpu", "plan-tpu"), ("h200x8", "jax_plugins.xla_cuda12", "plan-cuda")],
)
def test_a_compiler_that_is_missing_is_named_with_its_extra(name, module, extra):
    if installed(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(ValueError, match=rf"^topology: '{name}' needs .*stjax\[{extra}\]"):
        topologies.make(name)


@pytest.mark.parametrize(
    "arguments", [["train", "--topology=v5e:2x2"], ["plan", "--topology=v5e:2x2", "--devices=4"]]
)
def test_a_topology_is_for_plans_alone(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(toy.experiment, toy.CONFIGS, arguments)
    assert exit_.value.code == 2
    assert "--topology goes with the verb plan, and without --devices" in capsys.readouterr().err


def toy_experiment(**mesh):
    fields = {f"run.mesh.{axis}": str(n) for axis, n in mesh.items()}
    return toy.experiment(override(toy.get_config(), fields))


def simulated(monkeypatch, chip, devices):
    """Plans for this chip compile for simulated devices."""
    made = Topology("h100x8", chip, tuple(jax.devices()[:devices]))
    monkeypatch.setattr(topologies, "make", lambda name: made)


def test_what_fits_is_compared_with_the_chip_and_what_does_not_is_refused(monkeypatch):
    simulated(monkeypatch, CHIPS["h100"], 8)
    costs = plans.plan(toy_experiment(data=4, fsdp=2), "h100x8")
    assert f"{costs.needed_bytes / 1024:.4g} KiB, fits into 74.51 GiB" in str(costs)
    arguments = costs.params_bytes + costs.optimizer_bytes + costs.batch_bytes
    assert costs.argument_bytes == pytest.approx(arguments, abs=8)
    made = costs.output_bytes - costs.aliased_bytes + costs.temporary_bytes + costs.code_bytes
    assert costs.needed_bytes == costs.argument_bytes + made
    assert set(costs.seconds) == {"compute", "memory", "inter-chip links"}
    assert costs.seconds["compute"] == costs.flops / 8 / 989e12
    longest = max(costs.seconds, key=costs.seconds.get)
    assert f"waits for          {longest} (" in str(costs)
    simulated(monkeypatch, CHIPS["h100"].__class__("gpu", 1000, 1, 1, 1), 8)
    with pytest.raises(RunError, match=r"^a device of h100x8 needs .* KiB of 1000 B: try a smal"):
        plans.plan(toy_experiment(data=8), "h100x8")


def test_a_mesh_takes_all_of_a_topology(monkeypatch):
    simulated(monkeypatch, CHIPS["h100"], 8)
    with pytest.raises(ValueError, match=r"^run.mesh: .* takes 4 of the 8 devices of h100x8"):
        plans.plan(toy_experiment(data=4), "h100x8")
    with pytest.raises(ValueError, match=r"^run.mesh: .* needs 16 devices; there are 8"):
        plans.plan(toy_experiment(data=16), "h100x8")


@pytest.mark.parametrize(
    ("said", "figures"),
    [
        ("RESOURCE_EXHAUSTED: E1000: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (21.30G) exceeds available HBM (15.75G). HLO module: jit_step.",
         "21.30 GiB of 15.75 GiB"),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 903.1M of 900.0M hbm.",
         "903.1 MiB of 900.0 MiB"),
    ],
)
def test_the_compilers_refusal_is_one_line_with_its_figures(monkeypatch, said, figures):
    def refuse(*args):
        raise jax.errors.JaxRuntimeError(said)

    simulated(monkeypatch, CHIPS["v5e"], 8)
    monkeypatch.setattr(plans, "_step", refuse)
    with pytest.raises(RunError, match=f"^a device of h100x8 needs {figures}: try"):
        plans.plan(toy_experiment(data=8), "v5e:2x4")
    said = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        plans.plan(toy_experiment(data=8), "v5e:2x4")


def installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# In a process of its own: what these compilers load stays, and the tests' devices are simulated.
PLANS = """
import json, sys
from stjax.train.config import override
from stjax.train.plan import plan
from tests import toy
fields = {"run.mesh.data": "2", "run.mesh.fsdp": "4"}
costs = plan(toy.experiment(override(toy.get_config(), fields)), sys.argv[1])
print(costs)
print(json.dumps([costs.uncertain, list(costs.seconds), costs.needed_bytes]))
"""


@pytest.mark.parametrize(
    ("name", "module"), [("v5e:2x4", "libtpu"), ("h200x8", "jax_plugins.xla_cuda12")]
)
def test_a_step_compiles_for_chips_that_are_not_at_hand(name, module):
    if not installed(module):
        pytest.skip(f"{module} is not installed")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run(
        [sys.executable, "-c", PLANS, name], capture_output=True, text=True, env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    *printed, last = run.stdout.strip().splitlines()
    assert f"data 2 x fsdp 4 of {name}: 8 " in printed[0]
    assert any("all-gather" in line and "fsdp" in line for line in printed)
    uncertain, seconds, needed = json.loads(last)
    assert uncertain == 0
    assert set(seconds) == {"compute", "memory", "inter-chip links"}
    assert 0 < needed < 2**23
