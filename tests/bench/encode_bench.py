#!/usr/bin/env python3
"""`surgery encode` of the same clips on one rank and on two, one thread each.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/encode_bench.py [--clips N] [--rounds N] [--json]

The clips are the shapes set's, written as mp4 beforehand (17 x 128 x 160), and go through the shipped teacher's VAE and text
encoder into latent shards of 64. Seconds are the stage's own (ledger.jsonl), models read and files committed; both sides run in
turn, medians of the rounds.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ["SURGERY_BINARY"]
SETTINGS = [f"--model.path={SOURCE / 'datasets/shapes/teacher'}", "--data.frames=17", "--data.height=128", "--data.width=160"]


def encode(directory, ranks, *options):
    line = [BINARY, "encode", *SETTINGS, f"--run.directory={directory}", *options]
    if ranks > 1:
        line = ["mpirun", "-n", str(ranks), "--oversubscribe", *line]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    subprocess.run(line, env=environment, check=True, stdout=subprocess.DEVNULL)
    last = [json.loads(text) for text in (directory / "ledger.jsonl").read_text().splitlines()][-1]
    assert last["stage"] == "encode" and last["ranks"] == ranks and last["left"] == 0, last
    return last


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256, help="four shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        encode(work / "drawn", 1, "--data.videos=shapes:train", f"--data.count={arguments.clips}")
        (listing,) = (work / "drawn/data/clips").glob("*/data.txt")
        for number in range(arguments.rounds):
            for ranks in seconds:
                last = encode(work / f"{number}-{ranks}", ranks, f"--data.videos={listing}", "--data.count=0")
                assert last["made"] == (arguments.clips + 63) // 64 and last["reused"] == 0, last
                seconds[ranks].append(last["seconds"])
    row = {"clips": arguments.clips, "one": statistics.median(seconds[1]), "two": statistics.median(seconds[2])}
    row["ratio"] = row["one"] / row["two"]
    if arguments.json:
        print(json.dumps(row, indent=2))
    else:
        print("{clips} clips: one rank {one:.2f} s, two ranks {two:.2f} s, {ratio:.2f} times as fast".format(**row))


if __name__ == "__main__":
    main()
