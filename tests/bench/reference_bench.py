#!/usr/bin/env python3
"""All that is timed against the reference implementations, at Wan2.1's sizes, one after the other: what `surgery bench reference` runs.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/reference_bench.py [--threads N]

Prints a JSON list of rows: name, seconds, peer, peer_seconds, goal (of peer_seconds / seconds), note. Takes about half an hour on two
cores. Each part is a program of its own beside this one.
"""
import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SIZES = HERE.parents[1] / "configs/models/wan2.1-t2v-1.3b"


def part(name, *arguments):
    command = [sys.executable, HERE / f"{name}_bench.py", "--json", *arguments]
    return json.loads(subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout)


def row(name, ours, peer, theirs, ours_gib, theirs_gib):
    return {"name": name, "seconds": ours, "peer": peer, "peer_seconds": theirs, "goal": 1.0,
            "note": f"peak {ours_gib:.2f} GiB against {theirs_gib:.2f}"}


def rows(threads):
    for found in part("transformer", "--model", SIZES, "--layers", 4, "--batch", 1, "--threads", threads):
        yield row(f"transformer {found['what']}", found["ours"], "diffusers", found["diffusers"], found["ours_gib"],
                  found["diffusers_gib"])
    for found in part("text", "--threads", threads):
        yield row(f"umT5 {found['case']}", found["ours"], "transformers", found["transformers"], found["ours_gib"],
                  found["transformers_gib"])
    for found in part("vae", "--case", "Wan2.1, 17x240x416", "--threads", threads):
        yield row(f"{found['direction']} 17x240x416", found["ours"], "diffusers", found["diffusers"], found["ours_gib"],
                  found["diffusers_gib"])
    found = part("encode")
    yield {"name": f"encode, {found['clips']} clips, two ranks", "seconds": found["two"], "peer": "one rank",
           "peer_seconds": found["one"], "goal": 1.8,
           "note": f"two runs that know nothing of each other: {found['ratio_apart']:.2f}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    print(json.dumps(list(rows(parser.parse_args().threads)), indent=1))


if __name__ == "__main__":
    main()
