"""A rank is killed in the middle of a stage; a restart with another number of ranks gives the same artifacts.

Runs the program as its user does (mpirun), on the shipped small teacher at a reduced size.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, IDENTICAL, command, environment, finetuned, hashes, run  # noqa: E402


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


def test_the_model_brings_the_file_that_loads_it_into_diffusers(undisturbed):
    source = pathlib.Path(__file__).resolve().parents[2] / "src/wan/surgery_diffusers.py"
    assert (undisturbed / "model/transformer/surgery_diffusers.py").read_text() == source.read_text()


@pytest.mark.parametrize("pattern,after,ranks", [
    ("cache/trajectory-*.h5", 2, 3),
    ("distill/block-*.h5", 1, 1),
    ("data/clips/*/*.mp4", 1, 3),
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


def ledger(directory):
    return [json.loads(line) for line in (directory / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("ranks", [2, 1])
def test_finetuning_continues_exactly(undisturbed, tmp_path, ranks):
    directory = tmp_path / "run"
    run_and_kill(directory, 2, "finetune/step-000003/manifest.json", 1)
    assert not (directory / "finetune/step-000008").exists(), "the rank was killed too late to show anything"
    assert "finetune: continues after iteration 3" in run(directory, ranks)
    expected, found, start = (finetuned(folder, step) for folder, step in [(undisturbed, 8), (directory, 8), (undisturbed, 2)])
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


@pytest.mark.parametrize("pattern,ranks", [("samples/distilled/sample-*.h5", 3),
                                           ("videos/a *-0.mp4", 1)])
def test_generation_and_evaluation_continue(undisturbed, tmp_path, pattern, ranks):
    patterns = ["samples/*/*.h5", "evaluation.json"]
    directory = tmp_path / "run"
    run_and_kill(directory, 2, pattern, 1)
    assert not (directory / "report.html").exists()
    finished = {path: path.stat().st_mtime_ns for path in directory.glob(pattern)}
    run(directory, ranks)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "finished clips were made again"
    assert hashes(directory, patterns) == hashes(undisturbed, patterns)


def test_half_a_shard_of_a_killed_process_is_no_obstacle(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    shard = next((directory / "data/latents").glob("latents-*.h5"))
    ended = subprocess.Popen(["true"])
    ended.wait()
    half = shard.with_name(f".tmp-{socket.gethostname()}-{ended.pid}-0-{shard.name}")
    half.write_bytes(shard.read_bytes()[:1000])
    shard.unlink()
    shutil.rmtree(directory / "finetune")
    run(directory, 2)
    assert hashes(directory, IDENTICAL) == hashes(undisturbed, IDENTICAL)
    assert not half.exists(), "what a dead process left is cleared away"


@pytest.mark.parametrize("there", [True, False])
def test_a_kill_while_the_model_is_written_leaves_a_whole_one_or_none(undisturbed, tmp_path, there):
    directory, model = tmp_path / "run", ["model/*/*", "model/*.json"]
    shutil.copytree(undisturbed, directory)
    if there:
        (directory / "model/surgery.json").write_text("made of something else")
    else:
        shutil.rmtree(directory / "model")
    before = hashes(directory, model)
    line = command(directory, 1)
    process = subprocess.Popen(line[line.index(BINARY):], env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(directory.glob(".tmp-*-model")):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the process was killed too late to show anything"
    assert hashes(directory, model) in [before, {}, hashes(undisturbed, model)]
    run(directory, 1)
    assert hashes(directory, model) == hashes(undisturbed, model)
    assert not list(directory.glob(".tmp-*")), "what a dead process left is cleared away"


def test_another_runs_artifacts_are_taken_where_settings_agree(undisturbed, tmp_path):
    base = f"--run.base={undisturbed}"
    inodes = lambda folder, pattern: {path.name: path.stat().st_ino for path in folder.glob(pattern)}
    same, other = tmp_path / "same", tmp_path / "other"
    assert "distill: nothing to make, 10 reused" in run(same, 2, base, stage="distill")
    assert inodes(same, "distill/*.h5") == inodes(undisturbed, "distill/*.h5")
    before = hashes(undisturbed, IDENTICAL)
    assert "trajectories: nothing to make, 7 reused" in run(other, 2, base, stage="cache")
    assert "distill: 10 made" in run(other, 2, base, "--distill.stabilizer=lse", stage="distill")
    assert inodes(other, "cache/*.h5") == inodes(undisturbed, "cache/*.h5")
    assert hashes(undisturbed, IDENTICAL) == before, "the other run was changed"
    result = subprocess.run(command(tmp_path / "third", 1, "--run.base=/nonexistent"), env=environment(),
                            capture_output=True, text=True, timeout=600)
    assert result.returncode == 64 and "run.base=/nonexistent: does not exist" in result.stderr


def test_damaged_artifact_is_set_aside_and_made_again(undisturbed, tmp_path):
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
    result = subprocess.run(command(undisturbed, 1, "--trajectories.guidance=3"), env=environment(),
                            capture_output=True, text=True, timeout=600)
    assert result.returncode == 64
    assert "was made with other settings" in result.stderr
    assert ledger(undisturbed)[-1]["outcome"] == "failed", "the time of a stage that failed was lent, too"
    assert hashes(undisturbed, IDENTICAL) == before


@pytest.mark.parametrize("stage,option,path", [
    ("distill", "--trajectories.guidance=3", "distill/block-00.h5"),
    ("tables", "--distill.rates=2,linear", "distill/block-00.h5"),
    ("select", "--distill.rates=2,linear", "tables.h5"),
    ("select", "--cost.frames=41", "tables.h5"),
    ("finetune", "--select.budget=3xR2", "selection.json"),
    ("finetune", "--select.mode=softmax", "selection.json"),
    ("generate", "--select.pins=0=1,9=1", "selection.json"),
    ("finetune", "--cost.frames=41", "selection.json"),
    ("finetune", "--data.fps=8", "data/latents/latents-"),
    ("finetune", "--data.count=5", "data/latents/index.json"),
    ("finetune", "--data.count=7", "data/latents/index.json"),
    ("finetune", "--distill.stabilizer=lse", "selection.json"),
    ("finetune", "--finetune.learning_rate=1e-3", "finetune/step-"),
    ("finetune", "--data.videos=shapes:distill", "data/latents/index.json"),
    ("generate", "--generate.steps=3", "samples/teacher/sample-000000.h5"),
    ("evaluate", "--generate.steps=3", "samples/teacher/sample-000000.h5"),
])
def test_a_stage_alone_refuses_inputs_of_other_settings(undisturbed, tmp_path, stage, option, path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    if stage == "distill":  # its own files are looked at first
        for block in directory.glob("distill/*.h5"):
            block.unlink()
        path = "cache/trajectory-000000.h5"
    if stage in ("tables", "select") and "rates" in option:
        (directory / "tables.csv").unlink()
    before = hashes(directory, IDENTICAL)
    result = subprocess.run(command(directory, 2, option, stage=stage), env=environment(), capture_output=True,
                            text=True, timeout=600)
    assert result.returncode == 64, result.stderr[-3000:]
    assert str(directory / path) in result.stderr, result.stderr[-3000:]
    assert hashes(directory, IDENTICAL) == before


def test_a_video_of_another_model_is_made_again(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    videos = {path.name: path.read_bytes() for path in directory.glob("videos/*.mp4")}
    assert len(videos) >= 2
    for path in directory.glob("videos-teacher/*.mp4"):
        assert path.read_bytes() != videos[path.name], "the teacher's clips and the student's are the same: blind"
        shutil.copyfile(path, directory / "videos" / path.name)
    run(directory, 1)
    assert {path.name: path.read_bytes() for path in directory.glob("videos/*.mp4")} == videos


def test_a_lost_milestone_is_made_again_and_later_ones_stay(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    state = lambda name: directory / "finetune" / name / "state-0-of-2.safetensors"
    lost, later, last = sorted(path.name for path in directory.glob("finetune/step-*"))[-3:]
    assert last == "step-000008"
    expected = state(lost).read_bytes()
    before = [state(name).stat().st_ino for name in (later, last)]
    shutil.rmtree(directory / "finetune" / lost)
    output = run(directory, 2, stage="finetune")
    assert "later ones are kept" in output and "continues after iteration 8, which was there" in output
    assert state(lost).read_bytes() == expected
    assert [state(name).stat().st_ino for name in (later, last)] == before, "what stood was made again"


def test_resume_says_what_it_does(undisturbed, tmp_path):
    for directory, mode, code, words in [(undisturbed, "never", 64, "holds a run already"),
                                         (tmp_path / "none", "must", 64, "holds no run to continue")]:
        result = subprocess.run(command(directory, 1, f"--run.resume={mode}"), env=environment(),
                                capture_output=True, text=True, timeout=600)
        assert result.returncode == code
        assert words in result.stderr


@pytest.mark.parametrize("pattern,stage,options", [
    ("distill/block-*.h5", "distill", []),
    ("distill/block-*.h5", "distill", ["--trajectories.source=live"]),
    ("finetune/step-000002/manifest.json", "finetune", []),
    ("samples/teacher/sample-*.h5", "generate teacher", ["--generate.count=12"]),
    (None, "evaluate", ["--generate.count=24"]),
])
def test_every_stage_stops_cleanly_and_goes_on(undisturbed, tmp_path, pattern, stage, options):
    directory = tmp_path / "run"
    options = options if "live" in str(options) else [*options, f"--run.base={undisturbed}"]
    if stage == "distill":
        options += ["--distill.epochs=6", "--distill.blocks_per_unit=10"]
    process = subprocess.Popen(command(directory, 2, *options), env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 300
    reached = lambda: list(directory.glob(pattern))
    if stage == "evaluate":  # leaves nothing before it is done: half a second into it
        reached = lambda: (directory / "ledger.jsonl").exists() and ledger(directory)[-1]["stage"] == "generate step-000008"
    while not reached():
        assert process.poll() is None, process.communicate()[0][-2000:]
        assert time.time() < deadline
        time.sleep(0.002)
    if stage == "evaluate":
        time.sleep(0.5)
    for rank in ranks_of(process.pid):
        os.kill(rank, signal.SIGUSR2)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output[-2000:]
    line = ledger(directory)[-1]
    assert (line["stage"], line["outcome"]) == (stage, "stopped") and line["left"] > 0, line
    stopped = hashes(directory, IDENTICAL)
    run(directory, 2, *options, stage="distill" if stage == "distill" else "run")
    assert [line for line in ledger(directory) if line["stage"] == stage][-1]["outcome"] == "done"
    if stage == "distill":  # a run that was never stopped
        run(tmp_path / "whole", 2, *options, stage="cache")
        run(tmp_path / "whole", 2, *options, stage="distill")
        assert hashes(directory, ["distill/*.h5"]) == hashes(tmp_path / "whole", ["distill/*.h5"])
        assert stopped != hashes(directory, IDENTICAL)


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
    made = len(list(directory.glob("cache/trajectory-*.h5")))
    assert f"trajectories: {made} made, 0 reused" in output and f"stopped with {7 - made} left to make" in output
    line, = ledger(directory)
    assert (line["stage"], line["outcome"], line["made"], line["left"]) == ("trajectories", "stopped", made, 7 - made)
    run(directory, 2)
    lines = ledger(directory)
    assert (lines[1]["outcome"], lines[1]["made"], lines[1]["reused"], lines[1]["left"]) == ("done", 7 - made, made, 0)
    assert all(abs(line["device_seconds"] - 2 * line["seconds"]) < 1e-9 for line in lines)
    # What only looks takes time as well, and is told.
    run(directory, 2, stage="cache")
    line = ledger(directory)[-1]
    assert (line["made"], line["reused"]) == (0, 7) and line["device_seconds"] > 0
    assert hashes(directory, IDENTICAL) == hashes(undisturbed, IDENTICAL)


@pytest.mark.parametrize("pattern,minutes", [("cache/trajectory-*.h5", "0.1"),
                                             ("finetune/step-000003/manifest.json", "0,finetune=0.1")])
def test_a_job_with_a_hanging_rank_is_aborted_and_continues(undisturbed, tmp_path, pattern, minutes):
    directory = tmp_path / "run"
    process = subprocess.Popen(command(directory, 2, f"--run.stall_minutes={minutes}"), env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 300
    while not list(directory.glob(pattern)):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    os.kill(ranks_of(process.pid)[-1], signal.SIGSTOP)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 70, output[-2000:]
    assert re.search(r"rank 0, .*: no progress for \d+ s in \"(trajectories|finetune)\"", output), output[-2000:]
    run(directory, 2)
    assert hashes(directory, IDENTICAL) == hashes(undisturbed, IDENTICAL)


def test_a_report_leaves_the_runs_configuration_and_reads_it(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    (directory / "evaluation.json").unlink()
    before = (directory / "config.cfg").read_bytes()
    line = command(directory, 1, stage="report")
    line = line[:line.index(BINARY)] + [BINARY, "report", f"--run.directory={directory}"]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "missing: evaluate" in result.stdout + result.stderr, "only that is missing, by the run's own configuration"
    assert (directory / "config.cfg").read_bytes() == before
    result = subprocess.run([*line, "--select.budget=0.5"], env=environment(), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0 and (directory / "config.cfg").read_bytes() == before
