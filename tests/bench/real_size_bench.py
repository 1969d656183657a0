#!/usr/bin/env python3
"""Stages at Wan2.1 1.3B's geometry on random weights: seconds, and peak memory against `surgery plan`'s prediction.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/real_size_bench.py WORK [--threads N] [--stage NAME]... [--json]

WORK keeps the checkpoints (about 12 GB), which are made at the first call, and the runs. The transformer has 30 blocks for
trajectories and distillation and 10 for finetuning (16 bytes a parameter and more: all 30 exceed a small machine's memory); the
text encoder has umT5-xxl's width but two layers and a small vocabulary, with 512 rows of text. Clips are small (17 x 96 x 160).
Measured is the highest RssAnon of the process, sampled every 20 ms: what is mapped from files is not counted, as plan does not.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time


SOURCE = pathlib.Path(__file__).resolve().parents[2]
TEACHER = SOURCE / "datasets/shapes/teacher"
SIZES = SOURCE / "configs/models/wan2.1-t2v-1.3b"
CLIP = dict(frames=17, height=96, width=160)
STAGES = {"cache": "trajectories", "distill": "distill", "encode": "encode", "finetune": "finetune"}  # command: plan's name


def edited(source, target, **changes):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({**json.loads(source.read_text()), **changes}, indent=2))


def text_encoder(folder):
    return folder.with_name(folder.name + "-text")


def make_model(binary, folder, layers):
    """`surgery init` at 1.3B's sizes with so many blocks, in the dtypes of the original checkpoint."""
    if folder.exists():
        return
    sizes = folder.with_name(folder.name + "-sizes")
    shutil.copytree(SIZES, sizes, dirs_exist_ok=True)
    edited(SIZES / "transformer/config.json", sizes / "transformer/config.json", num_layers=layers)
    edited(SIZES / "text_encoder/config.json", sizes / "text_encoder/config.json", num_layers=2, vocab_size=4096)
    tokenizer = sizes / "small-tokenizer"
    shutil.copytree(TEACHER / "tokenizer", tokenizer, dirs_exist_ok=True)
    edited(TEACHER / "tokenizer/tokenizer_config.json", tokenizer / "tokenizer_config.json", model_max_length=512)
    init = lambda place, dtype, parts: subprocess.run(
        [binary, "init", f"--model.config={sizes}", f"--model.tokenizer={tokenizer}", "--dtype", dtype, "--parts", parts,
         "--output", place], check=True, env=environment(1))
    init(text_encoder(folder), "bf16", "text_encoder")
    init(folder, "fp32", "transformer,vae")


def environment(threads):
    return os.environ | {"SURGERY_SINGLE_RANK": "1", "OMP_NUM_THREADS": str(threads)}


def settings(run, model, threads):
    clip = lambda section: [f"--{section}.{name}={value}" for name, value in CLIP.items()]
    return [f"--run.directory={run}", f"--model.path={model}", f"--model.text_encoder={text_encoder(model)}",
            f"--run.threads={threads}", *clip("trajectories"), *clip("data"),
            *clip("cost"), *clip("generate"), "--trajectories.count=1", "--trajectories.held_out=1", "--trajectories.steps=1",
            "--distill.rates=2,4,8,linear", "--distill.blocks_per_unit=1", "--distill.group_timesteps=1",
            "--distill.held_out_timesteps=1", "--select.budget=5xR4", "--data.count=2", "--finetune.iterations=1",
            "--finetune.global_batch=1", "--finetune.checkpoints=1", "--generate.count=1"]


def watched(command, threads, until=None):
    """Seconds and the highest RssAnon in bytes; `until`, when true, ends the process (what it committed stays)."""
    process = subprocess.Popen([str(part) for part in command], env=environment(threads), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    peak, start, asked = 0, time.perf_counter(), False
    while process.poll() is None:
        try:
            for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
        except (FileNotFoundError, ProcessLookupError):
            pass
        if until and not asked and until():
            process.terminate()
            asked = True
        time.sleep(0.02)
    seconds, errors = time.perf_counter() - start, process.stderr.read()
    if process.returncode != (75 if asked else 0):
        sys.exit(f"{' '.join(str(part) for part in command)}\nended with {process.returncode}: {errors[-2000:]}")
    return seconds, peak


def predicted(binary, options, threads):
    printed = subprocess.run([binary, "plan", *options, "--json", "--memory", "1000000", "--disk", "1000000"], check=True,
                             capture_output=True, text=True, env=environment(threads)).stdout
    return {stage["name"]: stage["memory_bytes"] for stage in json.loads(printed)["stages"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stage", choices=STAGES, action="append", help="default: all")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    binary, rows = os.environ["SURGERY_BINARY"], []
    arguments.work.mkdir(parents=True, exist_ok=True)
    for command in arguments.stage or STAGES:
        layers = 10 if command in ("encode", "finetune") else 30
        model, run = arguments.work / f"model-{layers}", arguments.work / f"run-{layers}"
        make_model(binary, model, layers)
        options = settings(run, model, arguments.threads)
        if command == "finetune":  # needs what comes before it
            for before in ("cache", "distill", "tables", "select", "encode"):
                watched([binary, before, *options], arguments.threads)
        elif command == "distill":
            watched([binary, "cache", *options], arguments.threads)
        for made in {"cache": ["cache", "text"], "distill": ["distill"], "encode": ["data"], "finetune": ["finetune"]}[command]:
            shutil.rmtree(run / made, ignore_errors=True)
        until = (lambda: any((run / "distill").glob("block-*.h5"))) if command == "distill" else None
        seconds, peak = watched([binary, command, *options], arguments.threads, until)
        plan = predicted(binary, options, arguments.threads)[STAGES[command]]
        rows.append(dict(stage=command, blocks=layers, seconds=seconds, predicted=plan, measured=peak, ratio=plan / peak))
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'stage':12}{'blocks':>8}{'seconds':>10}{'plan, GiB':>12}{'measured, GiB':>15}{'plan/measured':>15}")
    for row in rows:
        print(f"{row['stage']:12}{row['blocks']:8d}{row['seconds']:10.1f}{row['predicted'] / 2**30:12.2f}"
              f"{row['measured'] / 2**30:15.2f}{row['ratio']:15.3f}")


if __name__ == "__main__":
    main()
