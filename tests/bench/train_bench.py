#!/usr/bin/env python3
"""Finetuning steps on two ranks of one thread: this program's engine against PyTorch's DistributedDataParallel over gloo.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/train_bench.py [--ranks N] [--rounds N] [--steps N]

Both train a Wan transformer of 8 blocks of width 512 (fp32, random weights) by AdamW on random latents of 1,000 tokens, one
clip a rank and step, gradients clipped to norm 1; DDP trains diffusers' model as its users do. Without sharding and DDP run in
turn, each in processes of its own; then every sharding in turn within the same processes. Figures are medians of the steps,
over the rounds. Prints a JSON list of rows, as `surgery bench train` reads it.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import WanTransformer3DModel
from torch.nn.parallel import DistributedDataParallel

CONFIG = {"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_attention_heads": 4, "attention_head_dim": 128,
          "in_channels": 16, "out_channels": 16, "text_dim": 512, "freq_dim": 256, "ffn_dim": 2048, "num_layers": 8,
          "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024}
LATENTS = (16, 5, 20, 40)  # 17 frames of 160x320: 5 * 10 * 20 tokens


def peer(rank, ranks, steps, place):
    """One rank of the peer; rank 0 leaves the seconds of its steps."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/rendezvous", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = DistributedDataParallel(WanTransformer3DModel.from_config(CONFIG), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    torch.manual_seed(rank)
    seconds = []
    for _ in range(steps + 2):
        dist.barrier()
        start = time.perf_counter()
        x, text = torch.randn(1, *LATENTS), torch.randn(1, 32, CONFIG["text_dim"])
        velocity = model(x, torch.full((1,), 500.0), text, return_dict=False)[0]
        torch.nn.functional.mse_loss(velocity, x).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        (place / "seconds.json").write_text(json.dumps(seconds[2:]))
    dist.destroy_process_group()


def measured_peer(options, place):
    (place / "rendezvous").unlink(missing_ok=True)
    mp.spawn(peer, args=(options.ranks, options.steps, place), nprocs=options.ranks)
    return statistics.median(json.loads((place / "seconds.json").read_text()))


def measured_ours(options, place, sharding):
    binary = os.environ.get("SURGERY_BINARY", "build/release/bin/surgery")
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", options.ranks, binary, "bench",
               "finetune", "--json", f"--model.config={place}", "--run.threads=1", "--clip=17x160x320", "--clips",
               options.ranks, "--repetitions", options.steps, "--folder", place, "--sharding", sharding]
    found = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout)["finetune"]["rows"]


def median_rows(runs):
    """The rows of several runs as one, each figure the median of its own."""
    rows = []
    for same in zip(*runs):
        row = dict(same[len(same) // 2])
        for key in ("seconds", "peer_seconds", "limit_seconds"):
            if key in row:
                row[key] = statistics.median(one[key] for one in same)
        row.pop("ratio", None)
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        (place / "transformer").mkdir()
        (place / "transformer/config.json").write_text(json.dumps(CONFIG))
        ours, theirs, shardings = [], [], []
        for _ in range(options.rounds):
            ours.append(measured_ours(options, place, "none"))
            theirs.append(measured_peer(options, place))
            shardings.append(measured_ours(options, place, "all"))
    rows = median_rows(ours)
    rows[0].update(peer="DistributedDataParallel, gloo, diffusers' model", peer_seconds=statistics.median(theirs), goal=1.0)
    rows += [row for row in median_rows(shardings) if row.get("peer")]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    sys.exit(main())
