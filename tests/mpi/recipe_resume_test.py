"""A rank is killed in the middle of a stage; a restart with another number of ranks gives the same artifacts.

Runs the program as its user does (mpirun), on the shipped small teacher at a reduced size.
"""

import hashlib
import os
import pathlib
import signal
import subprocess
import time

import numpy
import pytest
from safetensors.numpy import load_file

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SURGERY_BINARY", str(SOURCE / "build/release/bin/surgery"))
TEACHER = os.environ.get("SURGERY_TEACHER", str(SOURCE / "datasets/shapes/teacher"))

SETTINGS = {
    "model.path": TEACHER,
    "run.threads": 1,
    "trajectories.count": 6, "trajectories.held_out": 1, "trajectories.steps": 12,
    "trajectories.frames": 5, "trajectories.height": 64, "trajectories.width": 80,
    "distill.rates": "2,4,linear", "distill.group_timesteps": 3, "distill.updates_per_group": 2,
    "distill.commit_every": 1, "distill.held_out_timesteps": 2, "distill.blocks_per_unit": 3,
    "select.budget": "0.7",
    "data.count": 6, "data.frames": 5, "data.height": 64, "data.width": 80,
    "finetune.iterations": 8, "finetune.checkpoints": "2,4", "finetune.save_every": 1, "finetune.global_batch": 4,
    "generate.count": 2, "generate.steps": 2,
    "generate.frames": 5, "generate.height": 64, "generate.width": 80,
}

# Artifacts whose bytes must depend neither on the number of ranks nor on interruptions.
IDENTICAL = ["cache/*.h5", "distill/*.h5", "tables.csv", "tables.h5", "selection.json", "data/latents/*.h5"]


def command(directory, ranks):
    options = [f"--{key}={value}" for key, value in SETTINGS.items()]
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1",
            "-n", str(ranks), BINARY, "run", f"--run.directory={directory}", *options]


def environment():
    return dict(os.environ, OMP_NUM_THREADS="1", OMPI_MCA_btl_vader_single_copy_mechanism="none")


def run(directory, ranks):
    result = subprocess.run(command(directory, ranks), env=environment(), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def ranks_of(launcher):
    found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=True).stdout.split()
    return [int(pid) for pid in found]


def run_and_kill(directory, ranks, pattern, after):
    """Kills the last rank with SIGKILL as soon as `after` files match `pattern`."""
    process = subprocess.Popen(command(directory, ranks), env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while len(list(directory.glob(pattern))) < after:
        assert process.poll() is None, f"the run ended before {after} of {pattern} appeared"
        assert time.time() < deadline
        time.sleep(0.002)
    os.kill(ranks_of(process.pid)[-1], signal.SIGKILL)
    assert process.wait(timeout=120) != 0, "a run whose rank was killed must not report success"


def hashes(directory, patterns):
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in patterns for path in sorted(directory.glob(pattern))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    run(directory, 2)
    return directory


def test_second_call_makes_nothing(undisturbed):
    patterns = IDENTICAL + ["finetune/*/*", "samples/*/*", "videos/*", "model/*/*"]
    before = {path: path.stat().st_mtime_ns for pattern in patterns for path in undisturbed.glob(pattern)}
    assert len(before) > 30
    output = run(undisturbed, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "trajectories: nothing to make, 7 reused" in output


@pytest.mark.parametrize("pattern,after,ranks", [
    ("cache/trajectory-*.h5", 2, 3),
    ("distill/block-*.h5", 1, 1),
    ("data/clips/*.mp4", 1, 3),
])
def test_killed_rank_loses_only_its_unit(undisturbed, tmp_path, pattern, after, ranks):
    directory = tmp_path / "run"
    run_and_kill(directory, 2, pattern, after)
    assert not (directory / "report.html").exists()
    finished = {path: path.stat().st_mtime_ns for path in directory.glob("cache/trajectory-*.h5")}
    assert len(finished) >= 2
    run(directory, ranks)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "finished trajectories were made again"
    assert hashes(directory, IDENTICAL) == hashes(undisturbed, IDENTICAL)


def states(directory, iteration):
    return load_file(directory / f"finetune/step-{iteration:06d}/state-0-of-1.safetensors")


@pytest.mark.parametrize("ranks", [2, 1])
def test_finetuning_continues_exactly(undisturbed, tmp_path, ranks):
    directory = tmp_path / "run"
    run_and_kill(directory, 2, "finetune/step-000003/manifest.json", 1)
    assert not (directory / "finetune/step-000008").exists(), "the rank was killed too late to show anything"
    run(directory, ranks)
    expected, found, start = states(undisturbed, 8), states(directory, 8), states(undisturbed, 2)
    assert expected.keys() == found.keys()
    moved = max(numpy.abs(expected[name] - start[name]).max() for name in expected if name.startswith("parameter."))
    assert moved > 1e-5, "the comparison is blind if finetuning moves nothing"
    for name in expected:
        if ranks == 2:
            assert numpy.array_equal(expected[name], found[name]), name
        elif name.startswith("parameter."):
            # Adam's first steps amplify the rounding of tiny gradients to the size of a step at most.
            difference = numpy.abs(expected[name] - found[name])
            assert difference.mean() < 0.02 * moved, (name, difference.mean(), moved)


def test_damaged_artifact_is_set_aside_and_made_again(undisturbed, tmp_path):
    import shutil
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    victim = directory / "cache/trajectory-000001.h5"
    good = victim.read_bytes()
    damaged = bytearray(good)
    damaged[len(damaged) // 2] ^= 0xFF
    victim.write_bytes(damaged)
    run(directory, 2)
    assert victim.read_bytes() == good
    assert (directory / "cache/trajectory-000001.h5.bad").read_bytes() == bytes(damaged)


def test_other_settings_are_refused_not_overwritten(undisturbed):
    before = hashes(undisturbed, IDENTICAL)
    result = subprocess.run(command(undisturbed, 1) + ["--trajectories.guidance=3"], env=environment(),
                            capture_output=True, text=True, timeout=600)
    assert result.returncode == 64
    assert "was made with other settings" in result.stderr
    assert hashes(undisturbed, IDENTICAL) == before


def test_resume_says_what_it_does(undisturbed, tmp_path):
    for directory, mode, code, words in [(undisturbed, "never", 64, "holds a run already"),
                                         (tmp_path / "none", "must", 64, "holds no run to continue")]:
        result = subprocess.run(command(directory, 1) + [f"--run.resume={mode}"], env=environment(),
                                capture_output=True, text=True, timeout=600)
        assert result.returncode == code
        assert words in result.stderr


def test_stop_signal_commits_and_continues(undisturbed, tmp_path):
    directory = tmp_path / "run"
    process = subprocess.Popen(command(directory, 2), env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 300
    while not list(directory.glob("cache/trajectory-*.h5")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    for rank in ranks_of(process.pid):
        os.kill(rank, signal.SIGUSR2)
    output, _ = process.communicate(timeout=120)
    assert "stopped on request with work left" in output, output[-2000:]
    assert not (directory / "report.html").exists()
    # mpirun passes the ranks' own code on: 75 asks for a requeue.
    assert process.returncode == 75
    run(directory, 2)
    assert hashes(directory, IDENTICAL) == hashes(undisturbed, IDENTICAL)
