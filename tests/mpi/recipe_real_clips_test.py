"""Finetuning on real clips of many sizes and frame rates, through the published annotation layout."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, CLIPS, finetuned, run  # noqa: E402


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
    early, late = (finetuned(directory, iteration) for iteration in (2, 6))
    moved = [name for name in early if name.startswith("parameter.") and (early[name] != late[name]).any()]
    assert len(moved) > 100, moved
    # Every listed clip is in a shard: all of them can be read.
    listed = len(json.loads((CLIPS / "clips.json").read_text()))
    samples = 0
    for path in (directory / "data/latents").glob("latents-*.h5"):
        shown = subprocess.run([BINARY, "inspect", "--json", path], capture_output=True, text=True, check=True,
                               env={**os.environ, "SURGERY_SINGLE_RANK": "1"})
        samples += json.loads(shown.stdout)["shard"]["samples"]
    assert samples == listed
