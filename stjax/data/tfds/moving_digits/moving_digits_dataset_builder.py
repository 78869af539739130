"""TFDS builder of moving digits: generated once, then read at random from array_record files.

    builder = Builder(config=Config(name="small", size=32, digit_size=14), data_dir=folder,
                      file_format="array_record")
    builder.download_and_prepare()
    splits = stjax.data.load("tfds:moving_digits/small", data_dir=folder)

Writing and reading need no TensorFlow: videos are tensors compressed by zlib, not TFDS's Video,
which encodes its frames with TensorFlow.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from stjax import data


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """Arguments of `stjax.data.load("moving_digits")`."""

    size: int = 64
    context: int = 10
    horizon: int = 10
    count_train: int = 10_000
    count_test: int = 1000
    seed: int = 0
    num_digits: int = 2
    digits: str = "sklearn"
    digit_size: int | None = 28
    motion: str = "openstl"

    def load(self) -> data.Splits:
        own = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}
        arguments = {key: value for key, value in vars(self).items() if key not in own}
        return data.load("moving_digits", **arguments)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Sequences in the order of their index, splits train and test."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "The generators of OpenSTL and ConvSSM."}
    BUILDER_CONFIGS: ClassVar = [
        Config(name="openstl", description="Step length 0.1, 10 + 10 frames."),
        Config(name="convssm", description="Step length 0.15, 300 frames.", motion="convssm",
               context=100, horizon=200, count_train=1000, count_test=100),
    ]  # fmt: skip

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        shape = (config.context + config.horizon, config.size, config.size, 1)
        video = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="zlib")
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"video": video, "id": np.int32}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        splits = self.builder_config.load()
        return {
            "train": self._generate_examples(splits.train),
            "test": self._generate_examples(splits.test),
        }

    def _generate_examples(self, source: data.Source):
        for index in range(len(source)):
            yield index, source[index]
