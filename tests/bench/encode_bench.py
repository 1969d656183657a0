#!/usr/bin/env python3
"""`surgery encode` of the same clips on one rank and on two, one thread each; and by two runs at once that know nothing of each
other, half of the clips each: what this machine's second core is worth.

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


def command(directory, ranks, *options):
    line = [BINARY, "encode", *SETTINGS, f"--run.directory={directory}", *options]
    if ranks > 1:
        line = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", *line]  # as launch/local.sh
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)


def encode(jobs, ranks=1):
    """Seconds of the slowest of the jobs, {folder: options}, that run at once."""
    processes = [command(directory, ranks, *options) for directory, options in jobs.items()]
    assert not any([process.wait() for process in processes])
    slowest = 0
    for directory in jobs:
        last = [json.loads(text) for text in (directory / "ledger.jsonl").read_text().splitlines()][-1]
        assert last["stage"] == "encode" and last["ranks"] == ranks and last["left"] == 0 and last["reused"] == 0, last
        slowest = max(slowest, last["seconds"])
    return slowest


def halves(listing):
    """Two listings of a half each."""
    records = json.loads((listing.parent / "shapes.json").read_text())
    parts = []
    for i in (0, 1):
        listing.with_name(f"half-{i}.json").write_text(json.dumps(records[i::2]))
        parts.append(listing.with_name(f"half-{i}.txt"))
        parts[-1].write_text(f",half-{i}.json\n")
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256, help="four shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds = {"one": [], "two": [], "apart": []}
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        encode({work / "drawn": ["--data.videos=shapes:train", f"--data.count={arguments.clips}"]})
        (listing,) = (work / "drawn/data/clips").glob("*/data.txt")
        parts = halves(listing)
        given = lambda videos: [f"--data.videos={videos}", "--data.count=0"]
        for number in range(arguments.rounds):
            seconds["one"].append(encode({work / f"{number}-one": given(listing)}))
            seconds["two"].append(encode({work / f"{number}-two": given(listing)}, ranks=2))
            seconds["apart"].append(encode({work / f"{number}-apart-{i}": given(part) for i, part in enumerate(parts)}))
    row = {"clips": arguments.clips} | {side: statistics.median(values) for side, values in seconds.items()}
    row |= {"ratio": row["one"] / row["two"], "ratio_apart": row["one"] / row["apart"]}
    if arguments.json:
        print(json.dumps(row, indent=2))
    else:
        print("{clips} clips: one rank {one:.2f} s, two ranks {two:.2f} s, {ratio:.2f} times as fast; two runs apart {apart:.2f} s, "
              "{ratio_apart:.2f}".format(**row))


if __name__ == "__main__":
    main()
