"""One model in every layout people have: found by its tensors, checked, computed alike, and exported bit for bit.

The names are checked with diffusers' own converters of the original checkpoints. Environment: SURGERY_BINARY, the
program; SURGERY_SOURCE.
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from measured import agree
from safetensors.torch import load_file, save_file
from transformer_parity_test import CONFIGURATIONS, TOLERANCE
from transformer_parity_test import draw as draw_transformer
from transformers import UMT5Config, UMT5EncoderModel
from umt5_parity_test import XXL
from vae_parity_test import draw as draw_vae

BINARY = os.environ["SURGERY_BINARY"]
TEACHER = pathlib.Path(os.environ["SURGERY_SOURCE"], "datasets/shapes/teacher")
DONE, USAGE, DATA, IO = 0, 64, 65, 74
COMFY = "model.diffusion_model."
WEIGHTS = "diffusion_pytorch_model.safetensors"


def surgery(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def refused(result, code, *words):
    assert result.returncode == code, result.stderr
    for word in words:
        assert str(word) in result.stderr, (word, result.stderr)


def export(model, output, layout, *options):
    result = surgery("export", f"--model={model}", f"--output={output}", f"--layout={layout}", *options)
    assert result.returncode == DONE, result.stderr
    return output


def inputs(component, folder, text_dim=64):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    tensors = {"transformer": {"hidden_states": draw(1, 16, 2, 8, 10), "timestep": torch.tensor([640.0]),
                               "encoder_hidden_states": draw(1, 5, text_dim)},
               "vae-encode": {"video": draw(1, 3, 5, 16, 24).clamp(-1, 1)},
               "vae-decode": {"latents": draw(1, 16, 2, 2, 3)},
               "text": {"input_ids": torch.tensor([[4, 9, 17, 1]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}}
    path = folder / f"{component}.input.safetensors"
    save_file(tensors[component], path)
    return path


def forward(model, component, folder, *options, **sizes):
    target = folder / f"{component}.output.safetensors"
    target.unlink(missing_ok=True)
    result = surgery("forward", f"--model={model}", f"--component={component}", f"--output={target}",
                     f"--input={inputs(component, folder, **sizes)}", *options)
    return load_file(target) if result.returncode == DONE else result


def same(ours, expected):
    assert isinstance(ours, dict), ours.stderr
    assert ours.keys() == expected.keys()
    return all(torch.equal(ours[name], expected[name]) for name in expected)


def read(*files):
    """All tensors of some files; no name twice."""
    tensors = {}
    for file in files:
        for name, tensor in load_file(file).items():
            assert name not in tensors
            tensors[name] = tensor
    return tensors


def equal(ours, expected):
    assert ours.keys() == expected.keys()
    return all(ours[n].dtype == expected[n].dtype and torch.equal(ours[n], expected[n]) for n in expected)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The shipped teacher, its VAE in fp32 as `export` writes it."""
    return export(TEACHER, tmp_path_factory.mktemp("teacher") / "diffusers", "diffusers")


@pytest.fixture(scope="module")
def original(teacher):
    return export(teacher, teacher.parent / "Wan2.1", "wan")


@pytest.fixture(scope="module")
def single(teacher):
    return export(teacher, teacher.parent / "wan2.1_bf16.safetensors", "comfy")


# ---- the names are the originals'

def test_diffusers_converter_understands_the_exported_transformer(original, single, teacher):
    expected = read(teacher / "transformer" / WEIGHTS)
    for file in [original / WEIGHTS, single]:
        assert equal(convert_wan_transformer_to_diffusers(load_file(file)), expected)


def test_diffusers_converter_understands_the_exported_vae(tmp_path):
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4).save_pretrained(tmp_path / "model/vae")  # the converter knows two blocks a level only
    shutil.copytree(TEACHER / "transformer", tmp_path / "model/transformer")
    export(tmp_path / "model", tmp_path / "wan", "wan")
    assert equal(convert_wan_vae_to_diffusers(load_file(tmp_path / "wan/Wan2.1_VAE.safetensors")),
                 load_file(tmp_path / "model/vae" / WEIGHTS))


def test_the_text_encoders_branches_are_the_originals(original, teacher):
    wan, ours = read(original / "models_t5_umt5-xxl-enc-bf16.safetensors"), read(teacher / "text_encoder/model.safetensors")
    block = "encoder.block.1.layer."
    for name, reference in {"token_embedding": "shared", "norm": "encoder.final_layer_norm",
                            "blocks.1.ffn.gate.0": block + "1.DenseReluDense.wi_0",
                            "blocks.1.ffn.fc1": block + "1.DenseReluDense.wi_1",
                            "blocks.1.pos_embedding.embedding": block + "0.SelfAttention.relative_attention_bias"}.items():
        assert torch.equal(wan[name + ".weight"], ours[reference + ".weight"])
    assert len(wan) == len(ours)


def test_the_original_folder_has_the_files_of_the_original_repository(original):
    config = json.loads((original / "config.json").read_text())
    assert config == {"_class_name": "WanModel", "model_type": "t2v", "dim": 128, "eps": 1e-6, "ffn_dim": 384,
                      "freq_dim": 256, "in_dim": 16, "out_dim": 16, "num_heads": 8, "num_layers": 10, "text_len": 32,
                      "text_dim": 64}
    assert sorted(path.name for path in original.iterdir()) == [
        "Wan2.1_VAE.safetensors", "config.json", WEIGHTS, "google", "models_t5_umt5-xxl-enc-bf16.safetensors"]
    assert (original / "google/umt5-xxl/spiece.model").read_bytes() == (TEACHER / "tokenizer/spiece.model").read_bytes()


# ---- every layout computes the same

COMPONENTS = ["transformer", "vae-encode", "vae-decode", "text"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_original_layout_computes_alike(teacher, original, component, tmp_path):
    assert same(forward(original, component, tmp_path), forward(teacher, component, tmp_path))


def test_prompts_are_read_with_the_original_tokenizer(teacher, original, tmp_path):
    outputs = []
    for model in [teacher, original]:
        result = surgery("forward", f"--model={model}", "--component=text", "--prompt=a red square moving left",
                         f"--output={tmp_path / 'text'}")
        assert result.returncode == DONE, result.stderr
        outputs.append(load_file(tmp_path / "text"))
    assert same(*outputs)


def test_single_files_compute_alike(teacher, single, tmp_path):
    expected = forward(teacher, "transformer", tmp_path)
    assert same(forward(single, "transformer", tmp_path), expected)
    from safetensors import safe_open
    with safe_open(single, "pt") as file:
        metadata = file.metadata()
    prefixed = tmp_path / "prefixed.safetensors"
    save_file({COMFY + name: tensor for name, tensor in load_file(single).items()}, prefixed, metadata)
    assert same(forward(prefixed, "transformer", tmp_path), expected)


def test_files_are_known_by_their_tensors(teacher, original, tmp_path):
    """The original's names of files, and others; no file says what it is but by its content."""
    folder = tmp_path / "Wan2.1-T2V"
    shutil.copytree(original, folder)
    (folder / "Wan2.1_VAE.safetensors").rename(folder / "Wan2.1_VAE.pth")
    (folder / "models_t5_umt5-xxl-enc-bf16.safetensors").rename(folder / "a.safetensors")
    (folder / WEIGHTS).rename(folder / "z.safetensors")
    for component in COMPONENTS:
        assert same(forward(folder, component, tmp_path), forward(teacher, component, tmp_path))
    for component, file in {"vae-decode": "Wan2.1_VAE.pth", "text": "a.safetensors", "transformer": "z.safetensors"}.items():
        assert same(forward(folder / file, component, tmp_path), forward(teacher, component, tmp_path))
    refused(forward(folder / "a.safetensors", "transformer", tmp_path), DATA, "a.safetensors",
            "holds the tensors of a text encoder")


def test_sizes_follow_from_the_tensors(tmp_path):
    """Files without any configuration: the original's and ComfyUI's, at small sizes of Wan's head dim."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(num_layers=2, num_attention_heads=2, attention_head_dim=128, ffn_dim=96, text_dim=40,
                                  freq_dim=64, in_channels=16, out_channels=16)
    model.save_pretrained(tmp_path / "model/transformer")
    AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(tmp_path / "model/vae")
    config = UMT5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")
    UMT5EncoderModel(config).save_pretrained(tmp_path / "model/text_encoder")
    export(tmp_path / "model", tmp_path / "wan", "wan", "--dtype=fp32")
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in (tmp_path / "wan").glob("*.safetensors"):
        save_file(load_file(file), bare / file.name)  # without the configuration inside
    for component in COMPONENTS:
        expected = forward(tmp_path / "model", component, tmp_path, text_dim=40)
        assert same(forward(bare, component, tmp_path, text_dim=40), expected)
    # ComfyUI's file of the encoder: transformers' names, the tokenizer's model among the tensors.
    comfy = load_file(tmp_path / "model/text_encoder/model.safetensors")
    save_file(comfy | {"spiece_model": torch.zeros(9, dtype=torch.uint8)}, tmp_path / "umt5.safetensors")
    assert same(forward(tmp_path / "umt5.safetensors", "text", tmp_path), forward(tmp_path / "model", "text", tmp_path))


# ---- files of which every tensor is 16-bit, as many for ComfyUI are: norms, modulation, time embedder and patches too

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def halved(file, target, dtype):
    """A file of the same tensors, all in `dtype`, and no configuration; the tensors."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    assert any(not torch.equal(tensors[name].float(), tensor) for name, tensor in load_file(file).items())
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    save_file(tensors, target)
    return tensors


def widened(model, tensors):
    """The reference with these values in fp32; every name and shape must fit."""
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    return model


@pytest.mark.parametrize("dtype", HALVES)
def test_a_single_file_wholly_in_16_bits(dtype, tmp_path):
    reference = draw_transformer(CONFIGURATIONS["head-128"])
    reference.save_pretrained(tmp_path / "model/transformer")
    exact = export(tmp_path / "model", tmp_path / "fp32.safetensors", "comfy", "--dtype=fp32")
    tensors = halved(exact, tmp_path / "half.safetensors", HALVES[dtype])
    values = convert_wan_transformer_to_diffusers(dict(tensors))
    given = load_file(inputs("transformer", tmp_path, text_dim=40))
    with torch.no_grad():
        expected = widened(reference, values)(**given).sample
    ours = forward(tmp_path / "half.safetensors", "transformer", tmp_path, text_dim=40)
    assert isinstance(ours, dict), ours.stderr
    agree(ours["sample"], expected, TOLERANCE)
    prefixed = tmp_path / "prefixed.safetensors"
    save_file({COMFY + name: tensor for name, tensor in tensors.items()}, prefixed)
    assert same(forward(prefixed, "transformer", tmp_path, text_dim=40), ours)
    back = export(prefixed, tmp_path / "back", "diffusers", "--dtype=fp32")
    assert equal(read(back / "transformer" / WEIGHTS), {name: tensor.float() for name, tensor in values.items()})
    for option in ["--stream=yes", "--precision=bf16-diffusers", "--precision=bf16-wan"]:
        ours = forward(tmp_path / "half.safetensors", "transformer", tmp_path, option, text_dim=40)
        assert same(ours, forward(back, "transformer", tmp_path, option, text_dim=40)), option


@pytest.mark.parametrize("dtype", HALVES)
def test_a_vae_wholly_in_16_bits(dtype, tmp_path):
    reference = draw_vae(dict(base_dim=4))  # the converter knows two blocks a level only
    reference.save_pretrained(tmp_path / "model/vae")
    shutil.copytree(TEACHER / "transformer", tmp_path / "model/transformer")
    wan = export(tmp_path / "model", tmp_path / "wan", "wan")
    half = tmp_path / "half.safetensors"
    tensors = halved(wan / "Wan2.1_VAE.safetensors", half, HALVES[dtype])
    widened(reference, convert_wan_vae_to_diffusers(dict(tensors)))
    with torch.no_grad():
        posterior = reference.encode(load_file(inputs("vae-encode", tmp_path))["video"]).latent_dist
        video = reference.decode(load_file(inputs("vae-decode", tmp_path))["latents"]).sample
    encoded, decoded = (forward(half, component, tmp_path) for component in ["vae-encode", "vae-decode"])
    assert isinstance(encoded, dict) and isinstance(decoded, dict), (encoded, decoded)
    agree(encoded["mean"], posterior.mean, TOLERANCE)
    agree(encoded["logvar"], posterior.logvar, TOLERANCE)
    assert (video.abs() < 1).float().mean() > 0.5, "clamped nearly everywhere: the comparison would be blind"
    agree(decoded["video"], video, TOLERANCE)


# ---- as the original repository has it: VAE and umT5 written by torch.save

PICKLES = {"Wan2.1_VAE": torch.float32, "models_t5_umt5-xxl-enc-bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """A random model in diffusers' layout, and the original's folder of the same weights."""
    folder = tmp_path_factory.mktemp("downloaded")
    torch.manual_seed(0)
    vocabulary = json.loads((TEACHER / "text_encoder/config.json").read_text())["vocab_size"]
    parts = {"transformer": WanTransformer3DModel(num_layers=2, num_attention_heads=2, attention_head_dim=128, ffn_dim=96,
                                                  text_dim=40, freq_dim=64, in_channels=16, out_channels=16),
             "vae": AutoencoderKLWan(base_dim=4),
             "text_encoder": UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, d_model=40, d_kv=8, d_ff=48, num_layers=3,
                                                         num_heads=5, feed_forward_proj="gated-gelu")).bfloat16()}
    for part, module in parts.items():
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)  # no two tensors are equal
        module.save_pretrained(folder / "diffusers" / part)
    shutil.copytree(TEACHER / "tokenizer", folder / "diffusers/tokenizer")
    wan = export(folder / "diffusers", folder / "Wan2.1-T2V", "wan", "--dtype=fp32")
    (wan / "models_t5_umt5-xxl-enc-fp32.safetensors").rename(wan / "models_t5_umt5-xxl-enc-bf16.safetensors")
    for stem, dtype in PICKLES.items():
        file = wan / f"{stem}.safetensors"
        torch.save({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file.with_suffix(".pth"))
        file.unlink()
    return folder / "diffusers", wan


def test_the_downloaded_folder_is_the_originals(downloaded):
    model, wan = downloaded
    assert sorted(path.name for path in wan.iterdir()) == [
        "Wan2.1_VAE.pth", "config.json", WEIGHTS, "google", "models_t5_umt5-xxl-enc-bf16.pth"]
    vae, text = [torch.load(wan / f"{name}.pth", weights_only=True) for name in PICKLES]
    assert equal(convert_wan_vae_to_diffusers(vae), load_file(model / "vae" / WEIGHTS))
    expected = load_file(model / "text_encoder/model.safetensors")
    assert len(text) == len(expected) and {tensor.dtype for tensor in text.values()} == {torch.bfloat16}
    assert torch.equal(text["blocks.2.attn.q.weight"], expected["encoder.block.2.layer.0.SelfAttention.q.weight"])


@pytest.mark.parametrize("component, options", [
    ("transformer", []), ("vae-encode", []), ("vae-decode", []), ("text", []), ("text", ["--precision=bf16"])],
    ids=["transformer", "vae-encode", "vae-decode", "text", "text-bf16"])
def test_pickled_weights_compute_alike(downloaded, component, options, tmp_path):
    model, wan = downloaded
    expected = forward(model, component, tmp_path, *options, text_dim=40)
    assert same(forward(wan, component, tmp_path, *options, text_dim=40), expected)
    files = {"vae-encode": "Wan2.1_VAE.pth", "vae-decode": "Wan2.1_VAE.pth", "text": "models_t5_umt5-xxl-enc-bf16.pth"}
    if component in files:
        assert same(forward(wan / files[component], component, tmp_path, *options, text_dim=40), expected)


def test_pickled_weights_are_exported_to_diffusers(downloaded, tmp_path):
    model, wan = downloaded
    back = export(wan, tmp_path / "back", "diffusers", "--dtype=fp32")
    for part, file in {"transformer": WEIGHTS, "vae": WEIGHTS, "text_encoder": "model.safetensors"}.items():
        expected = {name: tensor.float() for name, tensor in load_file(model / part / file).items()}
        assert equal(load_file(back / part / file), expected), part
    assert AutoencoderKLWan.from_pretrained(back / "vae").config.base_dim == 4
    assert (back / "tokenizer/spiece.model").read_bytes() == (TEACHER / "tokenizer/spiece.model").read_bytes()


# ---- at Wan2.1's own widths

@pytest.fixture
def space(tmp_path):
    """A folder for gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_every_layout_at_the_width_of_the_1_3b(dtype, space):
    """One block; the single file has no configuration and ComfyUI's prefix."""
    model = draw_transformer(dict(num_layers=1, num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, text_dim=4096,
                                  freq_dim=256))
    model.save_pretrained(space / "model/transformer", max_shard_size="100GB")
    made = export(space / "model", space / "diffusers", "diffusers", f"--dtype={dtype}")
    expected = forward(made, "transformer", space, text_dim=4096)
    assert expected["sample"].std() > 0.1
    assert same(forward(export(made, space / "wan", "wan", f"--dtype={dtype}"), "transformer", space, text_dim=4096), expected)
    single = export(made, space / "single.safetensors", "comfy", f"--dtype={dtype}")
    save_file({COMFY + name: tensor for name, tensor in load_file(single).items()}, space / "prefixed.safetensors")
    assert same(forward(space / "prefixed.safetensors", "transformer", space, text_dim=4096), expected)


def test_a_pickled_vae_of_wans_own_sizes(space):
    draw_vae({}).save_pretrained(space / "model/vae")
    shutil.copytree(TEACHER / "transformer", space / "model/transformer")
    wan = export(space / "model", space / "wan", "wan")
    torch.save(load_file(wan / "Wan2.1_VAE.safetensors"), space / "Wan2.1_VAE.pth")
    for component in ["vae-encode", "vae-decode"]:
        expected = forward(space / "model", component, space)
        assert next(iter(expected.values())).std() > 0.05
        assert same(forward(space / "Wan2.1_VAE.pth", component, space), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pickled_text_encoder_of_xxl_width(dtype, space):
    """One layer and a small vocabulary."""
    model = UMT5EncoderModel(UMT5Config(**XXL | dict(num_layers=1)))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.normal_(1.0 if "layer_norm" in name else 0.0, 0.2 if "layer_norm" in name else tensor.shape[-1] ** -0.5)
    model.to(dtype).save_pretrained(space / "model/text_encoder", max_shard_size="100GB")
    shutil.copytree(TEACHER / "transformer", space / "model/transformer")
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    wan = export(space / "model", space / "wan", "wan", f"--dtype={name}")
    torch.save(load_file(wan / f"models_t5_umt5-xxl-enc-{name}.safetensors"), space / "models_t5_umt5-xxl-enc.pth")
    expected = forward(space / "model", "text", space)
    assert expected["last_hidden_state"].std() > 0.1
    assert same(forward(space / "models_t5_umt5-xxl-enc.pth", "text", space), expected)


# ---- a model round-trips through every pair of layouts

TYPES = ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize("dtype", TYPES)
def test_round_trips_bit_for_bit(dtype, tmp_path):
    options = [f"--dtype={dtype}"]
    start = export(TEACHER, tmp_path / "start", "diffusers", *options)
    parts = {"transformer": WEIGHTS, "vae": WEIGHTS, "text_encoder": "model.safetensors"}
    whole = {part: read(start / part / file) for part, file in parts.items()}

    def others(of):  # a single file holds the transformer alone
        return [] if of.is_dir() else [f"--model.{part}={start}" for part in ["vae", "text_encoder", "tokenizer"]]

    def to(model, layout, name):
        output = tmp_path / (f"{name}.safetensors" if layout == "comfy" else name)
        return export(model, output, layout, *options, *others(model))

    for first in ["diffusers", "wan", "comfy"]:
        for second in ["diffusers", "wan", "comfy"]:
            there = to(to(start, first, f"{first}-{second}-1"), second, f"{first}-{second}-2")
            back = to(there, "diffusers", f"{first}-{second}-3")
            for part, file in parts.items():
                assert equal(read(back / part / file), whole[part]), (first, second, part)
                ours, expected = [json.loads((where / part / "config.json").read_text()) for where in [back, start]]
                assert ours == expected, (first, second, part)
            assert (back / "tokenizer/spiece.model").read_bytes() == (TEACHER / "tokenizer/spiece.model").read_bytes()
            assert json.loads((back / "model_index.json").read_text()) == json.loads((TEACHER / "model_index.json").read_text())


def test_exported_dtypes(teacher, original, single):
    for tensors in [read(teacher / "transformer" / WEIGHTS), read(original / WEIGHTS), read(single)]:
        wide = [name for name, tensor in tensors.items() if tensor.dtype == torch.float32]
        assert any("modulation" in name or "scale_shift_table" in name for name in wide)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("layout", ["diffusers", "wan"])
def test_shards_are_the_hubs(teacher, layout, tmp_path):
    whole = export(teacher, tmp_path / "whole", layout)
    output = export(teacher, tmp_path / "out", layout, "--shard-size=400KB")
    folder = "transformer" if layout == "diffusers" else ""
    index = json.loads((output / folder / (WEIGHTS + ".index.json")).read_text())
    shards = sorted((output / folder).glob("diffusion_pytorch_model-*.safetensors"))
    assert [shard.name for shard in shards] == [
        f"diffusion_pytorch_model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))] and len(shards) > 3
    tensors = read(*shards)
    assert equal(tensors, read(whole / folder / WEIGHTS))
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert index["weight_map"] == {name: shard.name for shard in shards for name in load_file(shard)}
    for shard in shards:
        size = [t.numel() * t.element_size() for t in load_file(shard).values()]
        assert sum(size) <= 400_000 or len(size) == 1
    assert same(forward(output, "transformer", tmp_path), forward(teacher, "transformer", tmp_path))
    if layout == "diffusers":
        config = WanTransformer3DModel.load_config(output / "transformer")
        WanTransformer3DModel.from_config(config).load_state_dict(tensors)  # strict: every name and shape


def test_hybrid_models_keep_their_feature_maps(teacher, tmp_path):
    hybrid = tmp_path / "hybrid"
    shutil.copytree(teacher, hybrid)
    config = json.loads((hybrid / "transformer/config.json").read_text())
    config["hybrid"] = {"rates": [1] * 8 + [4, "linear"], "phi_degree": 2, "phi_layers": 2, "stabilizer": "lse",
                        "phi_hidden_activation": "gelu", "phi_output_activation": "softplus"}
    (hybrid / "transformer/config.json").write_text(json.dumps(config))
    tensors = load_file(hybrid / "transformer" / WEIGHTS)
    torch.manual_seed(0)
    for block in [8, 9]:
        for phi in ["phi_q", "phi_k"]:
            for layer, width in enumerate([16, 32]):
                tensors[f"blocks.{block}.attn1.{phi}.{layer}.weight"] = torch.randn(8, 32, width) / 6
                tensors[f"blocks.{block}.attn1.{phi}.{layer}.bias"] = torch.randn(8, 32) / 6
    save_file(tensors, hybrid / "transformer" / WEIGHTS)
    wan = export(hybrid, tmp_path / "wan", "wan", "--dtype=fp32")
    assert "blocks.9.self_attn.phi_q.1.bias" in load_file(wan / WEIGHTS)
    assert same(forward(wan, "transformer", tmp_path), forward(hybrid, "transformer", tmp_path))
    back = export(wan, tmp_path / "back", "diffusers", "--dtype=fp32")
    assert equal(read(back / "transformer" / WEIGHTS), {name: tensor.float() for name, tensor in tensors.items()})
    refused(surgery("export", f"--model={hybrid}", f"--output={tmp_path / 'x.safetensors'}", "--layout=comfy"), USAGE,
            "is hybrid", "diffusers or wan")
    assert not (tmp_path / "x.safetensors").exists()


def test_exports_are_complete_or_absent(single, tmp_path):
    refused(surgery("export", f"--model={single}", f"--output={single}", "--layout=comfy"), USAGE, "exists already")
    refused(surgery("export", f"--model={single}", f"--output={tmp_path / 'x'}", "--layout=comfy"), USAGE, ".safetensors")
    refused(surgery("export", f"--model={single}", f"--model.vae={single}", f"--model.text_encoder={tmp_path / 'no'}",
                    f"--output={tmp_path / 'out'}"), IO, tmp_path / "no", "no such file or folder")
    assert list(tmp_path.iterdir()) == []
    result = surgery("export", f"--model={single}", f"--output={tmp_path / 'out'}", "--layout=diffusers")
    assert result.returncode == 0 and "there is no vae, text_encoder, tokenizer to export" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["transformer"], "no index of what is not there"


# ---- bad input

@pytest.fixture
def folder(original, tmp_path):
    return pathlib.Path(shutil.copytree(original, tmp_path / "model"))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_configuration_that_contradicts_the_tensors(folder, tmp_path):
    change(folder / "config.json", num_layers=12, ffn_dim=100)
    result = forward(folder, "transformer", tmp_path)
    refused(result, DATA, folder / WEIGHTS, "config.json", "blocks 0-9: ffn.0.weight is [384, 128] instead of [100, 128] (10)",
            "blocks 10-11: ", "missing (54)")
    assert len(result.stderr.splitlines()) < 12, result.stderr
    change(folder / "config.json", num_heads=7)
    refused(forward(folder, "transformer", tmp_path), DATA, folder / "config.json", "multiple of num_heads")
    change(folder / "config.json", num_heads=8, model_type="i2v")
    refused(forward(folder, "transformer", tmp_path), DATA, folder / "config.json", "model_type")


def test_two_candidates(folder, tmp_path):
    shutil.copy(folder / WEIGHTS, folder / "copy.safetensors")
    refused(forward(folder, "transformer", tmp_path), DATA, folder, "two candidates for the transformer", "copy.safetensors", WEIGHTS)
    assert isinstance(forward(folder, "vae-decode", tmp_path), dict)  # of which there is one


@pytest.fixture
def shards(original, tmp_path):
    return export(original, tmp_path / "shards", "wan", "--shard-size=1MB")


def test_a_shard_that_is_not_there(shards, tmp_path):
    last = sorted(shards.glob("diffusion*-of-*.safetensors"))[-1]
    last.unlink()
    refused(forward(shards, "transformer", tmp_path), IO, f"names shard {last.name}, which is not there")
    (shards / (WEIGHTS + ".index.json")).unlink()
    refused(forward(shards, "transformer", tmp_path), IO, "shards are there")


def test_a_shard_that_disagrees_with_the_index(shards, tmp_path):
    last = sorted(shards.glob("diffusion*-of-*.safetensors"))[-1]
    name, *rest = load_file(last).items()
    save_file(dict(rest), last)
    refused(forward(shards, "transformer", tmp_path), DATA, name[0], f"is not in shard {last.name}")


def test_tensors_in_fp8(folder, tmp_path):
    data = (folder / WEIGHTS).read_bytes()
    length, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    name = "blocks.0.self_attn.q.weight"
    header[name]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])
    refused(forward(folder, "transformer", tmp_path), DATA, WEIGHTS, name, "F8_E4M3", "is not read here")


# ---- recipes

SETTINGS = ["--run.threads=1", "--trajectories.count=1", "--trajectories.held_out=1", "--trajectories.steps=5",
            "--trajectories.frames=1", "--trajectories.height=32", "--trajectories.width=32"]


def trajectories(directory, *model):
    result = surgery("cache", f"--run.directory={directory}", *model, *SETTINGS)
    assert result.returncode == DONE, result.stderr
    return {path.name: path.read_bytes() for path in sorted((directory / "cache").iterdir())}


def test_recipes_and_plans_take_every_layout(teacher, original, single, tmp_path):
    others = [f"--model.{part}={teacher}" for part in ["vae", "text_encoder", "tokenizer"]]
    models = {"diffusers": [f"--model.path={teacher}"], "original": [f"--model.path={original}"],
              "single": [f"--model.path={single}", *others]}
    sizes = {}
    for name, model in models.items():
        made = trajectories(tmp_path / name, *model)
        assert len(made) == 2 and trajectories(tmp_path / name, *model) == made
        result = surgery("plan", "--json", "--rate=1e9", *model, *SETTINGS)
        assert result.returncode == DONE, result.stderr
        plan = json.loads(result.stdout)
        sizes[name] = [stage["flops"] for stage in plan["stages"]]
    assert sizes["original"] == sizes["diffusers"] == sizes["single"]
    refused(surgery("cache", f"--run.directory={tmp_path / 'none'}", f"--model.path={single}", *SETTINGS), USAGE,
            "is not set", "is one file")
