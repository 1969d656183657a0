#!/usr/bin/env python3
"""Times umT5 at the width of umt5-xxl (two layers) against transformers' UMT5EncoderModel, and measures peak memory.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/text_bench.py [--threads N] [--rounds N] [--json]

The same random weights, tokens and number of threads; every round runs one program after the other, each in a process of
its own, and each measures forwards after the first, which reads the file. Medians of all rounds' forwards; memory is the largest
resident set of a process, mapped weights included.
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
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

XXL = dict(vocab_size=300, d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64, feed_forward_proj="gated-gelu")
# name: (length, real tokens of each text)
CASES = {
    "prompt of 100 tokens": (100, [100]),
    "padded to 512": (512, [100]),
    "two of 512": (512, [512, 300]),
}
REPEATS = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def tokens(length, counts):
    ids = torch.zeros(len(counts), length, dtype=torch.int64)
    for row, n in enumerate(counts):
        ids[row, :n] = torch.randint(4, 300, (n,), generator=torch.Generator().manual_seed(row))
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def reference(folder, precision):
    """Child process: seconds of forwards after the first to standard output."""
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=DTYPES[precision]).eval()
    inputs = load_file(folder / "input.safetensors")
    with torch.no_grad():
        output = model(**inputs).last_hidden_state
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            model(**inputs)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds}))
    save_file({"last_hidden_state": output}, folder / "reference.safetensors")


def measured(command, threads):
    """Seconds that the child printed, and its peak memory in GiB."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=environment) as child:
        printed = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command[0]} failed")
    return json.loads(printed.splitlines()[-1])["seconds"], usage.ru_maxrss / 2**20


def measure(binary, folder, case, precision, threads, rounds):
    length, counts = CASES[case]
    inputs = tokens(length, counts)
    save_file(inputs, folder / "input.safetensors")
    ours = [binary, "forward", "--model", folder, "--component", "text", "--input", folder / "input.safetensors", "--output",
            folder / "ours.safetensors", "--precision", precision, "--repeat", REPEATS, f"--run.threads={threads}"]
    theirs = [sys.executable, __file__, "--reference", folder, "--precision", precision]
    pairs = [(measured(ours, threads), measured(theirs, threads)) for _ in range(rounds)]
    mine, other = (load_file(folder / f"{name}.safetensors")["last_hidden_state"].double() for name in ("ours", "reference"))
    real = inputs["attention_mask"].bool()
    seconds = [statistics.median(second for pair in pairs for second in pair[side][0]) for side in (0, 1)]
    memory = [max(pair[side][1] for pair in pairs) for side in (0, 1)]
    return dict(case=case, precision=precision, threads=threads, ours=seconds[0], transformers=seconds[1],
                ratio=seconds[1] / seconds[0], ours_gib=memory[0], transformers_gib=memory[1],
                relative_error=((mine - other)[real].norm() / other[real].norm()).item())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reference", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        return reference(options.reference, options.precision)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        torch.manual_seed(0)
        model = UMT5EncoderModel(UMT5Config(**XXL)).to(DTYPES[options.precision])  # nothing to convert in either
        model.save_pretrained(folder / "text_encoder", max_shard_size="100GB")
        del model
        rows = [measure(os.environ["SURGERY_BINARY"], folder, case, options.precision, options.threads, options.rounds)
                for case in options.case or CASES]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'case':24}{'':6}{'threads':>8}{'ours, s':>10}{'transformers, s':>17}{'times as fast':>15}{'ours, GiB':>11}"
          f"{'transformers, GiB':>19}{'rel. error':>12}")
    for row in rows:
        print(f"{row['case']:24}{row['precision']:6}{row['threads']:8d}{row['ours']:10.3f}{row['transformers']:17.3f}"
              f"{row['ratio']:15.2f}{row['ours_gib']:11.2f}{row['transformers_gib']:19.2f}{row['relative_error']:12.1e}")


if __name__ == "__main__":
    main()
