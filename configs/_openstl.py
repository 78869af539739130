"""What OpenSTL's configs (v0.3.0, behind the published tables) set for a method on a data set.

Where they say nothing, a rate is 1e-3 and a step has 16 clips.
"""

from collections.abc import Mapping


def _table(text: str) -> dict[tuple[str, str], str]:
    """(row, column) -> entry."""
    columns, *rows = (line.split() for line in text.strip().splitlines())
    return {
        (row, column): entry
        for row, *entries in rows
        for column, entry in zip(columns, entries, strict=True) if entry != "-"
    }


# Peak learning rates of videos.
_RATES = _table("""
                 mmnist mfmnist mmnist_cifar noisymmnist taxibj    kth  human kitticaltech
convlstm           5e-4    5e-4         1e-4        1e-4   5e-4   1e-3   1e-4         5e-3
prednet            1e-4    1e-4         1e-3           -      -      -   1e-4         1e-3
predrnn            5e-4    5e-4         1e-4        1e-4   1e-4   1e-3   1e-4         1e-2
predrnnpp          1e-4    5e-4         1e-4        1e-4   1e-4   1e-3   1e-4         5e-3
predrnnv2          5e-4    5e-4         1e-4        1e-4   5e-4   1e-3   1e-4         1e-3
e3dlstm            1e-4    1e-4         1e-4        1e-4   5e-3   5e-4   1e-4       2.5e-3
mim                5e-4    1e-4         1e-4        1e-4   1e-2   1e-4   1e-4         1e-2
crevnet            5e-3       -         1e-4           -      -      -      -            -
phydnet            1e-3    5e-4         1e-4        1e-4   5e-4   1e-3   1e-4         5e-3
mau                1e-3    5e-4         5e-4        5e-4   1e-3   5e-4   1e-4         1e-3
dmvfn              1e-4    1e-4         1e-4           -   1e-4   5e-5   1e-3         5e-4
simvp_incepu       1e-3    1e-3         1e-3        1e-3   1e-3   1e-3   1e-3         5e-3
simvp_gsta         1e-3    1e-3         1e-3        1e-3   5e-4   1e-3   1e-3         5e-3
simvp_vit          5e-4    5e-4         1e-3        1e-3   5e-4 1.3e-3   1e-3      1.25e-4
simvp_swin         1e-3    1e-3         1e-3        1e-3   5e-4   5e-4   5e-4         5e-4
simvp_uniformer    5e-4    5e-4         1e-3        1e-3   5e-4   1e-3   1e-3         1e-3
simvp_mlp          1e-3    1e-3         1e-3        1e-3   1e-2      -   1e-3         5e-4
simvp_convmixer    1e-2    1e-2         5e-3        5e-3   1e-3   1e-2   1e-2         1e-2
simvp_poolformer   1e-3    1e-3         1e-3        1e-3   5e-4   5e-4   1e-3         1e-3
simvp_convnext     1e-2    1e-2         1e-2        1e-2   1e-3   5e-3   5e-3         5e-3
simvp_van          1e-3    5e-3         5e-3        5e-3   1e-3   1e-3   1e-3         1e-2
simvp_hornet       1e-3    1e-3         1e-3        1e-3   1e-3   1e-3   1e-3         1e-3
simvp_moga         1e-3    1e-3         5e-3        5e-3   1e-3   5e-3   1e-3         5e-3
tau                1e-3    1e-3         5e-3        5e-3   5e-4   1e-3   1e-3         1e-2
""")
# The same of WeatherBench, at 5.625 degrees and of one variable where not said otherwise.
_RATES |= _table("""
                    t2m      r   uv10    tcc t2m_1_40625     mv
convlstm           5e-4   5e-4   5e-4   1e-4        1e-4   5e-4
predrnn            5e-4   1e-3   5e-4   5e-4        1e-4   1e-4
predrnnpp          5e-4   5e-4   5e-4   1e-3        1e-4   1e-4
predrnnv2          5e-4   1e-3   5e-4   1e-3        1e-4   5e-4
mim                   -      -      -      -        1e-4   1e-4
phydnet            1e-4   1e-4   1e-3   1e-4        1e-4   5e-4
mau                1e-4   5e-4      -   1e-3        1e-4   5e-4
simvp_incepu       1e-2   1e-3   5e-3   1e-2        1e-2   5e-3
simvp_gsta         5e-3   5e-3   5e-3   1e-2        5e-3   1e-3
simvp_vit          1e-3   1e-3   5e-4   5e-4        1e-3   1e-3
simvp_swin         1e-3   1e-3   1e-3   1e-3        1e-3   5e-3
simvp_uniformer    5e-3   5e-3   5e-3   5e-3        5e-3   1e-3
simvp_mlp          1e-3   1e-2   5e-4   5e-3        1e-3   5e-3
simvp_convmixer    1e-2   5e-3   1e-2   5e-3        1e-2      -
simvp_poolformer   5e-4   5e-3   1e-3   5e-4        5e-4   1e-3
simvp_convnext     1e-2   1e-2   5e-3   1e-2        1e-2      -
simvp_van          5e-3   5e-3   5e-3   1e-2        5e-3   5e-3
simvp_hornet       1e-3   1e-3   1e-3   5e-3        1e-3   5e-3
simvp_moga         5e-3   1e-2   1e-3   1e-2        1e-2   5e-3
tau                5e-3   5e-3   5e-3   5e-4        5e-3   5e-3
""")
# Sides of the squares that are folded into channels (of PhyDNet and MAU: how much smaller their
# states' maps are).
_PATCHES = _table("""
            mmnist  taxibj  kth  human  kitticaltech  bair  kinetics  weather  t2m_1_40625  r  mv
convlstm         4       2    2      4             2     2         4        2            4  -   -
predrnn          4       2    2      4             2     2         4        2            2  -   -
predrnnpp        4       2    2      4             2     2         4        2            2  -   -
predrnnv2        4       2    2      4             2     2         4        2            2  -   -
mim              4       2    4      4             2     2         4        4            4  -   -
e3dlstm          4       2    8      8             4     2         8        2            4  -   -
phydnet          4       2    4      4             4     2         4        2            4  -   -
mau              4       2    2      4             2     2         4        2            4  4   4
""")
_BATCHES = {
    ("e3dlstm", "kth"): 8, ("e3dlstm", "human"): 4, ("e3dlstm", "kitticaltech"): 4,
    ("mim", "human"): 4, ("phydnet", "kinetics"): 4,
}
# Sizes of SimVP, and the translators that have others.
_SIMVP = {
    "mmnist": dict(hid_S=64, N_S=4, hid_T=512, N_T=8, drop_path=0.0),
    "taxibj": dict(hid_S=32, N_S=2, hid_T=256, N_T=8, drop_path=0.1),
    "kth": dict(hid_S=64, N_S=2, hid_T=256, N_T=6, drop_path=0.1),
    "human": dict(hid_S=64, N_S=4, hid_T=512, N_T=8, drop_path=0.1),
    "kitticaltech": dict(hid_S=64, N_S=2, hid_T=256, N_T=6, drop_path=0.1),
    "bair": dict(hid_S=64, N_S=2, hid_T=256, N_T=8, drop_path=0.1),
    "kinetics": dict(hid_S=64, N_S=4, hid_T=512, N_T=8, drop_path=0.1),
    "weather": dict(hid_S=32, N_S=2, hid_T=256, N_T=8, drop_path=0.1),
}
_SIMVP_OTHERS = {
    ("incepu", "kth"): dict(N_T=4), ("vit", "kth"): dict(N_T=4), ("uniformer", "kth"): dict(N_T=4),
    ("incepu", "kitticaltech"): dict(N_T=4), ("vit", "kitticaltech"): dict(N_T=4),
    ("uniformer", "kitticaltech"): dict(N_T=4, drop_path=0.2),
    ("gsta", "kitticaltech"): dict(drop_path=0.2),
    ("incepu", "human"): dict(N_T=6), ("hornet", "human"): dict(N_T=6),
    ("moga", "human"): dict(N_T=6, hid_T=256), ("gsta", "human"): dict(hid_T=256),
    ("vit", "human"): dict(hid_T=256), ("gsta", "mv"): dict(hid_T=512),
    ("vit", "t2m_1_40625"): dict(N_S=4), ("uniformer", "t2m_1_40625"): dict(N_S=4),
    ("tau", "t2m_1_40625"): dict(N_S=4),
}
_DROP_PATH_02 = {
    "kth": "gsta van hornet moga",
    "t2m": "moga",
    "r": "swin uniformer convmixer poolformer convnext van hornet moga",
    "uv10": "gsta vit swin uniformer mlp poolformer convnext van hornet moga",
    "tcc": "mlp poolformer convnext van hornet",
}


def rate(method: str, dataset: str) -> float:
    """Peak learning rate."""
    return float(_RATES.get((method, dataset), 1e-3))


def batch(method: str, dataset: str) -> int:
    """Clips a step, over all devices."""
    return _BATCHES.get((method, dataset), 16)


def patch(method: str, dataset: str, family: str) -> int | None:
    """Side of the squares that are folded into channels; None: the method has none."""
    found = _PATCHES.get((method, dataset), _PATCHES.get((method, family)))
    return found and int(found)


def simvp(translator: str, dataset: str, family: str) -> Mapping[str, float]:
    """hid_S, N_S, hid_T, N_T and drop_path of SimVP with a translator."""
    sizes = _SIMVP[family] | _SIMVP_OTHERS.get((translator, dataset), {})
    if translator in _DROP_PATH_02.get(dataset, "").split():
        sizes["drop_path"] = 0.2
    return sizes
