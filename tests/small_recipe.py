"""The whole recipe at a reduced size, run as its user does; what several tests start from."""

import hashlib
import json
import os
import pathlib
import subprocess

SOURCE = pathlib.Path(os.environ.get("SURGERY_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
BINARY = os.environ.get("SURGERY_BINARY", str(SOURCE / "build/release/bin/surgery"))
TEACHER = os.environ.get("SURGERY_TEACHER", str(SOURCE / "datasets/shapes/teacher"))
CLIPS = SOURCE.parent / "shared/data/clips"  # real clips; tests that want them are skipped without

SETTINGS = {
    "model.path": TEACHER,
    "run.threads": 1,
    "trajectories.count": 6, "trajectories.held_out": 1, "trajectories.steps": 12,
    "trajectories.frames": 5, "trajectories.height": 64, "trajectories.width": 80,
    "distill.rates": "2,4,linear", "distill.group_timesteps": 3, "distill.updates_per_group": 2,
    "distill.commit_every": 1, "distill.held_out_timesteps": 2, "distill.blocks_per_unit": 3,
    "select.budget": "0.7",
    "data.count": 6, "data.frames": 5, "data.height": 64, "data.width": 80,
    "finetune.iterations": 8, "finetune.checkpoints": "2,4", "finetune.save_every": 1, "finetune.global_batch": 4,
    "generate.count": 2, "generate.steps": 2,
    "generate.frames": 5, "generate.height": 64, "generate.width": 80,
}

# Artifacts whose bytes must depend neither on the number of ranks nor on interruptions.
IDENTICAL = ["cache/*.h5", "distill/*.h5", "tables.csv", "tables.h5", "selection.json", "data/latents/*.h5"]


def command(directory, ranks, *options, stage="run"):
    settings = [f"--{key}={value}" for key, value in SETTINGS.items()]
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1",
            "-n", str(ranks), BINARY, stage, f"--run.directory={directory}", *settings, *options]


def environment():
    return dict(os.environ, OMP_NUM_THREADS="1", OMPI_MCA_btl_vader_single_copy_mechanism="none")


def run(directory, ranks, *options, stage="run"):
    result = subprocess.run(command(directory, ranks, *options, stage=stage), env=environment(), capture_output=True,
                            text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def finetuned(directory, iteration):
    """name -> array of a finetuning's checkpoint: parameter.NAME, exp_avg.NAME, exp_avg_sq.NAME and average.NAME, put together from the ranks'
    files."""
    import numpy
    from safetensors.numpy import load_file
    folder = directory / f"finetune/step-{iteration:06d}"
    manifest = json.loads((folder / "manifest.json").read_text())
    world = manifest["metadata"]["world"]
    assert len(manifest["files"]) == world
    parts = [load_file(folder / f"state-{rank}-of-{world}.safetensors") for rank in range(world)]
    state = {}
    for number, bucket in enumerate(manifest["metadata"]["buckets"]):
        for what in sorted({name.split(".")[1] for name in parts[0]}):
            flat = numpy.concatenate([part[f"bucket-{number:03d}.{what}"] for part in parts])
            assert flat.shape == (bucket["size"],)
            for place in bucket["parameters"]:
                count = int(numpy.prod(place["shape"]))
                state[f"{what}.{place['name']}"] = flat[place["offset"]:place["offset"] + count].reshape(place["shape"])
    return state


def hashes(directory, patterns):
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in patterns for path in sorted(directory.glob(pattern))}


def write_configuration(path, **changes):
    """The same settings as a recipe's file; changes as section__key=value."""
    settings = {**SETTINGS, **{name.replace("__", "."): value for name, value in changes.items()}}
    sections = {}
    for name, value in settings.items():
        section, key = name.split(".")
        sections.setdefault(section, []).append(f"{key} = {value}")
    path.write_text("".join(f"[{section}]\n" + "\n".join(lines) + "\n\n" for section, lines in sections.items()))
