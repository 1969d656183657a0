"""The recipe's options that the small recipe leaves at their defaults: each changes what it should, and no more.

Every run takes what it can from one base run, so that each option costs only the stages that it concerns.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.numpy import save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import SETTINGS, command, environment, finetuned, hashes, run  # noqa: E402

BLOCKS = "distill/block-*.h5"
TEACHER = pathlib.Path(SETTINGS["model.path"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base") / "run"
    run(directory, 2)
    return directory


def continued(base, directory, stage, *options, ranks=2):
    """The run up to `stage`, from the base's artifacts where settings agree."""
    stages = ["cache", "distill", "tables", "select", "encode", "finetune"]
    last = stages.index(stage) if stage in stages else len(stages)
    for name in stages[:last + 1]:
        run(directory, ranks, f"--run.base={base}", *options, stage=name)
    if stage not in stages:
        run(directory, ranks, f"--run.base={base}", *options, stage=stage)


def parameters(directory, iteration=8):
    return {name: value for name, value in finetuned(directory, iteration).items() if name.startswith("parameter.")}


def losses(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["stage"] == "finetune"]


def difference(one, other):
    return numpy.sqrt(sum(numpy.sum((one[name] - other[name]) ** 2.0) for name in one))


def moved(base):
    return difference(parameters(base), parameters(base, 2))


@pytest.mark.parametrize("options,ranks", [(["--finetune.micro_batch=2"], 2), (["--finetune.micro_batch=4"], 1)])
def test_the_micro_batch_does_not_change_the_result(base, tmp_path, options, ranks):
    continued(base, tmp_path / "run", "finetune", *options, ranks=ranks)
    # Adam's first steps amplify the rounding of tiny gradients.
    assert difference(parameters(tmp_path / "run"), parameters(base)) < 0.05 * moved(base)
    assert losses(tmp_path / "run") == pytest.approx(losses(base), rel=1e-3)


@pytest.mark.parametrize("batch", [3, 1])
def test_a_batch_that_ranks_do_not_divide_counts_every_clip_once(base, tmp_path, batch):
    for ranks in [1, 2]:
        continued(base, tmp_path / str(ranks), "finetune", f"--finetune.global_batch={batch}", ranks=ranks)
    one, two = tmp_path / "1", tmp_path / "2"
    assert losses(one) == pytest.approx(losses(two), rel=1e-3)
    assert difference(parameters(one), parameters(two)) < 0.05 * difference(parameters(one), parameters(one, 2))


@pytest.mark.parametrize("precision", ["bf16-diffusers", "bf16-wan"])
def test_bf16_trains_masters_that_start_exactly(base, tmp_path, precision):
    continued(base, tmp_path / "run", "finetune", f"--finetune.precision={precision}")
    found = parameters(tmp_path / "run")
    assert losses(tmp_path / "run") != losses(base)
    assert all(value.dtype == numpy.float32 for value in found.values())
    assert losses(tmp_path / "run") == pytest.approx(losses(base), rel=0.05)
    phi = next(name for name in found if "phi" in name)
    rounded = (found[phi].view(numpy.uint32) & 0xFFFF) == 0  # bf16 leaves 16 zero bits
    assert rounded.mean() < 0.1, "masters are fp32, not widened bf16"
    assert difference(found, parameters(base)) < 0.7 * moved(base)


def test_bf16_as_either_program_rounds_is_named_and_enters_what_is_made(base, tmp_path):
    bf16 = ["--model.text_precision=bf16"]
    for name in ["bf16-diffusers", "bf16-wan"]:
        run(tmp_path / name, 2, f"--model.precision={name}", *bf16, "--trajectories.count=1", stage="cache")
    latents = {}
    for directory in [base, tmp_path / "bf16-diffusers", tmp_path / "bf16-wan"]:
        with h5py.File(directory / "cache/trajectory-000000.h5") as file:
            latents[directory.name] = numpy.asarray(file["final_latents"], numpy.float32)
    exact = latents.pop("run")
    errors = {name: numpy.linalg.norm(found - exact) / numpy.linalg.norm(exact) for name, found in latents.items()}
    assert 1e-3 < errors["bf16-wan"] < errors["bf16-diffusers"] < 0.5, errors
    refused = subprocess.run(command(base, 1, "--model.precision=bf16-wan", stage="cache"), env=environment(),
                             capture_output=True, text=True, timeout=300)
    assert refused.returncode == 64 and "made with other settings" in refused.stderr, refused.stderr


def test_the_teachers_term_pulls_towards_the_teacher(base, tmp_path):
    """Clips that are not the teacher's own draw a student away from it; the term holds it back."""
    errors = {}
    for weight in [0, 100]:
        directory = tmp_path / str(weight)
        options = [f"--finetune.teacher_weight={weight}", "--finetune.learning_rate=1e-4", "--finetune.iterations=12",
                   "--finetune.checkpoints=2", "--select.mode=softmax"]
        continued(base, directory, "finetune", *options)
        for stage in ["generate", "evaluate"]:
            run(directory, 2, *options, stage=stage)
        scores = {s["variant"]: s for s in json.loads((directory / "evaluation.json").read_text())["variants"]}
        errors[weight] = scores["step-000012"]["latent_error"]
    assert losses(tmp_path / "0")[0] == pytest.approx(losses(tmp_path / "100")[0], rel=1e-5), "the term is not in the loss told"
    assert errors[100] < 0.8 * errors[0], errors


def test_trajectories_need_not_be_cached(base, tmp_path):
    run(tmp_path / "run", 2, "--trajectories.source=live", stage="distill")
    assert not (tmp_path / "run/cache").exists() or not list((tmp_path / "run/cache").iterdir())
    assert hashes(tmp_path / "run", [BLOCKS]) == hashes(base, [BLOCKS])


def held_out(directory):
    """{(block, rate): mean held-out error}, and the losses of training."""
    errors, trained = {}, {}
    for path in sorted(directory.glob(BLOCKS)):
        with h5py.File(path) as file:
            for rate in file.attrs["rates"].decode().split(","):
                errors[path.stem, rate] = float(file[f"rate-{rate}/held_out"][()].mean())
                trained[path.stem, rate] = file[f"rate-{rate}/losses"][()]
    assert errors
    return errors, trained


def test_the_attention_loss_learns_as_well(base, tmp_path):
    continued(base, tmp_path / "run", "distill", "--distill.loss=attention")
    errors, trained = held_out(tmp_path / "run")
    assert errors.keys() == held_out(base)[0].keys()
    falls = [values[-3:].mean() < values[:3].mean() for values in trained.values()]
    assert numpy.mean(falls) > 0.6, "the attention loss falls in hardly any block"
    assert all(numpy.isfinite(error) for error in errors.values())
    assert hashes(tmp_path / "run", [BLOCKS]) != hashes(base, [BLOCKS])


def test_without_the_linear_branch_less_is_left(base, tmp_path):
    options = ["--distill.linear_branch=false", "--distill.rates=2,4"]
    continued(base, tmp_path / "run", "select", *options)
    errors, trained = held_out(tmp_path / "run")
    assert all(len(values) == 0 for values in trained.values()), "there is nothing to train"
    with_branch = held_out(base)[0]
    worse = [errors[key] > with_branch[key] for key in errors]
    assert numpy.mean(worse) > 0.7, "softmax over T_S alone should be worse than with the linear branch"
    rates = json.loads((tmp_path / "run/selection.json").read_text())["rates"]
    assert set(rates) <= {1, 2, 4}


def test_homogeneous_selection_takes_the_blocks_of_lowest_error(base, tmp_path):
    options = ["--select.mode=homogeneous", "--select.homogeneous_rate=4", "--select.budget=4xR4"]
    continued(base, tmp_path / "run", "select", *options)
    selection = json.loads((tmp_path / "run/selection.json").read_text())
    errors = [line.split(",") for line in (base / "tables.csv").read_text().splitlines()[1:]]
    errors = sorted((float(error), int(block)) for block, rate, error, *_ in errors if rate == "4")
    best = {block for _, block in errors[:4]}
    assert {block for block, rate in enumerate(selection["rates"]) if rate == 4} == best
    assert selection["bound"] <= selection["error"]


def test_the_softmax_control_is_the_teacher(base, tmp_path):
    options = ["--select.mode=softmax", "--select.pins=0=2", "--data.frames=17", "--data.height=128", "--data.width=160"]
    continued(base, tmp_path / "run", "finetune", *options)
    selection = json.loads((tmp_path / "run/selection.json").read_text())
    assert set(selection["rates"]) == {1} and selection["error"] == selection["bound"] == 0
    # Flow matching as the teacher was trained with it, on clips of its own size: its error would be near 2, the mean
    # square of noise - latents, if target, time or input were other than what its sampler integrates.
    assert numpy.mean(losses(tmp_path / "run")) < 0.4
    for stage in ["generate", "evaluate"]:
        run(tmp_path / "run", 2, *options, stage=stage)
    scores = {s["variant"]: s for s in json.loads((tmp_path / "run/evaluation.json").read_text())["variants"]}
    assert scores["distilled"]["latent_error"] < 1e-5 < scores["step-000008"]["latent_error"]


def test_several_samples_of_a_prompt_differ(base, tmp_path):
    directory, options = tmp_path / "run", ["--generate.samples=2", "--generate.count=1", "--finetune.iterations=0"]
    continued(base, directory, "select", *options)
    for stage in ["generate", "evaluate"]:
        run(directory, 2, *options, stage=stage)
    first, second = sorted((directory / "videos").glob("*.mp4"))
    assert first.name.endswith("-0.mp4") and second.name == first.name.replace("-0.mp4", "-1.mp4")
    assert first.read_bytes() != second.read_bytes()
    with h5py.File(directory / "samples/teacher/sample-000000.h5") as one, \
            h5py.File(base / "samples/teacher/sample-000000.h5") as other:
        assert numpy.array_equal(one["latents"], other["latents"]), "the first sample is the same with more of them"
    score, = [s for s in json.loads((directory / "evaluation.json").read_text())["variants"] if s["variant"] == "distilled"]
    assert score["clips"] == 2


def test_a_prompt_is_embedded_once(base, tmp_path):
    """By one rank, for every stage; kept rows are what the encoder gives, and are taken from a base like the rest."""
    files = sorted((base / "text").glob("*.h5"))
    prompts = []
    for path in files:
        with h5py.File(path) as file:
            prompts.append(bytes(file["prompt"]).decode())
    with h5py.File(base / "cache/trajectory-000000.h5") as file:
        kept = {"": numpy.array(file["negative_text"]), bytes(file["prompt"]).decode(): numpy.array(file["text"])}
    assert len(prompts) == len(set(prompts)) == 7 + 2 + 1, "trajectories, clips, and the empty one"
    for prompt, rows in kept.items():
        with h5py.File(files[prompts.index(prompt)]) as file:
            assert numpy.array_equal(file["text"], rows)
    directory = tmp_path / "run"
    said = run(directory, 2, f"--run.base={base}", "--trajectories.steps=10", stage="cache")
    assert "trajectories: 7 made" in said and "text: " not in said, "all rows are the base's"
    said = run(tmp_path / "alone", 2, "--trajectories.steps=10", stage="cache")
    assert "text: 8 prompts encoded, 0 were there" in said
    pattern = ["cache/*.h5"]
    assert hashes(directory, pattern) == hashes(tmp_path / "alone", pattern)
    with h5py.File(directory / "cache/trajectory-000003.h5") as file:
        prompt = bytes(file["prompt"]).decode()
    # Only what is made again needs its prompt; a base would give it.
    (directory / "text" / files[prompts.index(prompt)].name).write_bytes(b"damaged")
    (directory / "cache/trajectory-000003.h5").unlink()
    said = run(directory, 2, "--trajectories.steps=10", stage="cache")
    assert "text: 1 prompts encoded, 1 were there" in said and "trajectories: 1 made" in said
    assert hashes(directory, pattern) == hashes(tmp_path / "alone", pattern)


def test_a_negative_prompt_is_its_text_wherever_it_lies(tmp_path):
    """A file gives the same trajectories as its text, and not another's; the finished run tells where it was."""
    file, directory = tmp_path / "negative.txt", tmp_path / "run"
    few = ["--trajectories.count=1", "--trajectories.steps=3"]
    file.write_text("blurry, a red square\n")
    said = run(directory, 1, *few, f"--trajectories.negative_prompt=@{file}", stage="cache")
    assert "trajectories: 2 made" in said
    with h5py.File(directory / "cache/trajectory-000000.h5") as trajectory:
        negative = numpy.array(trajectory["negative_text"])
    rows = {}
    for path in (directory / "text").glob("*.h5"):
        with h5py.File(path) as text:
            rows[bytes(text["prompt"]).decode()] = numpy.array(text["text"])
    assert numpy.array_equal(rows["blurry, a red square"], negative) and len(rows) == 3
    assert f"negative_prompt = @{file}" in (directory / "config.cfg").read_text()
    before = hashes(directory, ["cache/*.h5"])
    said = run(directory, 1, *few, "--trajectories.negative_prompt=blurry, a red square", stage="cache")
    assert "trajectories: nothing to make, 2 reused" in said and hashes(directory, ["cache/*.h5"]) == before
    file.write_text("sharp\n")
    other = subprocess.run(command(directory, 1, *few, f"--trajectories.negative_prompt=@{file}", stage="cache"),
                           env=environment(), capture_output=True, text=True)
    assert other.returncode == 64 and hashes(directory, ["cache/*.h5"]) == before, other.stdout + other.stderr


def latents_of(directory, index, variant="teacher"):
    with h5py.File(directory / f"samples/{variant}/sample-{index:06d}.h5") as file:
        return numpy.array(file["latents"])


def decibels(one, other):
    """PSNR of pixels in [-1, 1]."""
    return 10 * torch.log10(4 / (one - other).double().square().mean()).item()


class Decoder:
    """diffusers' VAE; `normalise` and `once` as WanPipeline has them, and what others have done in the place of `once`."""

    def __init__(self, folder):
        self.vae = AutoencoderKLWan.from_pretrained(folder).eval()
        mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1)
                     for values in (self.vae.config.latents_mean, self.vae.config.latents_std))
        self.normalise = lambda z: (z - mean) / std
        self.once = lambda z: z * std + mean
        self.mistakes = [lambda z: z, lambda z: self.once(self.once(z)), lambda z: z / std + mean]

    def decode(self, latents, denormalise):
        with torch.no_grad():
            return self.vae.decode(denormalise(torch.as_tensor(latents)[None])).sample.clamp(-1, 1)

    def again(self, video):
        """After rounding to bytes, the VAE's encoder and its decoder."""
        with torch.no_grad():
            latents = self.vae.encode(((video + 1) * 127.5).round() / 127.5 - 1).latent_dist.mode()
        return self.decode(self.normalise(latents)[0], self.once)


@pytest.fixture(scope="module")
def decoder():
    return Decoder(TEACHER / "vae")


def test_clips_are_scored_as_diffusers_decodes_them(base, decoder):
    """Latents are denormalised exactly once; never, twice or by the inverse of the deviation gives other scores."""
    def score(variant, denormalise):
        return numpy.mean([decibels(*(decoder.decode(latents_of(base, i, name), denormalise) for name in (variant, "teacher")))
                           for i in range(SETTINGS["generate.count"])])

    scores = {s["variant"]: s["psnr"] for s in json.loads((base / "evaluation.json").read_text())["variants"]}
    for variant in ["distilled", "step-000008"]:
        assert scores[variant] == pytest.approx(score(variant, decoder.once), abs=1e-3)
        assert all(abs(scores[variant] - score(variant, mistake)) > 0.02 for mistake in decoder.mistakes), variant


def test_videos_show_what_diffusers_decodes(base, decoder, tmp_path):
    """The same of the mp4s. `encode` reads them, so what diffusers decodes goes through its encoder too; both are
    compared as pictures, which a video's compression changes a little and a mistake in the denormalisation much."""
    clips, records = [], []
    for folder, variant in [("videos-teacher", "teacher"), ("videos", "step-000008")]:
        for i in range(SETTINGS["generate.count"]):
            with h5py.File(base / f"samples/{variant}/sample-{i:06d}.h5") as file:
                name = bytes(file["name"]).decode()
            shutil.copy(base / folder / f"{name}-0.mp4", tmp_path / f"{len(clips)}.mp4")
            records.append({"path": f"{len(clips)}.mp4", "cap": str(len(clips))})
            clips.append(latents_of(base, i, variant))
    (tmp_path / "clips.json").write_text(json.dumps(records))
    run(tmp_path / "run", 1, f"--data.videos={tmp_path / 'clips.json'}", "--data.count=0", stage="encode")
    with h5py.File(tmp_path / "run/data/latents/latents-00000-of-00001.h5") as file:
        assert bytes(file["prompt/bytes"]).decode() == "".join(record["cap"] for record in records)
        shown = [decoder.decode(latents.astype(numpy.float32), decoder.once) for latents in numpy.array(file["latents"])]
    for latents, video in zip(clips, shown, strict=True):
        right = decibels(video, decoder.again(decoder.decode(latents, decoder.once)))
        wrong = [decibels(video, decoder.again(decoder.decode(latents, mistake))) for mistake in decoder.mistakes]
        assert right > 40 and max(wrong) < right - 15, (right, wrong)


def test_clips_start_from_the_noise_of_a_file_and_by_the_schedule_named(base, tmp_path):
    directory = tmp_path / "run"
    options = [f"--run.base={base}", "--generate.samples=2", "--finetune.iterations=0",
               f"--generate.noise={tmp_path / 'noise.safetensors'}"]
    noise = numpy.random.default_rng(0).standard_normal((4, 16, 2, 8, 10)).astype(numpy.float32)
    noise[1] = noise[0]  # both samples of the first prompt
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    continued(base, directory, "select", *options)
    run(directory, 2, *options, stage="generate")
    assert numpy.array_equal(latents_of(directory, 0), latents_of(directory, 1))
    assert not numpy.allclose(latents_of(directory, 2), latents_of(directory, 3), atol=0.1)

    def refused(words, code, *more):
        result = subprocess.run(command(directory, 2, *options, *more, stage="generate"), env=environment(),
                                capture_output=True, text=True, timeout=100)
        assert result.returncode == code and words in result.stderr, result.stderr

    save_file({"noise": 2 * noise}, tmp_path / "noise.safetensors")
    refused("was made with other settings", 64)
    refused("was made with other settings", 64, "--generate.schedule=wan-unipc")
    refused("generate.sampler = unipc cannot start at noise level 1", 64, "--generate.schedule=wan-dpm++")
    save_file({"noise": noise[:3]}, tmp_path / "noise.safetensors")
    refused("noise is Float [3, 16, 2, 8, 10], and the clips need floats [4, 16, 2, 8, 10]", 65)
    line = command(tmp_path / "new", 1, *options[1:], stage="run")
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=100)
    assert result.returncode == 65 and "noise is Float [3," in result.stderr
    assert not list((tmp_path / "new").glob("*/*.h5")), "refused before anything is made"
    noise[2, 0, 0, 0, 0] = numpy.nan
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    refused("not finite", 65)
    (tmp_path / "noise.safetensors").unlink()
    refused("noise.safetensors", 74)


def test_what_late_stages_need_of_the_model_is_looked_at_first(base, tmp_path):
    def refused(code, words, *options):
        line = command(tmp_path / "run", 1, *options, stage="run")
        result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=100)
        assert result.returncode == code and words in result.stderr, result.stderr
        assert not list((tmp_path / "run").glob("*/*.h5"))

    refused(64, "is hybrid already", f"--model.path={base / 'model'}")
    teacher = pathlib.Path(shutil.copytree(base / "model", tmp_path / "teacher"))
    shutil.rmtree(teacher / "transformer")
    shutil.copytree(TEACHER / "transformer", teacher / "transformer")
    (teacher / "vae/diffusion_pytorch_model.safetensors").unlink()
    refused(74, "diffusion_pytorch_model.safetensors", f"--model.path={teacher}")
    shutil.rmtree(teacher / "tokenizer")
    refused(74, "model.tokenizer", f"--model.path={teacher}", f"--model.vae={TEACHER / 'vae'}")


def test_given_shards_are_used_as_they_are(base, tmp_path):
    options = [f"--data.shards={base / 'data/latents'}"]
    for stage in ["cache", "distill", "tables", "select", "finetune"]:
        run(tmp_path / "run", 2, f"--run.base={base}", *options, stage=stage)
    assert not (tmp_path / "run/data").exists()
    found, expected = parameters(tmp_path / "run"), parameters(base)
    assert all(numpy.array_equal(found[name], expected[name]) for name in expected)


def test_milliseconds_are_measured_and_chosen_by(base, tmp_path):
    options = ["--cost.measure=milliseconds", "--select.column=milliseconds", "--select.budget=0.8", "--cost.frames=17",
               "--cost.height=128", "--cost.width=128"]
    directory = tmp_path / "run"
    continued(base, directory, "tables", *options)
    rows = [line.split(",") for line in (directory / "tables.csv").read_text().splitlines()[1:]]
    times = {rate: {float(row[4]) for row in rows if row[1] == rate} for rate in ["1", "2", "4", "linear"]}
    assert all(len(values) == 1 and min(values) > 0 for values in times.values()), "one geometry: one time a rate"
    # Hybrid attention may take longer than full attention at so few tokens: all-softmax is always within the budget, and
    # where it is the cheapest too, one per cent above the cheapest would be above 1, which is milliseconds and no share.
    cheapest = min(min(values) for values in times.values()) / min(times["1"])
    for budget in [1.0, min(1.0, 1.01 * cheapest)]:
        run(directory, 1, *options, f"--select.budget={budget}", stage="select")
        selection = json.loads((directory / "selection.json").read_text())
        assert selection["column"] == "milliseconds"
        assert selection["cost"] == pytest.approx(sum(min(times[str(rate)]) for rate in selection["rates"]))
        assert selection["cost"] <= selection["budget"] * (1 + 1e-9)
