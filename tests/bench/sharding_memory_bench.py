#!/usr/bin/env python3
"""Finetuning's peak memory a rank at 2 and 4 ranks under every data.sharding, against `surgery plan`'s prediction.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/sharding_memory_bench.py WORK [--ranks N]... [--json]

The transformer has Wan2.1 1.3B's width and two blocks, random weights (made in WORK at the first call, as the run up to
finetuning). A global batch of 4 clips of 17 x 96 x 160, two steps. Measured is the highest RssAnon of any rank, as in
real_size_bench.py.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from real_size_bench import environment, make_model, predicted, settings, watched

BLOCKS, SHARDINGS = 2, ("none", "optimizer", "parameters")


def anonymous_bytes(process):
    """Of every process below this one, its RssAnon."""
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int(lines["PPid"]) == process.pid and lines["Name"].strip() == "surgery":
                yield int(lines["RssAnon"].split()[0]) * 1024
        except (FileNotFoundError, ProcessLookupError, KeyError):
            pass


def highest(command, ranks):
    line = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "-n", ranks,
            *command]
    process = subprocess.Popen([str(part) for part in line], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env={name: value for name, value in environment(1).items() if name != "SURGERY_SINGLE_RANK"})
    peak = 0
    while process.poll() is None:
        peak = max([peak, *anonymous_bytes(process)])
        time.sleep(0.05)
    if process.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}\nended with {process.returncode}: {process.stderr.read()[-2000:]}")
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--ranks", type=int, action="append", help="default: 2 and 4")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    binary = os.environ["SURGERY_BINARY"]
    arguments.work.mkdir(parents=True, exist_ok=True)
    model, run = arguments.work / f"model-{BLOCKS}", arguments.work / f"run-{BLOCKS}"
    make_model(binary, model, BLOCKS)
    options = [option for option in settings(run, model, 1) if not option.startswith(("--finetune.", "--select.", "--data.count"))]
    options += ["--select.budget=1xR4", "--data.count=4", "--finetune.iterations=2", "--finetune.checkpoints=2",
                "--finetune.global_batch=4"]
    for before in ("cache", "distill", "tables", "select", "encode"):
        watched([binary, before, *options], 1)
    rows = []
    for ranks in arguments.ranks or (2, 4):
        for sharding in SHARDINGS:
            shutil.rmtree(run / "finetune", ignore_errors=True)
            shared = [*options, f"--data.sharding={sharding}"]
            peak = highest([binary, "finetune", *shared], ranks)
            plan = predicted(binary, [*shared, "--ranks", str(ranks)], 1)["finetune"]
            rows.append(dict(ranks=ranks, sharding=sharding, predicted=plan, measured=peak, ratio=plan / peak))
    if arguments.json:
        return print(json.dumps(rows, indent=1))
    print(f"{'ranks':>6} {'data.sharding':14}{'plan, GiB':>12}{'measured, GiB':>15}{'plan/measured':>15}")
    for row in rows:
        print(f"{row['ranks']:6d} {row['sharding']:14}{row['predicted'] / 2**30:12.2f}{row['measured'] / 2**30:15.2f}{row['ratio']:15.3f}")


if __name__ == "__main__":
    main()
