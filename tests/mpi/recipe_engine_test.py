"""The training engine inside a recipe: shardings, recomputed blocks, checkpoints that other ranks and shardings take up."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, command, environment, finetuned, run  # noqa: E402

USAGE, IO = 64, 74
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
