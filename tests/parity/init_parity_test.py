"""`surgery init`: random weights that diffusers and this program load, the same bits in both layouts.

Environment: SURGERY_BINARY, the program; SURGERY_SOURCE.
"""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

BINARY = os.environ["SURGERY_BINARY"]
SOURCE = pathlib.Path(os.environ["SURGERY_SOURCE"])
TEACHER = SOURCE / "datasets/shapes/teacher"
USAGE, IO = 64, 74


def surgery(*arguments, **more):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=300, **more)


def config_of(folder, **changes):
    """The sizes of the shipped teacher, those of the transformer changed: a cfg file that names them."""
    for part in ["transformer", "vae", "text_encoder"]:
        (folder / part).mkdir(parents=True)
        shutil.copy(TEACHER / part / "config.json", folder / part)
    file = folder / "transformer/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    (folder / "model.cfg").write_text(f"[model]\nconfig = {folder}\n")
    return folder / "model.cfg"


def init(config, output, *options):
    result = surgery("init", "--model-config", config, f"--output={output}", *options)
    assert result.returncode == 0, result.stderr
    return output


def tensors(folder):
    return {str(file.relative_to(folder)): load_file(file) for file in sorted(folder.rglob("*.safetensors"))}


def equal(ours, expected):
    assert ours.keys() == expected.keys()
    return all(ours[file].keys() == expected[file].keys()
               and all(torch.equal(ours[file][n], expected[file][n]) for n in expected[file]) for file in expected)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of(tmp_path_factory.mktemp("sizes") / "small", num_layers=3)


@pytest.fixture(scope="module")
def model(config, tmp_path_factory):
    return init(config, tmp_path_factory.mktemp("init") / "model", "--dtype=fp32")


def test_diffusers_loads_it_and_computes_the_same(model, tmp_path):
    # from_pretrained of this class needs accelerate; it reads the same two files.
    reference = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(model / "transformer")).eval()
    reference.load_state_dict(load_file(model / "transformer/diffusion_pytorch_model.safetensors"), strict=True)
    generator = torch.Generator().manual_seed(1)
    inputs = {"hidden_states": torch.randn((1, 16, 2, 8, 10), generator=generator), "timestep": torch.tensor([640.0]),
              "encoder_hidden_states": torch.randn((1, 5, reference.config.text_dim), generator=generator)}
    save_file(inputs, tmp_path / "in.safetensors")
    result = surgery("forward", f"--model={model}", "--component=transformer", f"--input={tmp_path}/in.safetensors",
                     f"--output={tmp_path}/out.safetensors")
    assert result.returncode == 0, result.stderr
    ours = load_file(tmp_path / "out.safetensors")["sample"]
    with torch.no_grad():
        expected = reference(**inputs).sample
    assert expected.std() > 0.1, "an output that depends on the weights"
    assert torch.linalg.norm(ours - expected) / torch.linalg.norm(expected) < 1e-5
    AutoencoderKLWan.from_pretrained(model / "vae")
    UMT5EncoderModel.from_pretrained(model / "text_encoder")
    assert not (model / "model_index.json").exists(), "it would name a tokenizer that is not there"


def test_both_layouts_hold_the_same_bits(config, model, tmp_path):
    original = init(config, tmp_path / "original", "--dtype=fp32", "--layout=wan", "--shard-size=1MB")
    assert len(list(original.glob("diffusion_pytorch_model-*.safetensors"))) > 1
    assert (original / "Wan2.1_VAE.safetensors").exists()
    result = surgery("export", f"--model={original}", f"--output={tmp_path}/back", "--dtype=fp32")
    assert result.returncode == 0, result.stderr
    assert equal(tensors(tmp_path / "back"), tensors(model))


def test_the_seed_alone_tells_the_bits(config, model, tmp_path):
    assert equal(tensors(init(config, tmp_path / "same", "--dtype=fp32", "--run.threads=1")), tensors(model))
    part = init(config, tmp_path / "part", "--dtype=fp32", "--parts=transformer")
    assert equal(tensors(part), {name: t for name, t in tensors(model).items() if name.startswith("transformer/")})
    other = tensors(init(config, tmp_path / "other", "--dtype=fp32", "--seed=1"))
    name, weight = "transformer/diffusion_pytorch_model.safetensors", "blocks.1.ffn.net.2.weight"
    assert not torch.equal(other[name][weight], tensors(model)[name][weight])
    rounded = tensors(init(config, tmp_path / "bf16"))[name]
    assert torch.equal(rounded[weight], tensors(model)[name][weight].bfloat16())
    assert rounded["blocks.1.scale_shift_table"].dtype == torch.float32


def test_plan_and_inspect_read_it(model):
    result = surgery("plan", f"--model.path={model}", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["parameters"] == sum(
        t.numel() for t in load_file(model / "transformer/diffusion_pytorch_model.safetensors").values())
    assert surgery("inspect", model / "transformer/diffusion_pytorch_model.safetensors").returncode == 0


def test_the_tokenizer_is_copied_where_it_is_named(config, tmp_path):
    with_one = init(config, tmp_path / "with", f"--model.tokenizer={TEACHER}")
    assert (with_one / "tokenizer/spiece.model").read_bytes() == (TEACHER / "tokenizer/spiece.model").read_bytes()
    assert json.loads((with_one / "model_index.json").read_text())["_class_name"] == "WanPipeline"
    assert "no tokenizer" in surgery("init", "--model-config", config, f"--output={tmp_path}/without").stdout


def test_other_options_of_the_model_hold_beside_its_sizes(config, model, tmp_path):
    """A folder is as good as the file that names it, and a part from elsewhere keeps its place."""
    other = config_of(tmp_path / "other", num_layers=5)
    mixed = init(config.parent, tmp_path / "mixed", "--dtype=fp32", f"--model.transformer={other.parent}")
    assert json.loads((mixed / "transformer/config.json").read_text())["num_layers"] == 5
    name = "vae/diffusion_pytorch_model.safetensors"
    assert equal({name: tensors(mixed)[name]}, {name: tensors(model)[name]})


def test_what_is_refused(config, model, tmp_path):
    def refused(code, word, *options):
        result = surgery("init", "--model-config", config, f"--output={tmp_path}/out", *options)
        assert result.returncode == code, result.stderr
        assert word in result.stderr
        assert not any(tmp_path.iterdir()), "nothing was begun"

    refused(USAGE, "exists already", f"--output={model}")
    refused(USAGE, "--layout = comfy", "--layout=comfy")
    refused(USAGE, "--dtype = fp8", "--dtype=fp8")
    refused(USAGE, "'audio' is none of", "--parts=transformer,audio")
    refused(USAGE, "--seed = -1", "--seed=-1")
    refused(USAGE, "--shard-size", "--shard-size=0")
    refused(USAGE, "/absent.cfg", "--model-config=/absent.cfg")
    refused(IO, "spiece.model", f"--model.tokenizer={tmp_path}")
    without = surgery("init", f"--output={tmp_path}/out")
    assert without.returncode == USAGE and "model.config" in without.stderr


def test_a_checkpoint_that_does_not_fit_is_refused_before_it_is_begun(tmp_path):
    huge = config_of(tmp_path / "huge", num_layers=4096, ffn_dim=1 << 24)
    result = surgery("init", "--model-config", huge, f"--output={tmp_path}/out")
    assert result.returncode == IO and "are free" in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def own_memory(process):
    """Bytes that are no file's pages: those go when memory is short. 0 when the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def test_memory_does_not_grow_with_the_model(tmp_path):
    """400 million parameters are 1.6 GB in the fp32 they are drawn in."""
    def peak(name, **sizes):
        config = config_of(tmp_path / name, **sizes)
        child = subprocess.Popen([BINARY, "init", "--model-config", config, f"--output={tmp_path}/{name}-model",
                                  "--parts=transformer"], stderr=subprocess.DEVNULL)
        most = 0
        while child.poll() is None:
            most = max(most, own_memory(child.pid))
            time.sleep(0.002)
        assert child.returncode == 0 and most > 0
        return most

    small = peak("small", num_layers=1)
    large = peak("large", num_layers=2, num_attention_heads=32, attention_head_dim=128, ffn_dim=8192)
    written = sum(file.stat().st_size for file in (tmp_path / "large-model").rglob("*.safetensors"))
    shutil.rmtree(tmp_path / "large-model")
    assert written > 7e8
    assert large - small < 3.5e8, f"{small / 1e6:.0f} MB, {large / 1e6:.0f} MB"
