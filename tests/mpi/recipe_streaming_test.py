"""Larger than memory: blocks streamed from their file give the same artifacts, and hold two blocks at a time.

Environment: SURGERY_BINARY, the program; SURGERY_SOURCE.
"""
import json
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, IDENTICAL, TEACHER, environment, hashes, run

WIDE = {"num_layers": 12, "num_attention_heads": 8, "attention_head_dim": 128, "ffn_dim": 5632, "text_dim": 64}
BLOCK = 4 * (8 * 1024 * 1024 + 2 * 1024 * 5632)  # bytes in fp32


def test_a_run_that_streams_makes_the_same_bytes(tmp_path):
    options = ["--finetune.iterations=0", "--finetune.checkpoints=", "--generate.count=1"]
    outputs = [run(tmp_path / word, 1, f"--model.stream={word}", *options) for word in ["no", "yes"]]
    assert "blocks are streamed" not in outputs[0] and "blocks are streamed" in outputs[1]
    patterns = [*IDENTICAL, "samples/*/*.h5", "model/transformer/*"]
    expected = hashes(tmp_path / "no", patterns)
    assert len(expected) > 20
    assert hashes(tmp_path / "yes", patterns) == expected


def test_finetuning_holds_the_student_whole_and_the_teacher_streams(tmp_path):
    """What is not trained is the teacher's memory where it is there whole, and the student's own where it streams."""
    options = ["--finetune.iterations=2", "--finetune.checkpoints=2", "--finetune.teacher_weight=0.5",
               "--finetune.train=hybrid-attention,*.ffn.*", "--generate.count=1"]
    for word in ["no", "yes"]:
        run(tmp_path / word, 1, f"--model.stream={word}", *options)
    patterns = ["finetune/*/*.safetensors", "samples/*/*.h5", "model/transformer/*"]
    assert hashes(tmp_path / "yes", patterns) == hashes(tmp_path / "no", patterns) != {}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Twelve blocks of 80 MB in fp32, as bf16 in a file."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "sizes/transformer").mkdir(parents=True)
    config = json.loads((pathlib.Path(TEACHER) / "transformer/config.json").read_text())
    (folder / "sizes/transformer/config.json").write_text(json.dumps({**config, **WIDE}))
    subprocess.run([BINARY, "init", f"--model.config={folder}/sizes", f"--output={folder}/model",
                    "--parts=transformer"], check=True, capture_output=True)
    return folder / "model"


def start(arguments, data_limit=None, **options):
    """A program whose private writable memory, in use or not, the system keeps below data_limit bytes."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
    return subprocess.Popen([BINARY, *map(str, arguments)], env=environment(), stdout=subprocess.PIPE,
                            preexec_fn=limit if data_limit else None, text=True, **options)


def anonymous_peak(arguments, data_limit=None):
    """The most anonymous memory a program holds while it runs, bytes, looked at every few milliseconds."""
    child = start(arguments, data_limit, stderr=subprocess.STDOUT)
    peak = 0
    while child.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{child.pid}/status").read_text()
        except OSError:  # it has just ended
            break
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        peak = max(peak, int(found[1]) * 1024 if found else 0)
        time.sleep(0.002)
    output = child.communicate()[0]
    assert child.returncode == 0, output
    return peak


def test_a_forward_holds_two_blocks_at_a_time(wide, tmp_path):
    generator = torch.Generator().manual_seed(1)
    save_file({"hidden_states": torch.randn((1, 16, 2, 8, 8), generator=generator), "timestep": torch.tensor([640.0]),
               "encoder_hidden_states": torch.randn((1, 5, WIDE["text_dim"]), generator=generator)},
              tmp_path / "in.safetensors")
    peaks, samples = {}, {}
    for word in ["no", "yes"]:
        output = tmp_path / f"{word}.safetensors"
        peaks[word] = anonymous_peak(["forward", f"--model={wide}", "--component=transformer", f"--stream={word}",
                                      f"--input={tmp_path}/in.safetensors", f"--output={output}"])
        samples[word] = load_file(output)["sample"]
    print({word: f"{peak / 1e6:.0f} MB" for word, peak in peaks.items()})
    assert torch.equal(samples["no"], samples["yes"])
    assert peaks["no"] > 12 * BLOCK
    assert peaks["yes"] < peaks["no"] - 9 * BLOCK


# The file's map counts too, being private and writable: six blocks' worth, since it is bf16. Of the ten left, what streams
# takes less than seven; the weights are twelve.
DATA_LIMIT = 16 * BLOCK


@pytest.fixture(scope="module")
def streamed(wide, tmp_path_factory):
    """A run's options, and its peaks: auto streams by run.memory_limit_gib, and the system holds it to DATA_LIMIT."""
    directory = tmp_path_factory.mktemp("streamed") / "run"
    limit = 12 * BLOCK / 2**30  # the weights, nothing beside them
    options = [f"--model.path={TEACHER}", f"--model.transformer={wide}", f"--run.directory={directory}",
               f"--run.memory_limit_gib={limit:.3f}", "--run.threads=1", "--trajectories.count=1",
               "--trajectories.held_out=1", "--trajectories.steps=5", "--trajectories.frames=1",
               "--trajectories.height=32", "--trajectories.width=32", "--distill.rates=2,linear",
               "--distill.blocks_per_unit=1", "--distill.held_out_timesteps=1"]
    plan = subprocess.run([BINARY, "plan", *options], capture_output=True, text=True)
    assert "streamed from their files" in plan.stdout, plan.stdout + plan.stderr
    peaks = {"cache": anonymous_peak(["cache", *options], DATA_LIMIT)}
    assert len(list((directory / "cache").glob("*.h5"))) == 2
    peaks["distill"] = anonymous_peak(["distill", *options], DATA_LIMIT)
    assert len(list((directory / "distill").glob("*.h5"))) == 12
    print({stage: f"{peak / 1e6:.0f} MB" for stage, peak in peaks.items()}, f"weights {12 * BLOCK / 1e6:.0f} MB")
    return directory, options, peaks


def test_trajectories_and_blocks_are_made_within_a_limit_that_the_weights_exceed(streamed):
    _, _, peaks = streamed
    assert peaks["cache"] < 5 * BLOCK
    assert peaks["distill"] < 7 * BLOCK


@pytest.mark.parametrize("stage", ["cache", "distill"])
def test_without_streaming_the_same_limit_is_exceeded(streamed, stage, tmp_path):
    made, options, _ = streamed
    directory = tmp_path / "run"
    shutil.copytree(made, directory)
    shutil.rmtree(directory / stage)  # or nothing would be left to do
    child = start([stage, *options, f"--run.directory={directory}", "--model.stream=no"], DATA_LIMIT, stderr=subprocess.PIPE)
    message = child.communicate()[1]
    assert child.returncode > 0 and child.returncode != 75, message  # by itself, and not as if it were to be continued
    assert re.search(r"^rank 0, .*can't allocate memory: you tried to allocate \d+ bytes", message, re.M), message
    assert not list((directory / stage).glob("*.h5"))
