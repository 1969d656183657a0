"""A teacher from nothing, at a size that says nothing about quality: its files, and what interruptions do to them.

Each phase is killed, or asked to stop, once its state has been committed; the same command then gives the weights of
the undisturbed run, bit for bit.
"""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, TEACHER, command, environment, hashes  # noqa: E402

USAGE, REQUEUE = 64, 75
SIZE = {"vae-steps": 6, "clips": 4, "image-steps": 4, "video-steps": 4, "score-clips": 0, "save-every": 2}
STATES = {"vae": "vae.safetensors", "transformer": "transformer.safetensors"}
CONTINUES = {"vae": r"VAE: continues at step ([1-5]) of 6", "transformer": r"transformer from step ([1-7]) of 8"}


def pretrain(folder):
    return [BINARY, "pretrain", f"--output={folder / 'teacher'}", f"--work={folder / 'work'}", "--run.threads=1",
            "--model.device=cpu", *(f"--{name}={value}" for name, value in SIZE.items())]


def run(line):
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300)


def contents(folder):
    return hashes(folder, ["*.*", "*/*.*", "*/*/*.*"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    result = run(pretrain(folder))
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def tensors(path):
    """Names, shapes and dtypes of a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: (entry["shape"], entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}


def layout(folder):
    """Every file of a model; of weights the tensors too."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.md"]
    return {str(path.relative_to(folder)): tensors(path) if path.suffix == ".safetensors" else None for path in files}


def test_the_teacher_is_laid_out_as_the_shipped_one(undisturbed):
    assert layout(undisturbed / "teacher") == layout(pathlib.Path(TEACHER))


def test_the_teacher_is_one_to_run(undisturbed, tmp_path):
    teacher = undisturbed / "teacher"
    random = numpy.random.default_rng(0)
    inputs, output = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({"hidden_states": random.standard_normal((1, 16, 2, 8, 10), dtype=numpy.float32),
               "timestep": numpy.array([500], numpy.float32),
               "encoder_hidden_states": random.standard_normal((1, 32, 64), dtype=numpy.float32)}, inputs)
    result = run([BINARY, "forward", f"--model={teacher}", "--component=transformer", f"--input={inputs}",
                  f"--output={output}"])
    assert result.returncode == 0, result.stderr
    sample = load_file(output)["sample"]
    assert sample.shape == (1, 16, 2, 8, 10) and numpy.isfinite(sample).all() and numpy.abs(sample).max() > 0
    line = command(tmp_path / "run", 1, f"--model.path={teacher}", "--trajectories.count=1", "--trajectories.steps=3",
                   stage="cache")
    result = run(line[line.index(BINARY):])
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert "trajectories: 2 made" in result.stdout


def begin(undisturbed, folder, phase):
    """A folder in which `phase` comes next."""
    if phase == "transformer":
        shutil.copytree(undisturbed / "work", folder / "work")
        (folder / "work" / STATES[phase]).unlink()
    else:
        folder.mkdir(exist_ok=True)


def interrupt(folder, phase, number):
    """Sends the signal once the phase has committed its state; what was said until the end, and the exit code."""
    process = subprocess.Popen(pretrain(folder), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
    deadline = time.time() + 120
    while not (folder / "work" / STATES[phase]).exists():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return output, process.returncode


@pytest.mark.parametrize("number,code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, REQUEUE)])
@pytest.mark.parametrize("phase", ["vae", "transformer"])
def test_an_interrupted_teacher_becomes_the_same(undisturbed, tmp_path, phase, number, code):
    begin(undisturbed, tmp_path, phase)
    output, found = interrupt(tmp_path, phase, number)
    assert found == code, output[-2000:]
    assert (number == signal.SIGTERM) == ("stopped as asked" in output)
    assert (tmp_path / "work/vae").exists() == (phase == "transformer"), "the signal came too late to show anything"
    assert not (tmp_path / "teacher").exists()
    result = run(pretrain(tmp_path))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert re.search(CONTINUES[phase], result.stdout + result.stderr), result.stdout[-2000:]
    assert contents(tmp_path / "teacher") == contents(undisturbed / "teacher")
    assert contents(tmp_path / "work") == contents(undisturbed / "work")


def test_a_finished_teacher_is_not_trained_again(undisturbed):
    before = contents(undisturbed)
    weights = [undisturbed / "work" / name for name in [*STATES.values(), "latents.safetensors"]]
    times = [file.stat().st_mtime_ns for file in weights]
    assert run(pretrain(undisturbed)).returncode == 0
    assert contents(undisturbed) == before
    assert [file.stat().st_mtime_ns for file in weights] == times


def test_other_settings_are_refused(undisturbed):
    before = contents(undisturbed)
    for option, there in [("vae-steps", 6), ("clips", 4), ("image-steps", 4), ("video-steps", 4), ("run.seed", 0)]:
        result = run([*pretrain(undisturbed), f"--{option}=9"])
        assert result.returncode == USAGE, result.stderr
        assert f"{option} = {there} there, 9 asked for" in result.stderr
    assert contents(undisturbed) == before, "nothing may be lost by a call that is refused"


def test_a_state_without_its_settings_is_refused(undisturbed, tmp_path):
    begin(undisturbed, tmp_path, "transformer")
    (tmp_path / "work/settings.json").unlink()
    result = run(pretrain(tmp_path))
    assert result.returncode == USAGE and "not the settings.json it was begun with" in result.stderr
    (tmp_path / "work/settings.json").write_text("{")
    result = run(pretrain(tmp_path))
    assert result.returncode == 65 and "settings.json" in result.stderr
