"""What a compiled program exchanges between devices, read off its HLO text."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)
Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of a program.

    Attributes:
        kind: one of KINDS.
        size: bytes of the result on each device.
        groups: the partitions that exchange with each other; of a permutation the pairs (source,
            target).
        times: how often it runs in one run of the program.
        exact: False within a loop whose trips cannot be read off; such a loop counts as one trip.
    """

    kind: str
    size: int
    groups: Groups
    times: int = 1
    exact: bool = True

    @property
    def sent(self) -> float:
        """Bytes that a device sends, each time, by the ring algorithms."""
        n = max(map(len, self.groups))
        return self.size * {
            "all-reduce": 2 * (n - 1) / n,
            "all-gather": (n - 1) / n,
            "reduce-scatter": n - 1,
            "all-to-all": (n - 1) / n,
            "ragged-all-to-all": (n - 1) / n,
        }.get(self.kind, 1)


def collectives(text: str) -> tuple[Collective, ...]:
    """The collectives that one run of a program (`compiled.as_text()`) goes through.

    Bodies of loops count as often as they run, of a conditional the branch that exchanges most.
    Groups of one device exchange nothing and are left out.
    """
    return _Program(text).collectives()


def spanned(groups: Groups, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh (name -> size) along which the members of a group differ."""
    places = [np.unravel_index(group, tuple(mesh.values())) for group in groups]
    return tuple(
        axis for k, axis in enumerate(mesh) if any(len(set(place[k])) > 1 for place in places)
    )


Totals = dict[tuple[str, tuple[str, ...]], tuple[int, int]]


def totals(found: tuple[Collective, ...], mesh: Mapping[str, int]) -> Totals:
    """(kind, axes of the mesh) -> (how many run, bytes of their results on each device)."""
    sums: Totals = {}
    for one in found:
        key = one.kind, spanned(one.groups, mesh)
        count, size = sums.get(key, (0, 0))
        sums[key] = count + one.times, size + one.times * one.size
    return dict(sorted(sums.items()))


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """`name = type operation(operands), attributes`; `rest` is all after the bracket opens."""

    type: str
    operation: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])

    def called(self, attribute: str) -> list[str]:
        """Names of the computations under `attribute=`."""
        names = re.search(rf"\b{attribute}=(\{{.*?\}}|%?[\w.-]+)", self.rest)
        return re.findall(r"[\w.-]+", names[1]) if names else []


class _Program:
    """The computations of a program by name, each a table of instructions by name."""

    def __init__(self, text: str):
        header = text.partition("\n")[0]
        counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
        self.devices = math.prod(map(int, counts))
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.entry = ""
        instruction = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)")
        inside: dict[str, _Instruction] = {}
        for line in text.splitlines():
            if match := instruction.match(line):
                root, name, type_, operation, rest = match.groups()
                inside[name] = _Instruction(type_, operation, rest, bool(root))
            elif line.endswith("{") and not line[0].isspace():
                name = re.match(r"(?:ENTRY )?%?([\w.-]+)", line)[1]
                inside = self.computations[name] = {}
                self.entry = name if line.startswith("ENTRY") else self.entry
        self._found: dict[str, tuple[Collective, ...]] = {}

    def collectives(self, name: str | None = None) -> tuple[Collective, ...]:
        """Those that one run of a computation goes through; of the whole program by default."""
        name = self.entry if name is None else name
        if name not in self._found:
            self._found[name] = tuple(self._walk(name, self.computations[name]))
        return self._found[name]

    def _walk(self, name: str, computation: dict[str, _Instruction]) -> Iterator[Collective]:
        continued = _continued(computation)
        for key, one in computation.items():
            kind = one.operation.removesuffix("-start")
            if kind in KINDS:
                groups = _groups(one.rest, self.devices)
                if key not in continued and max(map(len, groups)) > 1:
                    yield _collective(kind, one, groups, name)
            elif one.operation == "while":
                trips = self._trips(one, computation)
                for inner in self.collectives(*one.called("body")):
                    yield dataclasses.replace(
                        inner,
                        times=inner.times * (trips or 1),
                        exact=inner.exact and trips is not None,
                    )
            elif one.operation == "conditional":
                branches = one.called("branch_computations") or [
                    *one.called("true_computation"), *one.called("false_computation")
                ]
                exchanged = lambda found: sum(each.times * each.size for each in found)
                yield from max(map(self.collectives, branches), key=exchanged)
            elif one.operation in ("fusion", "call", "async-start"):
                for callee in one.called("calls") or one.called("to_apply"):
                    yield from self.collectives(callee)

    def _trips(self, loop: _Instruction, around: dict[str, _Instruction]) -> int | None:
        """How often a loop runs: as noted by the compiler, or counted (TPUs' compiler notes none).

        Counted are loops over an index that starts at a constant and grows by a constant while it
        is less than one. None for others.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(noted[1])
        (condition,), (body,) = loop.called("condition"), loop.called("body")
        condition, body = self.computations[condition], self.computations[body]
        test = next(one for one in condition.values() if one.root)
        if test.operation != "compare" or "direction=LT" not in test.rest:
            return None
        start = around[loop.operands[0]]
        position, end = (_position(condition[operand]) for operand in test.operands)
        if position is None or start.operation != "tuple":
            return None
        first = _constant(around, start.operands[position])
        last = (
            _constant(condition, test.operands[1])
            if end is None else _constant(around, start.operands[end])
        )
        step = _step(body, position)
        if first is None or last is None or not step:
            return None
        return max(-(-(last - first) // step), 0)


def _position(one: _Instruction) -> int | None:
    """Which element of a loop's tuple an instruction reads."""
    index = re.search(r"\bindex=(\d+)", one.rest)
    return int(index[1]) if one.operation == "get-tuple-element" and index else None


def _constant(computation: dict[str, _Instruction], name: str) -> int | None:
    one = computation[name]
    while one.operation in ("copy", "bitcast"):
        one = computation[one.operands[0]]
    value = re.match(r"-?\d+(?=\))", one.rest)
    return int(value[0]) if one.operation == "constant" and value else None


def _step(body: dict[str, _Instruction], position: int) -> int | None:
    """What a loop's body adds to an element of its tuple."""
    root = next(one for one in body.values() if one.root)
    if root.operation != "tuple":
        return None
    grown = body[root.operands[position]]
    while grown.operation in ("copy", "bitcast"):
        grown = body[grown.operands[0]]
    if grown.operation != "add":
        return None
    return next((c for c in (_constant(body, x) for x in grown.operands) if c is not None), None)


def _continued(computation: dict[str, _Instruction]) -> set[str]:
    """Collectives that began elsewhere.

    The TPU's compiler spreads a collective over several fusions, of which each holds it; it begins
    where it is an operand of AsyncCollectiveStart.
    """
    begun = {
        operand
        for one in computation.values()
        if 'custom_call_target="AsyncCollectiveStart"' in one.rest
        for operand in one.operands
    }
    spread = {name for name, one in computation.items() if "async_collective_fusion_" in one.rest}
    return spread - begun


def _collective(kind: str, one: _Instruction, groups: Groups, within: str) -> Collective:
    size = _size(_result(kind, one))
    if within.startswith("all-reduce-scatter"):
        # The TPU's compiler has no other way to say reduce-scatter.
        return Collective("reduce-scatter", size // max(map(len, groups)), groups)
    return Collective(kind, size, groups)


def _result(kind: str, one: _Instruction) -> str:
    """The type of what a collective gives; its start has (operands, results, ...)."""
    type_ = re.sub(r"/\*.*?\*/|\{.*?\}| ", "", one.type)
    if not one.operation.endswith("-start") or not type_.startswith("("):
        return type_
    parts = _elements(type_)
    # The start of an all-reduce has only its results, unless it is of the general form.
    return type_ if kind == "all-reduce" and not parts[0].startswith("(") else parts[1]


def _elements(type_: str) -> list[str]:
    """The elements of a tuple's type."""
    depth, parts = 0, [""]
    for letter in type_[1:-1]:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _size(type_: str) -> int:
    """Bytes of an array or of a tuple of arrays."""
    total = 0
    for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", type_):
        bits = 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or [0])[0])
        total += math.prod(int(n) for n in shape.split(",") if n) * bits // 8
    return total


def _groups(rest: str, devices: int) -> Groups:
    """The groups of a collective, in any of the forms in which XLA prints them."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", rest):
        return tuple(map(_integers, re.findall(r"\{([\d,]+)\}", listed[1]))) or (
            tuple(range(devices)),
        )
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return _rows(_iota(iota[2]).reshape(_integers(iota[1])))
    if mesh := re.search(
        r"replica_groups=@?mesh[\[<]([^\]>]*)[\]>](?:, ?device_ids=\((.*?\)?)\))? \{(.*?)\}", rest
    ):
        return _by_axes(*mesh.groups())
    return (tuple(range(devices)),)


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: the numbers from 0 on in that shape, transposed, as one list."""
    shape, *order = re.findall(r"[\[(]([\d,]+)[\])]", text)
    numbers = np.arange(math.prod(_integers(shape))).reshape(_integers(shape))
    return (numbers.transpose(_integers(order[0])) if order else numbers).reshape(-1)


def _by_axes(sizes: str, order: str | None, axes: str) -> Groups:
    """`mesh['a'=2,'b'=4] {'a','b':(2)2}`: along all of a, and along b's part of 2 after another 2.

    Devices whose places are alike but for those axes make a group.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'?([\w.-]+)'?=(\d+)", sizes)}
    count = math.prod(sizes.values())
    if order is None:
        devices = np.arange(count)
    else:
        devices = _iota(order) if order.startswith("[") else np.array(_integers(order))
    places = np.array(np.unravel_index(np.arange(count), tuple(sizes.values())))
    rest = places.copy()
    for name, before, size in re.findall(r"'?([\w.-]+)'?(?::\((\d+)\)(\d+))?", axes):
        k, whole = list(sizes).index(name), sizes[name]
        after = whole // (int(before) * int(size)) if size else 1
        digit = places[k] // after % (int(size) if size else whole)
        rest[k] -= digit * after
    alike = np.ravel_multi_index(tuple(rest), tuple(sizes.values()))
    return tuple(tuple(devices[alike == one].tolist()) for one in np.unique(alike))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def _rows(array: np.ndarray) -> Groups:
    return tuple(map(tuple, array.tolist()))
