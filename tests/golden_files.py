"""Golden files: what official networks computed under weights given by a rule.

A file `<slug>-<part>.npz` holds inputs, outputs, weights that the rule does not fit, and a
manifest. `STJAX_GOLDEN` names another folder than tests/golden.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import zlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(os.environ.get("STJAX_GOLDEN", pathlib.Path(__file__).parent / "golden"))


def fill(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """The weights of the golden cases: a function of an entry's official name and shape alone.

    Fan-in is prod(shape[1:]) for PyTorch names, prod(shape[:-1]) for Flax names (with a "/").
    """
    rng = np.random.Generator(np.random.PCG64(zlib.crc32((salt + name).encode())))
    noise = rng.standard_normal(shape)
    leaf = re.split(r"[./]", name)[-1]
    if leaf in ("running_var", "var"):
        return np.float32(0.5 + np.abs(noise))
    if len(shape) >= 2:
        fan_in = np.prod(shape[:-1] if "/" in name else shape[1:])
        return np.float32(noise / np.sqrt(max(fan_in, 1)))
    return np.float32((leaf in ("weight", "scale", "gamma")) + 0.1 * noise)


@dataclasses.dataclass(frozen=True)
class Golden:
    """One file. `inputs`, `outputs`, `given` map names to arrays as stored."""

    name: str
    manifest: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    given: dict[str, np.ndarray]

    @classmethod
    def load(cls, path: pathlib.Path) -> "Golden":
        with np.load(path) as file:
            groups = {"inputs": {}, "outputs": {}, "given": {}}
            for key in file.files:
                group, _, name = key.partition("/")
                if group in groups:
                    groups[group][name] = file[key]
            return cls(path.stem, json.loads(str(file["manifest"])), **groups)

    @property
    def config(self) -> dict[str, Any]:
        """The official constructor's arguments."""
        return self.manifest["config"]

    @property
    def commit(self) -> str:
        return re.search(r"@(\w+)", self.manifest["reference"]).group(1)

    @property
    def names(self) -> tuple[str, ...]:
        """What the file's reference names: "OpenSTL::SimVP_Model", repository and class.

        The last one is the file's own, slug and part: some references name no class.
        """
        before, _, after = self.manifest["reference"].partition("::")
        repository = re.search(r"/([\w.-]+)@", before)
        repository = repository.group(1) if repository else before  # a library, or a paper
        classes = tuple(f"{repository}::{name}" for name in re.findall(r"[A-Za-z_]\w*", after))
        return (*classes, f"{self.manifest['slug']}::{self.manifest['part']}")

    @functools.cached_property
    def state(self) -> dict[str, np.ndarray]:
        """The official state dict."""
        manifest, salt = self.manifest, self.manifest.get("salt", "")
        aliases = manifest.get("aliases") or {}
        return {
            name: self.given[name] if name in self.given
            else fill(aliases.get(name, name), tuple(shape), salt)
            for name, shape in manifest["params"].items()
        }


def files() -> list[pathlib.Path]:
    return sorted(FOLDER.glob("*.npz"))
