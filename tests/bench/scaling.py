#!/usr/bin/env python3
"""Weak scaling of finetuning, simulated: what a step would take on N GPUs by the bytes that this program sends (measured:
`bench finetune` tells them a parameter) and stated speeds. Nothing here was run on a GPU.

    python tests/bench/scaling.py [--parameters P] [--clip-flops F] [--peak F] [--utilisation U] [--node-bandwidth B] ...

A step is one clip a GPU, forward and backward (and forward again: finetune.recompute = 1) in `clip-flops`, of which a quarter
is forward. Per parameter and rank, with N ranks and r = (N - 1) / N:

    none        gradients 8 r bytes (fp32, reduced and spread), beside backward
    optimizer   gradients 4 r beside backward, weights 2 r (bf16) beside the next forward
    parameters  weights 2 r beside forward and again beside backward, gradients 4 r beside backward

Within a node GPUs exchange at the node's bandwidth, beyond it each at the network's. What does not fit beside the computation is
waited for; so is the last bucket, a block's.
"""
import argparse

BYTES = {  # forward, backward
    "none": (0, 8), "optimizer": (2, 4), "parameters": (2, 6)}


def step(options, sharding, gpus):
    bandwidth = options.node_bandwidth if gpus <= options.node else options.network_bandwidth
    compute = options.clip_flops / (options.peak * options.utilisation)
    others = (gpus - 1) / gpus
    forward, backward = (others * options.parameters * count / bandwidth for count in BYTES[sharding])
    last = others * options.parameters / options.blocks * BYTES[sharding][1] / bandwidth
    return max(compute / 4, forward) + max(compute * 3 / 4, backward) + last, compute


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=1.43e9, help="Wan2.1 1.3B with feature maps")
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--clip-flops", type=float, required=True, help="of one clip's step, recomputation included (surgery plan)")
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of a GPU, dense bf16 (H100 SXM)")
    parser.add_argument("--utilisation", type=float, default=0.4)
    parser.add_argument("--node", type=int, default=8)
    parser.add_argument("--node-bandwidth", type=float, default=300e9, help="bytes/s of a GPU within a node")
    parser.add_argument("--network-bandwidth", type=float, default=40e9, help="bytes/s of a GPU between nodes")
    options = parser.parse_args()
    print("| GPUs | " + " | ".join(f"`{name}`" for name in BYTES) + " |\n|---|" + "---|" * len(BYTES))
    for gpus in (8, 16, 32, 64, 128, 256, 512):
        cells = []
        for name in BYTES:
            seconds, compute = step(options, name, gpus)
            cells.append(f"{seconds:.2f} s, {100 * compute / seconds:.0f} %")
        print(f"| {gpus} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
