"""Checkpoints of Hugging Face's format: whole, in parts, and wrong ones."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from stjax.convert import llama, safetensors
from stjax.convert.rules import to_official
from tests import quick

CONFIG = {
    "vocab_size": 7, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4,
}
RULES, MODULE = llama.rules(CONFIG), llama.module(CONFIG)
IDS = np.zeros((1, 3), np.int32)
GATE = "model.layers.1.mlp.gate_proj.weight"


@pytest.fixture
def checkpoint():
    variables = quick.variables(MODULE, IDS)
    return variables, {k: np.ascontiguousarray(x) for k, x in to_official(RULES, variables).items()}


def load(path, **options):
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), IDS)
    return safetensors.load(path, RULES, shapes, llama.LEFT_OUT, **options)


def test_one_file_and_several_give_the_variables_back(tmp_path, checkpoint):
    variables, state = checkpoint
    left_out = {f"model.layers.{k}.self_attn.rotary_emb.inv_freq": np.ones(2) for k in (0, 1)}
    save_file(state | left_out, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path), variables)

    parts = tmp_path / "parts"
    parts.mkdir()
    names = sorted(state)
    where = {name: f"model-{k % 2}.safetensors" for k, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: state[name] for name in names if where[name] == file}, parts / file)
    (parts / safetensors.INDEX).write_text(json.dumps({"weight_map": where}))
    jax.tree.map(np.testing.assert_array_equal, load(parts), variables)
    (parts / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 files are not there, first model-1"):
        load(parts)


def test_a_part_of_a_larger_checkpoint_in_16_bits(tmp_path, checkpoint):
    variables, state = checkpoint
    state = {name: x.astype(ml_dtypes.bfloat16) for name, x in state.items()}
    state["vision.weight"] = np.zeros(3, np.float32)
    rules = tuple(llama.decoder_rules(CONFIG, "model.", "decoder/"))
    save_file(state, tmp_path / "model.safetensors")
    shapes = {"params": {"decoder": variables["params"]["decoder"]}}
    found = safetensors.load(
        tmp_path / "model.safetensors", rules, shapes, ("model.embed_tokens.weight",), only="model."
    )
    scale = found["params"]["decoder"]["norm"]["scale"]
    assert scale.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(scale, variables["params"]["decoder"]["norm"]["scale"], rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({GATE: None}, f"{GATE} is missing .nearest: model.layers.0.mlp.gate_proj.weight"),
        ({"lm_heads.weight": np.zeros(2)}, "lm_heads.weight is no tensor .*: lm_head"),
        ({GATE: np.zeros((6, 9))}, rf"{GATE} is \(6, 9\) instead of \(6, 8\)"),
        ({f"model.layers.{k}.x": np.zeros(1) for k in range(9)}, "and 4 more"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, checkpoint, change, message):
    state = checkpoint[1] | change
    file = tmp_path / "model.safetensors"
    save_file({name: x for name, x in state.items() if x is not None}, file)
    with pytest.raises(ValueError, match=f"^{file}: .*{message}"):
        load(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", "short", "not a readable .safetensors file"),
        (safetensors.INDEX, "{}", "not an index with a 'weight_map'"),
        (safetensors.INDEX, "[", "not an index with a 'weight_map'"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load(tmp_path / "nothing")
