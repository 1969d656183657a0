"""The training engine inside a recipe: shardings, recomputed blocks, checkpoints that other ranks and shardings take up."""

import json
import pathlib
import shutil
import subprocess
import sys
import time

import h5py
import numpy
import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, TEACHER, command, environment, finetuned, run  # noqa: E402

USAGE, DATA, IO, STOPPED = 64, 65, 74, 75
BATCH = "--finetune.global_batch=12"  # whole over 1, 2, 3 and 4 ranks
BEFORE = ["cache", "distill", "tables", "select", "encode"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run up to finetuning."""
    directory = tmp_path_factory.mktemp("prepared") / "run"
    for stage in BEFORE:
        run(directory, 2, stage=stage)
    return directory


def finetune(directory, ranks, *options, iterations=4):
    return run(directory, ranks, BATCH, f"--finetune.iterations={iterations}", "--finetune.checkpoints=2", *options,
               stage="finetune")


def copy(prepared, tmp_path, name):
    return pathlib.Path(shutil.copytree(prepared, tmp_path / name))


def losses(directory):
    lines = (json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["stage"] == "finetune"]


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    directory = copy(prepared, tmp_path_factory.mktemp("alone"), "run")
    finetune(directory, 1)
    return directory


@pytest.mark.parametrize("options,ranks", [
    (["--data.sharding=none", "--finetune.save_behind=no"], 3), (["--data.sharding=optimizer"], 2),
    (["--data.sharding=optimizer", "--finetune.recompute=2"], 3), (["--data.sharding=parameters"], 2),
    (["--data.sharding=parameters", "--finetune.recompute=1"], 3), (["--data.sharding=parameters"], 1)])
def test_every_sharding_gives_the_losses_of_one_rank(prepared, alone, tmp_path, options, ranks):
    directory = copy(prepared, tmp_path, "run")
    finetune(directory, ranks, *options)
    assert len(losses(alone)) == 4
    numpy.testing.assert_allclose(losses(directory), losses(alone), rtol=1e-6)
    state, expected = finetuned(directory, 4), finetuned(alone, 4)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].shape == value.shape
    assert len(list((directory / "finetune/step-000004").glob("state-*-of-*.safetensors"))) == ranks


def test_zero_3_wants_as_many_micro_batches_of_every_rank(prepared, tmp_path):
    directory = copy(prepared, tmp_path, "run")
    line = command(directory, 2, "--finetune.global_batch=3", "--finetune.iterations=2", "--finetune.checkpoints=2",
                   "--data.sharding=parameters", stage="finetune")
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == USAGE and "give a multiple of 2" in result.stderr, result.stderr[-2000:]


def test_bf16_students_are_sharded_with_their_masters(prepared, tmp_path):
    found = {}
    for sharding, ranks in [("none", 1), ("parameters", 2)]:
        directory = copy(prepared, tmp_path, sharding)
        finetune(directory, ranks, f"--data.sharding={sharding}", "--finetune.precision=bf16-diffusers")
        found[sharding] = losses(directory)
    numpy.testing.assert_allclose(found["parameters"], found["none"], rtol=2e-3)


@pytest.mark.parametrize("first,then", [(("optimizer", 2), ("parameters", 3)), (("parameters", 3), ("none", 1)),
                                        (("none", 2), ("optimizer", 2))])
def test_a_checkpoint_is_taken_up_by_other_ranks_and_shardings(prepared, alone, tmp_path, first, then):
    directory = copy(prepared, tmp_path, "run")
    finetune(directory, first[1], f"--data.sharding={first[0]}", iterations=2)
    said = finetune(directory, then[1], f"--data.sharding={then[0]}")
    assert "continues after iteration 2" in said
    numpy.testing.assert_allclose(losses(directory), losses(alone), rtol=1e-6)


@pytest.mark.parametrize("sharding", ["optimizer", "parameters"])
def test_stopped_halves_are_the_whole_and_a_cold_start_is_not(prepared, tmp_path, sharding):
    """2N steps; N steps, then N more; N steps from a cold start."""
    whole, halves, cold = (copy(prepared, tmp_path, name) for name in ("whole", "halves", "cold"))
    options = [f"--data.sharding={sharding}"]
    finetune(whole, 2, *options)
    finetune(halves, 2, *options, iterations=2)
    finetune(halves, 2, *options)
    finetune(cold, 2, *options, iterations=2)
    expected, found, other = finetuned(whole, 4), finetuned(halves, 4), finetuned(cold, 2)
    assert all(numpy.array_equal(found[name], value) for name, value in expected.items())
    assert any(not numpy.array_equal(other[name], value) for name, value in expected.items())


def test_finetuning_starts_from_another_runs_checkpoint(prepared, alone, tmp_path):
    directory, origin = copy(prepared, tmp_path, "run"), alone / "finetune/step-000002"
    there = [f"--run.resume={origin}", "--finetune.checkpoints="]
    assert f"starts from {origin}, after iteration 2" in finetune(directory, 2, *there, iterations=3)
    assert "continues after iteration 3" in finetune(directory, 2, "--data.sharding=parameters", *there)
    numpy.testing.assert_allclose(losses(directory), losses(alone)[2:], rtol=1e-6)
    expected, found = finetuned(alone, 4), finetuned(directory, 4)
    assert all(numpy.allclose(found[name], value, rtol=1e-3, atol=1e-6) for name, value in expected.items())
    averaged = copy(prepared, tmp_path, "averaged")  # the checkpoint keeps no average: it begins as the weights
    finetune(averaged, 1, *there, "--finetune.ema=0.5", iterations=3)
    state, before = finetuned(averaged, 3), finetuned(alone, 2)
    decay = min(0.5, 4 / 13)  # of the third update
    for name in (name for name in state if name.startswith("average.")):
        weights = "parameter." + name.removeprefix("average.")
        numpy.testing.assert_allclose(state[name], decay * before[weights] + (1 - decay) * state[weights], rtol=1e-5, atol=1e-7)

    def refused(folder, code, words, *options, plan_too=True):
        for stage in ("finetune", "plan")[:1 + plan_too]:
            result = subprocess.run(command(folder, 1, BATCH, "--finetune.iterations=4", *options, stage=stage), env=environment(),
                                    capture_output=True, text=True, timeout=120)
            assert result.returncode == code and words in result.stderr, result.stderr[-2000:]

    other = copy(prepared, tmp_path, "other")
    refused(other, USAGE, "with a /", "--run.resume=msut")
    fresh = copy(prepared, tmp_path, "fresh")
    shutil.copytree(origin, fresh / "finetune/step-000003.kept")
    refused(fresh, USAGE, "this run's own", f"--run.resume={fresh}/finetune/step-000003.kept/", "--finetune.checkpoints=")
    refused(other, USAGE, "neither auto, must nor never", f"--run.resume={tmp_path}/nowhere")
    refused(other, USAGE, "is of iteration 2, but iteration 1 is to be made", f"--run.resume={origin}", "--finetune.checkpoints=1")
    refused(other, DATA, "parameters that are not the", *there, "--finetune.train=*.ffn.net.2.*", plan_too=False)
    damaged = pathlib.Path(shutil.copytree(origin, tmp_path / "damaged"))
    file = damaged / "state-0-of-1.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused(other, DATA, "hash differs", f"--run.resume={damaged}", "--finetune.checkpoints=", plan_too=False)
    assert not list(other.glob("finetune/step-*"))
    # Once it has begun, the other run is not needed; what it did not begin from is refused.
    refused(directory, USAGE, "did not start from what run.resume", f"--run.resume={alone}/finetune/step-000004",
            "--finetune.checkpoints=", "--finetune.iterations=5", plan_too=False)
    finetune(directory, 1, f"--run.resume={tmp_path}/gone", "--finetune.checkpoints=", iterations=5)
    assert len(losses(directory)) == 3 and finetuned(directory, 5)
    shutil.rmtree(directory / "finetune")
    refused(directory, USAGE, "neither auto, must nor never", f"--run.resume={tmp_path}/gone")


def test_a_full_disk_while_saving_loses_nothing(prepared, alone, tmp_path):
    directory = copy(prepared, tmp_path, "run")
    finetune(directory, 2, iterations=2)
    kept = finetuned(directory, 2)

    line = command(directory, 2, BATCH, "--finetune.iterations=4", "--finetune.checkpoints=2", stage="finetune")
    at = line.index(BINARY)  # only one rank has too little room
    room = 'trap "" XFSZ; [ "$OMPI_COMM_WORLD_RANK" = 0 ] || ulimit -f 6000; exec "$@"'
    line[at:at] = ["bash", "-c", room, "-"]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == IO, result.stdout[-2000:] + result.stderr[-2000:]
    assert "the checkpoint of iteration 3 cannot be written, the one before is whole: rank 1: " in result.stderr
    assert sorted(path.name for path in (directory / "finetune").iterdir()) == ["step-000001", "step-000002"]
    now = finetuned(directory, 2)
    assert all(numpy.array_equal(now[name], value) for name, value in kept.items())
    assert "continues after iteration 2" in finetune(directory, 2)
    numpy.testing.assert_allclose(losses(directory)[-2:], losses(alone)[-2:], rtol=1e-6)


TRAINED = ["--finetune.train=hybrid-attention,*.ffn.net.2.*", "--finetune.ema=0.9", "--finetune.schedule=cosine",
           "--finetune.warmup=2", "--finetune.final_rate=0.1", "--finetune.noise_levels=logit_normal",
           "--finetune.loss_weighting=bell", "--finetune.validation_clips=2", "--finetune.validate_every=2"]


def values(directory, key):
    lines = (json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if line["stage"] == "finetune" and key in line]


@pytest.fixture(scope="module")
def subset(prepared, tmp_path_factory):
    directory = copy(prepared, tmp_path_factory.mktemp("subset"), "run")
    finetune(directory, 1, *TRAINED)
    return directory


@pytest.mark.parametrize("sharding,ranks,more", [("none", 3, []), ("optimizer", 2, []),
                                                 ("parameters", 3, ["--finetune.recompute=1"])])
def test_subset_average_schedule_and_validation_are_alike_for_every_sharding(prepared, subset, tmp_path, sharding, ranks,
                                                                             more):
    directory = copy(prepared, tmp_path, "run")
    finetune(directory, ranks, f"--data.sharding={sharding}", *TRAINED, *more)
    for key in ("loss", "validation_loss", "learning_rate", "gradient_norm"):
        assert len(values(subset, key)) == (2 if key == "validation_loss" else 4)
        numpy.testing.assert_allclose(values(directory, key), values(subset, key), rtol=2e-6)
    state, before, expected = finetuned(directory, 4), finetuned(directory, 3), finetuned(subset, 4)
    assert state.keys() == expected.keys()
    names = [name.removeprefix("average.") for name in state if name.startswith("average.")]
    assert names
    for name in names:  # after four updates an average of decay 0.9 is as young as 5 / 14
        now, old, weight = state["average." + name], before["average." + name], state["parameter." + name]
        numpy.testing.assert_allclose(now, old + (1 - 5 / 14) * (weight - old), rtol=3e-7, atol=1e-8)
        numpy.testing.assert_allclose(now, expected["average." + name], rtol=0, atol=1e-5)


def test_what_is_not_trained_stays_and_the_average_becomes_the_model(subset):
    from safetensors.torch import load_file  # numpy has no bf16
    rate = values(subset, "learning_rate")
    numpy.testing.assert_allclose([rate[0], rate[1], rate[3]], [0.5e-5, 1e-5, 0.1e-5])
    state = finetuned(subset, 4)
    trained = {name.split(".", 1)[1] for name in state}
    chosen = json.loads((subset / "selection.json").read_text())["rates"]
    hybrid = tuple(f"blocks.{block}.attn1." for block, rate in enumerate(chosen) if str(rate) != "1")
    assert hybrid and all(name.startswith(hybrid) or ".ffn.net.2." in name for name in trained)

    run(subset, 1, BATCH, "--finetune.iterations=4", "--finetune.checkpoints=2", *TRAINED)
    model, teacher = ({name: tensor for file in sorted((folder / "transformer").glob("*.safetensors"))
                       for name, tensor in load_file(file).items()} for folder in (subset / "model", pathlib.Path(TEACHER)))
    moved = 0
    for name, tensor in model.items():
        if name in trained:
            average = torch.from_numpy(state["average." + name])
            assert torch.equal(tensor, average.to(tensor.dtype)), name
            moved += not numpy.array_equal(state["average." + name], state["parameter." + name])
        else:
            assert torch.equal(tensor, teacher[name].to(tensor.dtype)), name
    assert moved > len(trained) / 2


def test_halves_with_an_average_are_the_whole(prepared, tmp_path):
    directory = copy(prepared, tmp_path, "run")
    constant = [option for option in TRAINED if "schedule" not in option]
    whole = copy(prepared, tmp_path, "whole")
    finetune(whole, 2, "--data.sharding=optimizer", *constant)
    finetune(directory, 2, "--data.sharding=optimizer", *constant, iterations=2)
    finetune(directory, 2, "--data.sharding=optimizer", *constant)
    expected, found = finetuned(whole, 4), finetuned(directory, 4)
    assert any(name.startswith("average.") for name in expected)
    assert all(numpy.array_equal(found[name], value) for name, value in expected.items())


def test_a_file_asks_for_a_checkpoint_and_another_for_the_end(prepared, tmp_path):
    directory = copy(prepared, tmp_path, "run")
    settings = [BATCH, "--finetune.iterations=500", "--finetune.checkpoints=", "--finetune.save_every=0"]
    process = subprocess.Popen(command(directory, 2, *settings, stage="finetune"), env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)

    def wait_for(what):
        end = time.monotonic() + 60
        while not what():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)

    wait_for(lambda: (directory / "metrics.jsonl").exists() and values(directory, "loss"))
    (directory / "SAVE").touch()
    wait_for(lambda: list((directory / "finetune").glob("step-*")))
    wait_for(lambda: not (directory / "SAVE").exists())
    (directory / "STOP").touch()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == STOPPED and "stopped on request" in said, said[-2000:]
    done = len(values(directory, "loss"))
    assert 0 < done < 500
    assert finetuned(directory, done)
    events = [json.loads(line) for line in (directory / "events/rank-0001.jsonl").read_text().splitlines()]
    assert [event["iteration"] for event in events] == list(range(1, done + 1))
    assert all(event["peak_memory_bytes"] > 2**20 and event["data_seconds"] >= 0 for event in events)

    again = subprocess.run(command(directory, 2, *settings, stage="finetune"), env=environment(), capture_output=True,
                           text=True, timeout=60)
    assert again.returncode == USAGE and "remove it to go on" in again.stderr, again.stderr[-2000:]


def test_a_milestone_is_made_again_by_a_sharded_run_with_validation(prepared, tmp_path):
    """After its last forward a validation must leave nothing whole where a checkpoint is then taken up."""
    directory = copy(prepared, tmp_path, "run")
    options = ["--data.sharding=parameters", "--finetune.validation_clips=2", "--finetune.validate_every=1"]
    finetune(directory, 2, *options)
    kept = finetuned(directory, 4)
    run(directory, 1, *options, "--finetune.iterations=4", stage="report")
    page = (directory / "report.html").read_text()
    assert ">validation</text>" in page and "Validation: 2 clips" in page
    shutil.rmtree(directory / "finetune/step-000002")
    assert "continues after iteration 4, which was there" in finetune(directory, 2, *options)
    again = finetuned(directory, 4)
    assert all(numpy.array_equal(again[name], value) for name, value in kept.items())


def test_the_end_of_the_jobs_time_stops_in_time(prepared, tmp_path):
    directory = copy(prepared, tmp_path, "run")
    result = subprocess.run(command(directory, 1, BATCH, "--finetune.iterations=50000", stage="finetune"),
                            env={**environment(), "SLURM_JOB_END_TIME": str(int(time.time()) + 45)}, capture_output=True,
                            text=True, timeout=180)
    assert result.returncode == STOPPED and "time is nearly over" in result.stdout + result.stderr, result.stderr[-2000:]


def test_damaged_samples_are_passed_over_up_to_a_bound(prepared, alone, tmp_path):
    directory = copy(prepared, tmp_path, "run")
    shard = next((directory / "data/latents").glob("*.h5"))
    with h5py.File(shard, "r+") as file:
        latents = file["latents"]
        damaged = latents[1]
        damaged.flat[5] += 1
        latents[1] = damaged
    settings = [BATCH, "--finetune.iterations=4"]
    result = subprocess.run(command(directory, 2, *settings, stage="finetune"), env=environment(), capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == 0 and "a damaged sample is passed over (1 of at most 16)" in result.stderr, result.stderr[-2000:]
    assert len(losses(directory)) == 4 and losses(directory) != losses(alone)

    strict = copy(prepared, tmp_path, "strict")
    shutil.copy(shard, strict / "data/latents" / shard.name)
    line = command(strict, 2, *settings, "--data.damaged=0", stage="finetune")
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == DATA and "more than data.damaged = 0" in result.stderr, result.stderr[-2000:]
