"""A hybrid model in diffusers, by the file that `surgery export` puts beside its weights, against `surgery forward`.

Environment: SURGERY_BINARY, the program; SURGERY_SOURCE.
"""
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from measured import agree, difference
from safetensors.torch import load_file, save_file
from transformer_parity_test import DONE, TOLERANCE, draw, forward, inputs, reference

BINARY = os.environ["SURGERY_BINARY"]
SOURCE = pathlib.Path(os.environ["SURGERY_SOURCE"])
TEACHER = SOURCE / "datasets/shapes/teacher"
LOADER = "surgery_diffusers.py"
WEIGHTS = "diffusion_pytorch_model.safetensors"
RATES = [1, 2, 4, 7, "linear", 3]
GRID = (3, 5, 5)  # 75 tokens: a multiple of 3, not of 2, 4, 7
HYBRID = {"rates": RATES, "phi_degree": 2, "phi_layers": 2, "phi_hidden_activation": "gelu",
          "phi_output_activation": "softplus", "stabilizer": "max"}
VARIANTS = {  # every stabilizer, output activation and several sizes of phi
    "max-softplus": {},
    "lse-softplus": {"stabilizer": "lse"},
    "lse-elu1": {"stabilizer": "lse", "phi_output_activation": "elu1", "phi_degree": 3, "phi_layers": 1},
    "max-relu": {"phi_output_activation": "relu", "phi_degree": 1, "phi_layers": 3},
    "max-exp": {"phi_output_activation": "exp", "phi_degree": 3},
    "lse-square": {"stabilizer": "lse", "phi_output_activation": "square"},
    "max-none": {"phi_output_activation": "none", "phi_degree": 1},
}


def export(model, output, *options):
    result = subprocess.run([BINARY, "export", f"--model={model}", f"--output={output}", *options], capture_output=True,
                            text=True, timeout=300)
    assert result.returncode == DONE, result.stderr
    return output


def convert(folder, hybrid):
    """Makes a softmax model's transformer/ hybrid: random feature maps in our names, settings in config.json."""
    generator = torch.Generator().manual_seed(0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hybrid": hybrid}))
    heads, dim = config["num_attention_heads"], config["attention_head_dim"]
    tensors, features = load_file(folder / WEIGHTS), hybrid["phi_degree"] * dim
    # The outputs are so small that, summed over the keys, the linear part is about as large as the softmax part.
    exponential = hybrid["phi_output_activation"] in ["softplus", "elu1", "exp"]
    for block, rate in enumerate(hybrid["rates"]):
        for name in ["phi_q", "phi_k"] if rate != 1 else []:
            for layer in range(hybrid["phi_layers"]):
                place, width = f"blocks.{block}.attn1.{name}.{layer}", features if layer else dim
                scale, level = 1, 0
                if layer + 1 == hybrid["phi_layers"]:
                    scale, level = (1, -3) if exponential else (0.1, 0.1)
                # A third: queries and keys have lengths far above one.
                tensors[place + ".weight"] = scale / 3 * torch.randn(heads, features, width, generator=generator) / width**0.5
                tensors[place + ".bias"] = level + scale * 0.3 * torch.randn(heads, features, generator=generator)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def teacher():
    """A random softmax model with sharp attention that matters to the output."""
    model = draw(dict(num_attention_heads=4, attention_head_dim=16, num_layers=len(RATES)))
    with torch.no_grad():
        for block in model.blocks:
            block.attn1.to_v.weight.mul_(4)
            block.attn1.to_out[0].weight.mul_(4)
    return model


def hybrid_model(folder, **variant):
    """folder/transformer: the same with random feature maps."""
    teacher().save_pretrained(folder / "transformer")
    convert(folder / "transformer", HYBRID | variant)
    return folder


def loader(folder):
    """The module that was shipped, in chunks that are small enough for the test's few tokens to need several."""
    spec = importlib.util.spec_from_file_location("surgery_diffusers", folder / "transformer" / LOADER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CHUNK = 32
    return module


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    work = tmp_path_factory.mktemp("hybrid")
    return export(hybrid_model(work / "made"), work / "out", "--dtype=fp32")


@pytest.mark.parametrize("name", VARIANTS)
def test_fp32(name, tmp_path):
    folder = export(hybrid_model(tmp_path / "made", **VARIANTS[name]), tmp_path / "out", "--dtype=fp32")
    model = loader(folder).load_hybrid_transformer(folder)
    tensors = inputs(model, grid=GRID)
    expected, deviations = reference(model, tensors)
    assert len(deviations) == len(RATES) and min(deviations) >= 3, deviations
    code, ours = forward(folder, tensors, tmp_path)
    assert code == DONE, ours
    agree(ours, expected, TOLERANCE)
    assert difference(expected, reference(teacher(), tensors)[0]) > 0.1, "the feature maps must matter"
    for block in model.blocks[1:]:
        block.attn1.processor.stabilizer = {"max": "lse", "lse": "max"}[block.attn1.processor.stabilizer]
    assert difference(expected, reference(model, tensors)[0]) > 0.01, "the stabilizer must matter"


def test_shards_and_bf16(exported, tmp_path):
    shards = export(exported, tmp_path / "shards", "--dtype=fp32", "--shard-size=200KB")
    assert len(list((shards / "transformer").glob("*.safetensors"))) > 3
    module = loader(shards)
    model = module.load_hybrid_transformer(shards)
    tensors = inputs(model, grid=GRID)
    exact = reference(model, tensors)[0]
    assert torch.equal(exact, reference(loader(exported).load_hybrid_transformer(exported / "transformer"), tensors)[0])

    half = module.load_hybrid_transformer(export(exported, tmp_path / "half", "--shard-size=200KB"), torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.blocks[1].attn1.phi_q[0].weight.dtype == torch.bfloat16
    assert half.scale_shift_table.dtype == torch.float32
    with torch.no_grad():
        rounded = half(tensors["hidden_states"].bfloat16(), tensors["timestep"],
                       tensors["encoder_hidden_states"].bfloat16()).sample
    code, ours = forward(tmp_path / "half", tensors, tmp_path, "--precision", "bf16-diffusers")
    assert code == DONE, ours
    own = difference(ours, exact)
    assert own < 0.1 and difference(rounded, exact) <= 1.2 * own and difference(rounded, ours) <= 1.5 * own


def test_the_model_is_diffusers_own(exported, tmp_path):
    model = loader(exported).load_hybrid_transformer(exported)
    assert type(model) is WanTransformer3DModel and not model.training
    stored = load_file(exported / "transformer" / WEIGHTS)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in stored.items()}
    model.save_pretrained(tmp_path / "transformer")
    assert json.loads((tmp_path / "transformer/config.json").read_text())["hybrid"] == HYBRID
    tensors = inputs(model, grid=GRID)
    assert torch.equal(forward(tmp_path, tensors, tmp_path)[1], forward(exported, tensors, tmp_path)[1])
    wide = model.to(torch.float64)
    assert all(parameter.dtype == torch.float64 for parameter in wide.blocks[2].attn1.phi_k.parameters())


def test_only_hybrid_models_in_diffusers_layout_bring_the_file(exported, tmp_path):
    assert (exported / "transformer" / LOADER).read_bytes() == (SOURCE / "src/wan" / LOADER).read_bytes()
    assert not list(export(exported, tmp_path / "wan", "--layout=wan").rglob("*.py"))
    plain = export(TEACHER, tmp_path / "plain")
    assert not list(plain.rglob("*.py"))
    with pytest.raises(ValueError, match="no `hybrid`"):
        loader(exported).load_hybrid_transformer(plain)


def test_weights_that_do_not_fit_are_refused(exported, tmp_path):
    broken = pathlib.Path(shutil.copytree(exported, tmp_path / "broken"))
    tensors = load_file(broken / "transformer" / WEIGHTS)
    del tensors["blocks.1.attn1.phi_k.0.bias"]
    save_file(tensors, broken / "transformer" / WEIGHTS)
    with pytest.raises(RuntimeError, match="blocks.1.attn1.phi_k.0.bias"):
        loader(broken).load_hybrid_transformer(broken)


def test_the_pipeline_runs_unchanged(tmp_path):
    made = export(TEACHER, tmp_path / "made", "--dtype=fp32")
    convert(made / "transformer", HYBRID | {"rates": [1, 1, 2, 1, 4, 1, 8, 1, "linear", 1]})
    folder = export(made, tmp_path / "model", "--dtype=fp32")
    heard = []

    def clip(transformer):
        pipeline = WanPipeline.from_pretrained(folder, transformer=transformer)
        pipeline.set_progress_bar_config(disable=True)
        hook = transformer.register_forward_hook(
            lambda module, _, named, output: heard.append((named, output[0])), with_kwargs=True)
        frames = pipeline("a red circle moving left on a white background", height=64, width=80, num_frames=5,
                          num_inference_steps=2, max_sequence_length=32, output_type="pt",
                          generator=torch.Generator().manual_seed(0)).frames
        hook.remove()
        return frames

    frames = clip(loader(folder).load_hybrid_transformer(folder))
    assert frames.shape == (1, 5, 3, 64, 80) and frames.isfinite().all() and frames.std() > 0.01
    named, velocity = heard[-1]
    tensors = {name: named[name] for name in ["hidden_states", "timestep", "encoder_hidden_states"]}
    code, ours = forward(folder, tensors, tmp_path)
    assert code == DONE, ours
    agree(ours, velocity, TOLERANCE)
    softmax = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(TEACHER / "transformer"))
    softmax.load_state_dict(load_file(TEACHER / "transformer" / WEIGHTS))
    assert difference(frames, clip(softmax)) > 0.01
