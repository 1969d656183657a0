"""Wan's VAE against diffusers' AutoencoderKLWan: random models of several sizes, Wan2.1's own among them, through
`surgery forward`.

Environment: SURGERY_BINARY, the program.
"""
import json
import os
import subprocess

import pytest
import torch
from diffusers import AutoencoderKLWan
from measured import agree, difference
from safetensors.torch import load_file, save_file

BINARY = os.environ["SURGERY_BINARY"]
TOLERANCE = 1e-5  # relative L2 in fp32; chunk by chunk on both sides
REAL_ENCODE, REAL_DECODE = (17, 240, 416), (17, 240, 416)  # frames, height, width
DONE, USAGE, DATA, IO = 0, 64, 65, 74
CONFIGURATIONS = {
    "small": dict(base_dim=8, num_res_blocks=1),
    "two-blocks": dict(base_dim=8, num_res_blocks=2, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
    "wide-decoder": dict(base_dim=4, decoder_base_dim=8, num_res_blocks=1),
    "other-multiples": dict(base_dim=12, dim_mult=[1, 1, 3, 2], num_res_blocks=1),
}


def draw(settings, seed=0):
    """A random model whose every part matters: gains, biases and attention logits away from their usual start."""
    torch.manual_seed(seed)
    model = AutoencoderKLWan(**settings).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("gamma"):
                tensor.normal_(1, 0.3)
            elif name.endswith("bias"):
                tensor.normal_(0, 0.1)
            elif name.endswith("to_qkv.weight"):
                tensor.mul_(6)
    return model


def forward(model, component, tensors, folder, *options):
    """Exit code and either the output tensors or what was printed as error."""
    source, target = folder / "input.safetensors", folder / "output.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source)
    target.unlink(missing_ok=True)
    command = [BINARY, "forward", "--model", model, "--component", component, "--input", source, "--output", target,
               *options]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    if result.returncode != DONE:
        assert not target.exists(), "an output was left behind by a failed run"
        return result.returncode, result.stderr + result.stdout
    return DONE, load_file(target)


def run(model, component, tensors, folder, *options):
    code, outputs = forward(model, component, tensors, folder, *options)
    assert code == DONE, outputs
    return outputs


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=str)
def pair(request, tmp_path_factory):
    """A reference model and the pipeline folder it was saved in."""
    model = draw(CONFIGURATIONS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder / "vae")
    return model, folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    draw(CONFIGURATIONS["small"]).save_pretrained(folder / "vae")
    return folder


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_encode_and_decode(pair, frames, tmp_path):
    model, folder = pair
    video = torch.rand(2, 3, frames, 16, 24) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(video).latent_dist
        latents = torch.randn_like(posterior.mean)
        decoded = model.decode(latents).sample
    encoded = run(folder, "vae-encode", {"video": video}, tmp_path)
    assert set(encoded) == {"mean", "logvar"}
    agree(encoded["mean"], posterior.mean, TOLERANCE)
    agree(encoded["logvar"], posterior.logvar, TOLERANCE)
    assert (decoded.abs() < 1).float().mean() > 0.5, "clamped nearly everywhere: the comparison would be blind"
    agree(run(folder, "vae-decode", {"latents": latents}, tmp_path)["video"], decoded, TOLERANCE)


# ---- Wan2.1's own sizes: 127 million parameters

@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """base_dim 96, multiples 1, 2, 4, 4, 16 latent channels."""
    model = draw({})
    folder = tmp_path_factory.mktemp("real")
    model.save_pretrained(folder / "vae")
    return model, folder


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield "--run.threads=2"
    torch.set_num_threads(threads)


def of_order_one(tensor):
    """Neither died away nor blown up: errors inside would be seen outside."""
    assert 0.05 < tensor.std() < 5


def test_encode_at_wans_sizes(real, two_threads, tmp_path):
    model, folder = real
    torch.manual_seed(1)
    video = torch.rand(1, 3, *REAL_ENCODE) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(video).latent_dist
    encoded = run(folder, "vae-encode", {"video": video}, tmp_path, two_threads)
    for name in ("mean", "logvar"):
        of_order_one(getattr(posterior, name))
        agree(encoded[name], getattr(posterior, name), TOLERANCE)


def test_decode_at_wans_sizes(real, two_threads, tmp_path):
    model, folder = real
    torch.manual_seed(2)
    frames, height, width = REAL_DECODE
    latents = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
    with torch.no_grad():
        decoded = model.decode(latents).sample
    of_order_one(decoded)
    assert (decoded.abs() < 1).float().mean() > 0.5, "clamped nearly everywhere: the comparison would be blind"
    agree(run(folder, "vae-decode", {"latents": latents}, tmp_path, two_threads)["video"], decoded, TOLERANCE)


# ---- spatial tiles

@pytest.mark.parametrize("tile, stride", [(64, 48), (48, 48), (40, 16)])
def test_tiles_as_diffusers_cuts_and_blends_them(tmp_path, tile, stride):
    """Two to seven tiles a side; at the right and lower edges they are narrower than the overlap."""
    model = draw(CONFIGURATIONS["small"])
    model.save_pretrained(tmp_path / "vae")
    torch.manual_seed(3)
    video = torch.rand(1, 3, 5, 104, 112) * 2 - 1
    latents = torch.randn(1, 16, 2, 13, 14)
    with torch.no_grad():
        untiled = model.decode(latents).sample
        model.enable_tiling(tile, tile, stride, stride)
        posterior = model.encode(video).latent_dist
        decoded = model.decode(latents).sample
    assert difference(decoded, untiled) > 1e-3, "tiles made no difference: the comparison would be blind"
    options = ["--tile", tile, "--tile-stride", stride]
    encoded = run(tmp_path, "vae-encode", {"video": video}, tmp_path, *options)
    agree(encoded["mean"], posterior.mean, TOLERANCE)
    agree(encoded["logvar"], posterior.logvar, TOLERANCE)
    agree(run(tmp_path, "vae-decode", {"latents": latents}, tmp_path, *options)["video"], decoded, TOLERANCE)


def test_a_picture_of_one_tile_is_not_cut(small, tmp_path):
    video = torch.rand(1, 3, 5, 32, 24) * 2 - 1
    plain = run(small, "vae-encode", {"video": video}, tmp_path)["mean"]
    assert torch.equal(run(small, "vae-encode", {"video": video}, tmp_path, "--tile", 32, "--tile-stride", 8)["mean"], plain)


@pytest.mark.parametrize("options, words", [
    (["--tile", 60], "multiple of 8"), (["--tile", 64, "--tile-stride", 72], "at most the tile"),
    (["--tile", 64, "--tile-stride", 0], "stride"), (["--tile-stride", 8], "without --tile"),
])
def test_tiles_that_are_none(small, tmp_path, options, words):
    code, message = forward(small, "vae-encode", VIDEO, tmp_path, *options)
    assert code == USAGE and words in message, message


# ---- bf16

# Both sides round after every operator, the reference some more often (three times in a norm), in another order:
# the two differ from each other by as much as each from fp32. So the distance from fp32 is what is compared.
AS_GOOD = 1.2


def test_bf16_is_as_near_to_fp32_as_the_reference(real, tmp_path):
    model, folder = real
    torch.manual_seed(4)
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    latents = torch.randn(1, 16, 3, 4, 6)
    half = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.bfloat16).eval()
    with torch.no_grad():
        exact = {"mean": model.encode(video).latent_dist.mean, "video": model.decode(latents).sample}
        theirs = {"mean": half.encode(video.bfloat16()).latent_dist.mean,
                  "video": half.decode(latents.bfloat16()).sample}
    ours = run(folder, "vae-encode", {"video": video}, tmp_path, "--precision", "bf16") | run(
        folder, "vae-decode", {"latents": latents}, tmp_path, "--precision", "bf16")
    for name, expected in exact.items():
        error = difference(theirs[name].float(), expected)
        assert 1e-3 < error < 0.1, "the reference itself"
        agree(ours[name], expected, AS_GOOD * error)


# ---- memory

def peak_memory(command):
    """Bytes of a process at its largest, from the kernel's accounts of it."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == DONE
    return 1024 * usage.ru_maxrss


@pytest.mark.parametrize("component", ["vae-encode", "vae-decode"])
def test_memory_does_not_grow_with_the_frames(component, tmp_path):
    """Beyond the clip itself; of the whole clip at once, one tensor of the first level alone takes 80 MB more."""
    draw(dict(base_dim=32, num_res_blocks=1)).save_pretrained(tmp_path / "vae")
    peaks, clips = [], []
    for frames in (9, 41):
        video, latents = torch.zeros(1, 3, frames, 128, 160), torch.zeros(1, 16, (frames - 1) // 4 + 1, 16, 20)
        save_file({"video": video, "latents": latents}, tmp_path / "input.safetensors")
        clips.append(4 * video.numel())
        peaks.append(peak_memory([BINARY, "forward", "--model", tmp_path, "--component", component,
                                  "--input", tmp_path / "input.safetensors",
                                  "--output", tmp_path / "output.safetensors"]))
    assert peaks[1] - peaks[0] < 3 * (clips[1] - clips[0]) + 8e6, peaks


def test_the_components_own_folder_serves_too(small, tmp_path):
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    outer = run(small, "vae-encode", {"video": video}, tmp_path)["mean"]
    inner = run(small / "vae", "vae-encode", {"video": video}, tmp_path)["mean"]
    assert torch.equal(outer, inner)


def test_16_bit_weights_are_computed_in_fp32(tmp_path):
    model = draw(CONFIGURATIONS["small"]).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "vae")
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = model.float().encode(video).latent_dist.mean
    ours = run(tmp_path, "vae-encode", {"video": video}, tmp_path)["mean"]
    assert ours.dtype == torch.float32
    agree(ours, expected, TOLERANCE)


def test_repeat_prints_the_seconds_of_each_run(small, tmp_path):
    save_file({"video": torch.zeros(1, 3, 1, 16, 16)}, tmp_path / "input.safetensors")
    result = subprocess.run([BINARY, "forward", "--model", str(small), "--component", "vae-encode", "--repeat", "2",
                             "--input", str(tmp_path / "input.safetensors"),
                             "--output", str(tmp_path / "output.safetensors")], capture_output=True, text=True)
    assert result.returncode == DONE, result.stderr
    seconds = json.loads(result.stdout)["seconds"]
    assert len(seconds) == 2 and all(value > 0 for value in seconds)
    assert "mean" in load_file(tmp_path / "output.safetensors")


# ---- bad input: exit code, message, no output left behind

VIDEO = {"video": torch.zeros(1, 3, 5, 16, 16)}


def refused(code, words, model, component, tensors, folder):
    got, message = forward(model, component, tensors, folder)
    assert got == code, message
    assert words in message, message


@pytest.mark.parametrize("shape, words", [
    ((1, 3, 4, 16, 16), "4k+1"),
    ((1, 3, 5, 12, 16), "multiples of 8"),
    ((1, 3, 5, 16, 20), "multiples of 8"),
    ((1, 1, 5, 16, 16), "[1, 1, 5, 16, 16]"),
    ((3, 5, 16, 16), "[3, 5, 16, 16]"),
    ((1, 3, 0, 16, 16), "0 frames"),
])
def test_clips_that_do_not_fit(small, tmp_path, shape, words):
    refused(DATA, words, small, "vae-encode", {"video": torch.zeros(shape)}, tmp_path)


def test_inputs_that_are_not_what_is_asked(small, tmp_path):
    refused(DATA, 'no tensor "video"', small, "vae-encode", {"clip": torch.zeros(1)}, tmp_path)
    refused(DATA, "16 latent channels", small, "vae-decode", {"latents": torch.zeros(1, 4, 1, 2, 2)}, tmp_path)
    refused(DATA, "not finite", small, "vae-encode", {"video": torch.full((1, 3, 5, 16, 16), torch.nan)}, tmp_path)
    refused(DATA, "floating point", small, "vae-encode", {"video": torch.zeros(1, 3, 5, 16, 16, dtype=torch.int32)},
            tmp_path)
    refused(USAGE, "vae-encode", small, "vae", VIDEO, tmp_path)


def copy_of(folder, target):
    (target / "vae").mkdir(parents=True)
    for file in (folder / "vae").iterdir():
        (target / "vae" / file.name).write_bytes(file.read_bytes())
    return target


def change_config(folder, **values):
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("values, words", [
    (dict(latents_std=[float("inf")] * 16), "JSON"),
    (dict(latents_std=[0.0] * 16), "latents_std"),
    (dict(latents_mean=[0.0] * 3), "latents_mean"),
    (dict(base_dim=16), "instead of"),
    (dict(num_res_blocks=2), "missing"),
    (dict(base_dim=-8), "base_dim"),
    (dict(dim_mult=[1, 2]), "temperal_downsample"),
    (dict(is_residual=True), "is_residual"),
    (dict(_class_name="WanTransformer3DModel"), "WanTransformer3DModel"),
])
def test_configurations_that_do_not_fit(small, tmp_path, values, words):
    folder = copy_of(small, tmp_path / "model")
    change_config(folder, **values)
    refused(DATA, words, folder, "vae-encode", VIDEO, tmp_path)


def test_damaged_and_missing_files(small, tmp_path):
    weights = "vae/diffusion_pytorch_model.safetensors"
    truncated = copy_of(small, tmp_path / "truncated")
    (truncated / weights).write_bytes((small / weights).read_bytes()[:-100])
    refused(DATA, "diffusion_pytorch_model.safetensors", truncated, "vae-encode", VIDEO, tmp_path)

    foreign = copy_of(small, tmp_path / "foreign")
    (foreign / weights).write_bytes(b"PK\x03\x04 this is another kind of file")
    refused(DATA, "diffusion_pytorch_model.safetensors", foreign, "vae-encode", VIDEO, tmp_path)

    other = copy_of(small, tmp_path / "other")
    save_file({"blocks.0.attn1.to_q.weight": torch.zeros(4, 4)}, other / weights)
    refused(DATA, "holds the tensors of a transformer", other, "vae-encode", VIDEO, tmp_path)

    bare = copy_of(small, tmp_path / "bare")
    (bare / weights).unlink()
    refused(IO, "diffusion_pytorch_model", bare, "vae-encode", VIDEO, tmp_path)
    refused(IO, "no such file or folder", tmp_path / "nowhere", "vae-encode", VIDEO, tmp_path)

    cut = copy_of(small, tmp_path / "cut")
    (cut / "vae/config.json").write_text((small / "vae/config.json").read_text()[:50])
    refused(DATA, "config.json", cut, "vae-encode", VIDEO, tmp_path)
