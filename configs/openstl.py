"""OpenSTL (Tan et al. 2023, arXiv 2306.11249): its video predictors on its data sets.

    python -m experiments.openstl --config.method=predrnn --config.dataset=mmnist
    python -m experiments.openstl --config.method=tau --config.dataset=taxibj --scale=paper \
        --config.data.source=taxibj:data/taxibj/dataset.npz
    python -m experiments.openstl --config.dataset=custom --config.data.source=folder:my/videos
    python -m experiments.openstl benchmark --arms=convlstm,predrnn,simvp_gsta

`method` and `dataset` decide which other fields there are. At --scale=paper the sizes, rates and
epochs are those of the configs behind the published tables (v0.3.0); at tiny and small the models
are small and the data sets as they are, but for the moving digits.
"""

from ml_collections import ConfigDict

from configs import _moving_digits, _openstl

# Counts are of the models at paper scale on moving digits.
FACTS = {
    "family": "prediction",
    "paper": "Tan et al. 2023, arXiv 2306.11249",
    "parameters": 46_769_665,
    "parameters_of": {
        "convlstm": 11_675_648, "prednet": 12_510_842, "predrnn": 23_838_720,
        "predrnnpp": 35_307_520, "predrnnv2": 23_855_104, "e3dlstm": 51_347_456,
        "mim": 37_945_344, "crevnet": 4_997_444, "phydnet": 3_091_732, "mau": 4_475_329,
        "swinlstm_b": 2_581_041, "swinlstm_d": 18_845_409, "simvp_incepu": 57_946_113,
        "simvp_gsta": 46_769_665, "simvp_vit": 46_102_273, "simvp_swin": 46_105_409,
        "simvp_uniformer": 44_834_817, "simvp_mlp": 38_192_449, "simvp_convmixer": 3_919_361,
        "simvp_poolformer": 37_115_393, "simvp_convnext": 37_313_921, "simvp_van": 44_520_833,
        "simvp_hornet": 45_738_305, "simvp_moga": 46_777_065, "tau": 44_656_001,
        "simvpv1": 15_778_433, "mmvp": 14_119_749, "wast": 28_183_141, "dmvfn": 3_522_922,
    },
    # Where OpenSTL allocates more than it uses.
    "official_parameters_of": {
        "convlstm": 15_083_520, "predrnnpp": 38_584_320, "mim": 38_043_648, "mau": 4_483_588,
        "swinlstm_d": 20_191_969, "mmvp": 14_828_581,
    },
    # Multiply-adds of a forecast, 10 frames in, 10 out, in 1e9: the published table, as rounded.
    "gmacs_of": {
        "convlstm": 56.8, "prednet": 8.6, "phydnet": 15.3, "predrnn": 116.0, "predrnnpp": 171.7,
        "mim": 179.2, "mau": 17.8, "e3dlstm": 298.9, "crevnet": 270.7, "predrnnv2": 116.6,
        "dmvfn": 0.2, "simvp_incepu": 19.4, "simvp_gsta": 16.5, "tau": 16.0, "simvp_vit": 16.9,
        "simvp_swin": 16.4, "simvp_uniformer": 16.5, "simvp_mlp": 14.7, "simvp_convmixer": 5.5,
        "simvp_poolformer": 14.1, "simvp_convnext": 14.1, "simvp_van": 16.0, "simvp_hornet": 16.3,
        "simvp_moga": 16.5,
    },
    # Moving MNIST after 200 epochs: squared error, absolute error, SSIM as OpenSTL computes it.
    "published": {
        "convlstm": (29.80, 90.64, 0.9288), "prednet": (161.38, 201.16, 0.7783),
        "phydnet": (28.19, 78.64, 0.9374), "predrnn": (23.97, 72.82, 0.9462),
        "predrnnpp": (22.06, 69.58, 0.9509), "mim": (22.55, 69.97, 0.9498),
        "mau": (26.86, 78.22, 0.9398), "e3dlstm": (35.97, 78.28, 0.9320),
        "crevnet": (30.15, 86.28, 0.9350), "predrnnv2": (24.13, 73.73, 0.9453),
        "dmvfn": (123.67, 179.96, 0.8140), "simvp_incepu": (32.15, 89.05, 0.9268),
        "simvp_gsta": (26.69, 77.19, 0.9402), "tau": (24.60, 71.93, 0.9454),
        "simvp_vit": (35.15, 95.87, 0.9139), "simvp_swin": (29.70, 84.05, 0.9331),
        "simvp_uniformer": (30.38, 85.87, 0.9308), "simvp_mlp": (29.52, 83.36, 0.9338),
        "simvp_convmixer": (32.09, 88.93, 0.9259), "simvp_poolformer": (31.79, 88.48, 0.9271),
        "simvp_convnext": (26.94, 77.23, 0.9397), "simvp_van": (26.10, 76.11, 0.9417),
        "simvp_hornet": (29.64, 83.26, 0.9331), "simvp_moga": (25.57, 75.19, 0.9429),
    },
    "source": "OpenSTL docs, Moving MNIST benchmark, v0.3.0",
}

_STACK = dict(hidden=(128, 128, 128, 128), patch=4, kernel_size=5, layer_norm=False)
_TINY_STACK = dict(hidden=(32, 32), patch=2, kernel_size=3)
_TINY_SIMVP = dict(hid_S=16, N_S=2, translator=dict(hid_T=64, N_T=4, mlp_ratio=4.0))
_TRANSLATORS = (
    "incepu", "gsta", "vit", "swin", "uniformer", "mlp", "convmixer", "poolformer", "convnext",
    "van", "hornet", "moga",
)
# Published code lets shifted windows go on over the map's edges, unmasked.
_SWIN = dict(translator=dict(name="swin", mlp_ratio=8.0, cyclic=False, remat=False))
_PREDNET = (32, 64, 128, 256)
_DMVFN = dict(
    features=(160, 160, 160, 80, 80, 80, 44, 44, 44), scales=(4, 4, 4, 2, 2, 2, 1, 1, 1),
    routing_features=32, beta=0.5,
)

# Method -> its model's fields at paper scale, what is otherwise at tiny and small, its learning
# rate there, and what is neither "mse" nor scheduled sampling of its losses and its inputs.
METHODS = {
    "convlstm": dict(model=dict(_STACK, output="tanh_cell"), tiny=_TINY_STACK, rate=3e-3),
    "prednet": dict(
        model=dict(features=_PREDNET), tiny=dict(features=(24, 48)), rate=2e-3,
        loss="half_l1", sampling="none",
    ),
    "predrnn": dict(model=dict(_STACK, decoupling=0.0), tiny=_TINY_STACK, rate=3e-3),
    "predrnnpp": dict(model=_STACK, tiny=_TINY_STACK, rate=3e-3),
    "predrnnv2": dict(
        model=dict(_STACK, decoupling=0.1), tiny=_TINY_STACK, rate=3e-3,
        sampling="reverse_scheduled",
    ),
    "e3dlstm": dict(
        model=_STACK, tiny=dict(_TINY_STACK, hidden=(16, 16)), rate=3e-3, loss="mse_plus_l1"
    ),
    "mim": dict(model=_STACK, tiny=_TINY_STACK, rate=3e-3),
    "crevnet": dict(
        model=dict(layers=8, blocks=(4, 5, 3)), tiny=dict(layers=3, blocks=(2, 2)), rate=3e-3,
        sampling="none",
    ),
    "phydnet": dict(
        model=dict(patch=4, features=64, hidden=(128, 128), side=7, groups=16),
        tiny=dict(patch=2, features=16, hidden=(32, 32), side=3, groups=4), rate=3e-3,
        sampling="teacher_forcing",
    ),
    "mau": dict(
        model=dict(features=64, layers=4, kernel_size=5, halvings=2, tau=5),
        tiny=dict(features=32, layers=2, kernel_size=3, halvings=1), rate=3e-3,
    ),
    "swinlstm_b": dict(
        model=dict(depths=(12,), heads=(4,), dim=128, window=4, drop_path=0.1),
        tiny=dict(depths=(4,), heads=(4,), dim=32, drop_path=0.0), rate=2e-3, published=1e-4,
        sampling="own_outputs",
    ),
    "swinlstm_d": dict(
        model=dict(depths=(2, 6, 2, 6), heads=(4, 8, 8, 4), dim=128, window=4, drop_path=0.1),
        tiny=dict(depths=(2, 2, 2), heads=(2, 4, 2), dim=16, drop_path=0.0), rate=2e-3,
        published=1e-4, sampling="own_outputs",
    ),
    **{
        f"simvp_{name}": dict(
            model=dict(translator=dict(name=name, mlp_ratio=8.0, remat=False)), tiny=_TINY_SIMVP,
            rate=5e-3,
        )
        for name in _TRANSLATORS
    },
    "simvp_swin": dict(model=_SWIN, tiny=_TINY_SIMVP, rate=5e-3),
    "tau": dict(
        model=dict(translator=dict(name="tau", mlp_ratio=8.0, remat=False)), tiny=_TINY_SIMVP,
        rate=5e-3,
        loss="mse_and_divergence",
    ),
    "simvpv1": dict(
        model=dict(
            version=1, hid_S=64, N_S=4,
            translator=dict(name="incepu", hid_T=256, N_T=8, remat=False),
        ),
        tiny=dict(hid_S=16, N_S=2, translator=dict(hid_T=64, N_T=4)), rate=5e-3, published=1e-2,
    ),
    "mmvp": dict(
        model=dict(
            hid_S=32, hid_T=192, rrdb_encoder_num=2, rrdb_decoder_num=2, rrdb_enhance_num=2
        ),
        tiny=dict(
            hid_S=8, hid_T=16, rrdb_encoder_num=1, rrdb_decoder_num=1, rrdb_enhance_num=1
        ),
        rate=3e-3,
    ),
    "wast": dict(
        model=dict(encoder_dim=20, block_list=(2, 8, 2), mlp_ratio=4.0, drop_path=0.25),
        tiny=dict(encoder_dim=8, block_list=(1, 2, 1), drop_path=0.0), rate=3e-3,
        loss="mse_and_high_frequencies",
    ),
    "dmvfn": dict(
        model=_DMVFN, tiny=dict(features=(24, 24, 24), scales=(2, 2, 1)), rate=1e-3,
        loss="laplacian", sampling="none",
    ),
}

_DIGITS = dict(family="mmnist", epochs=200)
_WEATHER = dict(family="weather", epochs=50, warmup=0)
_ONE = ("r", "t", "u", "v")

# Data set -> the fields of its data, the family whose sizes and the column whose rates it has,
# epochs, and of those that end in a cosine, epochs of warm-up.
DATASETS = {
    "mmnist": dict(_DIGITS, data={}),
    "mfmnist": dict(_DIGITS, data=dict(digits="tfds:fashion_mnist")),
    "mmnist_cifar": dict(_DIGITS, data=dict(background="tfds:cifar10")),
    **{
        f"noisymmnist_{noise}": dict(_DIGITS, rates="noisymmnist", data=dict(noise=noise))
        for noise in ("perceptual", "missing", "dynamic")
    },
    "taxibj": dict(
        family="taxibj", epochs=50, warmup=5,
        data=dict(source="taxibj:data/taxibj/dataset.npz", context=4, horizon=4),
    ),
    "kth": dict(
        family="kth", epochs=100, data=dict(source="kth:data/kth", context=10, horizon=20)
    ),
    "kth40": dict(
        family="kth", rates="kth", epochs=100,
        data=dict(source="kth:data/kth", context=10, horizon=40),
    ),
    "human": dict(
        family="human", epochs=50, warmup=0,
        data=dict(source="human:data/human", context=4, horizon=4),
    ),
    "kitticaltech": dict(
        family="kitticaltech", epochs=100,
        data=dict(source="kitticaltech:data/kitticaltech", context=10, horizon=1),
    ),
    "bair": dict(
        family="bair", epochs=100, data=dict(source="bair:data/bair", context=4, horizon=12)
    ),
    "kinetics": dict(
        family="kinetics", epochs=100, warmup=0,
        # Black and white under ImageNet's mean and standard deviation.
        value_range=((-2.117904, -2.035714, -1.804444), (2.248908, 2.428571, 2.64)),
        data=dict(source="kinetics:data/kinetics400", context=4, horizon=4),
    ),
    **{
        name: dict(
            _WEATHER,
            data=dict(
                source="weather:data/weather/5.625deg", variables=(name,), context=12, horizon=12
            ),
        )
        for name in ("t2m", "r", "uv10", "tcc")
    },
    "t2m_1_40625": dict(
        _WEATHER,
        data=dict(
            source="weather:data/weather/1.40625deg", variables=("t2m",), context=12, horizon=12
        ),
    ),
    **{
        f"mv_4_{horizon}_s6": dict(
            _WEATHER, rates="mv",
            data=dict(
                source="weather:data/weather/5.625deg", variables=_ONE, levels=(150, 500, 850),
                step=6, train_time=("1979", "2015"), test_time=("2017", "2018"), context=4,
                horizon=horizon,
            ),
        )
        for horizon in (4, 28)
    },
    # Not OpenSTL's: an hour's steps over Britain in March 2019 (the file comes with xarray), and
    # anybody's videos.
    "era5": dict(
        _WEATHER, rates="t2m",
        data=dict(
            source="weather:data/era5-2mt-2019-03-uk.grib", variables=("t2m",), crop=(32, 48),
            train_time=("2019-03-01", "2019-03-20"), test_time=("2019-03-24", "2019-03-31"),
            context=6, horizon=6,
        ),
    ),
    "custom": dict(
        family="mmnist", rates="mmnist", epochs=200,
        data=dict(source="folder:data/videos", size=64, step=1, stride=0, context=10, horizon=10),
    ),
}


# When a model is shown true frames in training.
_SAMPLING = {
    "none": {},
    "own_outputs": {},
    "scheduled": dict(start=1.0, change=2e-5, stop=50_000),
    "reverse_scheduled": dict(hold=25_000, stop=50_000, alpha=5_000),
    "teacher_forcing": dict(change=3e-3, every=625),
}


def get_config(scale="tiny", method="simvp_gsta", dataset="mmnist"):
    """A method on a data set.

    Raises:
        ValueError: a method or data set that there is not; those there are are named.
    """
    recipe, place = _known("method", method, METHODS), _known("dataset", dataset, DATASETS)
    column = place.get("rates", dataset)
    config = _moving_digits.sections(scale)
    config.method, config.dataset = method, dataset
    config.data, config.test = _data(config, scale, place["data"])
    config.model = _model(scale, method, recipe, column, place["family"])
    config.task = dict(
        loss_name=recipe.get("loss", "mse"), value_range=place.get("value_range", (0.0, 1.0)),
        lpips_weights="",
    )
    name = recipe.get("sampling", "scheduled")
    config.sampling = dict(name=name, **_SAMPLING[name])
    rate = recipe.get("published", _openstl.rate(method, column))
    config.optimizer = dict(name="adam", peak=rate, schedule="one_cycle", schedule_args={})
    if "warmup" in place:
        # How many steps an epoch has is known once the data are open.
        config.optimizer.schedule = "epoch_cosine"
        config.optimizer.schedule_args = dict(steps_per_epoch=0, warmup_epochs=place["warmup"])
    # Of so many clips (0: all of the training set); no epochs: train.steps counts.
    config.epochs = dict(count=place["epochs"], clips=0 if "source" in place["data"] else 10_000)
    config.train = dict(
        batch=_openstl.batch(method, column), steps=0, seed=42, accumulate=1, ema=0.0,
        precision="float32",
    )
    if scale != "paper":
        steps = 10_000 if scale == "small" else 1_000
        config.epochs.count = 0
        config.train.update(batch=16, steps=steps)
        config.optimizer.update(peak=recipe["rate"], schedule="one_cycle")
        config.optimizer.schedule_args = {}
        config.sampling = dict(name=name, **_sooner(_SAMPLING[name], 0.4 * steps / 50_000))
    return config


def ablations():
    """Every method."""
    return {name: {"method": name} for name in METHODS}


def _known(field, name, names):
    if name not in names:
        raise ValueError(f"{field}: {name!r} is none of {', '.join(names)}")
    return names[name]


def _data(config, scale, fields):
    """What is stored has sizes of its own; moving digits have those of the scale."""
    if "source" in fields:
        return dict(fields, seed=0), dict(config.test, count_test=None)
    offline = {} if scale == "paper" else dict(digits="sklearn", background="made")
    fields = fields | {name: offline[name] for name in fields.keys() & offline.keys()}
    return dict(config.data, **fields), config.test


def _model(scale, method, recipe, column, family):
    """Sizes as published on this data set, or small ones."""
    model = ConfigDict(recipe["model"])
    if method != "simvpv1" and "translator" in model:
        sizes = dict(_openstl.simvp(model.translator.name, column, family))
        model.update(hid_S=sizes.pop("hid_S"), N_S=sizes.pop("N_S"))
        model.translator.update(sizes)
    if patch := _openstl.patch(method, column, family):
        model.update({"halvings": patch // 2} if method == "mau" else {"patch": patch})
    if scale != "paper":
        model.update(recipe["tiny"])
    return model


def _sooner(sampling, factor):
    """The same curriculum in `factor` of its steps."""
    if "every" in sampling:
        return dict(sampling, every=max(1, int(sampling["every"] * factor)))
    by = {"change": 1 / factor, "hold": factor, "stop": factor, "alpha": factor}
    return {name: type(x)(x * by.get(name, 1)) for name, x in sampling.items()}
