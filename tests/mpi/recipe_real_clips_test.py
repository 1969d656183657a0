"""Finetuning on real clips of many sizes and frame rates, through the published annotation layout."""

import json
import pathlib
import sys

import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import CLIPS, run  # noqa: E402


@pytest.mark.skipif(not (CLIPS / "data.txt").exists(), reason="the real clips are not here")
def test_finetuning_trains_on_real_clips(tmp_path):
    directory = tmp_path / "run"
    options = [f"--data.videos={CLIPS / 'data.txt'}", "--data.count=0", "--finetune.iterations=6", "--finetune.checkpoints=2",
               "--finetune.learning_rate=0.0003"]
    run(directory, 2, *options)
    losses = [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()
              if '"finetune"' in line]
    assert len(losses) == 6 and all(0 < loss < 10 for loss in losses), losses
    assert (directory / "report.html").stat().st_size > 10_000
    early, late = (load_file(directory / f"finetune/step-{at:06d}/state-0-of-1.safetensors") for at in (2, 6))
    moved = [name for name in early if name.startswith("parameter.") and (early[name] != late[name]).any()]
    assert len(moved) > 100, moved
    # Every listed clip is either in a shard or named among the rejected.
    listed = len(json.loads((CLIPS / "clips.json").read_text()))
    shards = list((directory / "data/latents").glob("*.h5"))
    rejects = sum(len(path.read_text().splitlines()) for path in (directory / "data/latents").glob("*reject*"))
    assert shards
    assert rejects < listed, "nothing was read"
