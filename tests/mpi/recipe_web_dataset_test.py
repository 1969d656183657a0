"""Training on sets of finished latents: tar shards as they are published, and the shards that a teacher generates.

The tars are written by Python's tarfile and torch.save, as the programs that publish such sets write them.
"""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import h5py
import numpy
import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, TEACHER, command, environment, hashes, run  # noqa: E402

USAGE, DATA = 64, 65
SHAPE, TEXT = (16, 2, 8, 10), (32, 64)  # of the small recipe's clips and text
SMALLER = [f"--{key}={value}" for key, value in {
    "trajectories.count": 2, "trajectories.steps": 4, "distill.rates": "4,linear", "distill.group_timesteps": 2,
    "distill.updates_per_group": 1, "distill.held_out_timesteps": 1, "distill.blocks_per_unit": 5, "data.count": 0,
    "finetune.iterations": 2, "finetune.checkpoints": 1, "finetune.global_batch": 2, "generate.count": 1}.items()]


def latents_of(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).bfloat16()


def rows_of(seed, real=7):
    rows = torch.zeros(TEXT)
    rows[:real] = torch.randn(real, TEXT[1], generator=torch.Generator().manual_seed(seed + 1000))
    return rows.bfloat16()


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def members(key, seed, **changes):
    content = {"latent.pt": saved(latents_of(seed)), "embed.pt": saved(rows_of(seed)), "prompt.txt": f"prompt {seed}".encode()}
    content.update({name.replace("_", "."): value for name, value in changes.items()})
    return [(f"{key}.{name}", value) for name, value in content.items() if value is not None]


def write_tar(path, files, dialect=tarfile.PAX_FORMAT):
    """Member by member in append mode, as the published shards are made."""
    for name, content in files:
        with tarfile.open(path, "a", format=dialect) as archive:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


BAD = {  # key -> what is wrong with it, the reason that is told
    "nan": (dict(latent_pt=saved(latents_of(0) * float("nan"))), "not finite"),
    "shape": (dict(latent_pt=saved(latents_of(0)[:, :1])), "latent: has shape 16x1x8x10"),
    "dtype": (dict(latent_pt=saved(latents_of(0).long())), "latent: its numbers are Long"),
    "pickle": (dict(latent_pt=saved(pathlib.PurePosixPath("x"))), "wants to import"),
    "dict": (dict(latent_pt=saved({"latent": latents_of(0)})), "holds a dict, not one tensor"),
    "cut": (dict(latent_pt=saved(latents_of(0))[:-100]), "latent: "),
    "text": (dict(embed_pt=saved(rows_of(0)[:, :-1])), "embed: has shape 32x63"),
    "empty": (dict(embed_pt=saved(rows_of(0) * 0)), "all its rows are zero"),
    "prompt": (dict(prompt_txt=b"\xff"), "prompt: is not UTF-8"),
    "alone": (dict(embed_pt=None, prompt_txt=None), "has no prompt.txt"),
}


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Three shards, each in another dialect with names that it has to extend; good samples 0..8, and one bad of each kind."""
    folder = tmp_path_factory.mktemp("tars")
    for i, (dialect, length) in enumerate([(tarfile.USTAR_FORMAT, 60), (tarfile.GNU_FORMAT, 150), (tarfile.PAX_FORMAT, 150)]):
        files = []
        for j in range(3):
            files += members("d" * length + "/" + "e" * 50 + f"/{j:09d}", 3 * i + j)
        if i == 1:
            for key, (changes, _) in BAD.items():
                files += members(key, 100, **changes)
        write_tar(folder / f"shard_{i:06d}.tar", files, dialect)
    (folder / "shard_000003.tar.tmp").write_bytes(b"half")
    return folder


@pytest.fixture(scope="module")
def finished(tars, tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    run(directory, 2, *SMALLER, f"--data.videos={tars}")
    return directory


def stage(name, directory, *options, ranks=1):
    line = command(directory, ranks, *SMALLER, *map(str, options), stage=name)
    return subprocess.run(line if ranks > 1 else line[line.index(BINARY):], env=environment(), capture_output=True, text=True,
                          timeout=120)


def done(result):
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def refused(result, code, *words):
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-2000:]
    for word in words:
        assert str(word) in result.stderr, (word, result.stderr[-2000:])


def kill_when(line, pattern, directory, after):
    """Kills the last rank as soon as `after` files match."""
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(directory.glob(pattern))) < after:
        assert process.poll() is None, f"ended before {after} of {pattern} appeared"
        time.sleep(0.001)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()  # at once: no fork
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(timeout=60) != 0


def bfloat16(raw):
    return torch.from_numpy(numpy.asarray(raw).astype(numpy.float32)).bfloat16()


def test_every_good_sample_is_trained_on_and_every_bad_one_named(tars, finished):
    shards = sorted((finished / "data/latents").glob("*.h5"))
    assert [shard.name for shard in shards] == [f"latents-{i:05d}-of-00003.h5" for i in range(3)]
    for i, path in enumerate(shards):
        with h5py.File(path) as shard:
            assert shard["latents"].shape == (3, *SHAPE)
            assert list(shard["text/offsets"]) == [0, 7, 14, 21], "rows of zeros are not kept"
            for j in range(3):
                assert torch.equal(bfloat16(shard["latents"][j]), latents_of(3 * i + j))
                assert torch.equal(bfloat16(shard["text/data"][7 * j:7 * j + 7]), rows_of(3 * i + j)[:7])
            assert bytes(shard["prompt/bytes"][()]) == "".join(f"prompt {3 * i + j}" for j in range(3)).encode()
    rejects = shards[1].with_suffix(".rejects.txt").read_text().splitlines()
    assert len(rejects) == len(BAD)
    for line, (key, (_, reason)) in zip(rejects, BAD.items()):
        assert line.startswith(f"shard_000001.tar/{key}\t") and reason in line, line
    assert not shards[0].with_suffix(".rejects.txt").exists()
    index = json.loads((finished / "data/latents/index.json").read_text())
    assert index["source"] == str(tars) and [shard["clips"] for shard in index["shards"]] == [3, 3 + len(BAD), 3]
    losses = [json.loads(line)["loss"] for line in (finished / "metrics.jsonl").read_text().splitlines() if '"finetune"' in line]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    shown = done(subprocess.run([BINARY, "inspect", "--json", tars / "shard_000001.tar"], env=environment(), text=True,
                                capture_output=True))
    assert json.loads(shown)["samples"] == 3 + len(BAD)


def test_only_what_has_changed_is_converted_again(tars, finished, tmp_path):
    directory, videos = tmp_path / "run", tmp_path / "tars"
    shutil.copytree(tars, videos)  # keeps the times
    options = [f"--data.videos={videos}"]
    done(stage("encode", directory, *options))
    latents = directory / "data/latents"
    same = [hashes(run_folder, ["data/latents/*.rejects.txt"]) for run_folder in (directory, finished)]
    assert same[0] == same[1] and len(same[0]) == 1
    for path in latents.glob("*.h5"):  # one rank gives what two gave; the name of the source apart
        with h5py.File(path) as here, h5py.File(finished / "data/latents" / path.name) as there:
            assert here.attrs["fingerprint"] == there.attrs["fingerprint"]
            for name in ("latents", "text/data", "prompt/bytes", "meta/xxh128"):
                assert numpy.array_equal(here[name][()], there[name][()])
    before = hashes(directory, ["data/latents/*"])
    done(stage("encode", directory, *options, ranks=2))
    assert hashes(directory, ["data/latents/*"]) == before, "nothing was to be made"
    (videos / "shard_000002.tar").unlink()
    write_tar(videos / "shard_000002.tar", members("new", 50))
    output = done(stage("encode", directory, *options))
    assert "encode: 1 made, 2 reused" in output, output
    after = hashes(directory, ["data/latents/*.h5"])
    assert [name for name in after if after[name] != before[name]] == ["data/latents/latents-00002-of-00003.h5"]
    done(stage("encode", directory, *options, "--data.count=4"))
    index = json.loads((latents / "index.json").read_text())
    assert [shard["clips"] for shard in index["shards"]] == [3, 1]
    assert sorted(path.name for path in latents.glob("*.h5")) == [f"latents-{i:05d}-of-00002.h5" for i in range(2)]


def test_a_killed_rank_loses_only_its_shard(tmp_path):
    directory, videos = tmp_path / "run", tmp_path / "tars"
    videos.mkdir()
    write_tar(videos / "shard_0000.tar", [file for i in range(160) for file in members(f"{i}", i)])
    for i in range(1, 240):  # enough that the kill comes before the end
        os.link(videos / "shard_0000.tar", videos / f"shard_{i:04d}.tar")
    options = [f"--data.videos={videos}"]
    line = command(directory, 2, *SMALLER, *options, stage="encode")
    kill_when(line, "data/latents/latents-*.h5", directory, 1)
    kept = {path: path.stat().st_mtime_ns for path in directory.glob("data/latents/latents-*.h5")}
    assert len(kept) < 240 and not (directory / "data/latents/index.json").exists()
    refused(stage("finetune", directory, *options), 74)
    done(stage("encode", directory, *options, ranks=2))
    assert len(list(directory.glob("data/latents/latents-*.h5"))) == 240
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished shards were made again"


def test_what_would_spoil_training_is_refused(tars, tmp_path):
    config = json.loads((pathlib.Path(TEACHER) / "vae/config.json").read_text())
    mean, deviation = (torch.tensor(config[name]).reshape(16, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    raw = tmp_path / "raw.tar"
    write_tar(raw, [file for i in range(4) for file in members(f"{i}", i, latent_pt=saved(latents_of(i) * deviation + mean))])
    refused(stage("encode", tmp_path / "run", f"--data.videos={raw}", ranks=2), DATA, raw, "not normalised")
    assert not list((tmp_path / "run").glob("data/latents/*.h5"))
    refused(stage("encode", tmp_path / "run", f"--data.videos={tars}", "--data.fps=24"), USAGE, "data.fps = 24")


def report_of(result):
    return done(result).rpartition("\nrecords ")[2]


def counts_of(report):
    lines = ("records " + report).splitlines()
    return {line[:40].strip(): int(line[40:]) for line in lines if line[40:].strip().isdigit()}


def test_a_set_of_latents_is_checked_without_a_model_of_its_own(tars, tmp_path):
    listed = [tmp_path / f"rejects-{ranks}" for ranks in (1, 2)]
    options = [f"--data.videos={tars}", f"--model.path={TEACHER}"]
    said = [report_of(stage("encode", tmp_path / "run", *options, "--check", f"--output={rejects}", ranks=ranks))
            for ranks, rejects in enumerate(listed, 1)]
    assert said[0] == said[1] and not (tmp_path / "run").exists()
    assert counts_of(said[0]) == {"records": 9 + len(BAD), "left out: bad sample": len(BAD), "usable clips": 9, "of 5x64x80": 9}
    lines = listed[0].read_text().splitlines()
    assert listed[1].read_text().splitlines() == lines and len(lines) == len(BAD)
    for line, (key, (_, reason)) in zip(lines, BAD.items()):
        assert line.startswith(f"shard_000001.tar/{key}\t") and reason in line, line
    broken = tmp_path / "broken"
    shutil.copytree(tars, broken)
    os.truncate(broken / "shard_000000.tar", 700)
    said = report_of(stage("encode", tmp_path / "run", f"--data.videos={broken}", f"--model.path={TEACHER}", "--check"))
    assert "left out: bad shard" in said and "shard_000000.tar" in said
    assert counts_of(said)["usable clips"] == 6


def test_a_damaged_shard_is_listed_and_the_rest_is_used(tars, finished, tmp_path):
    broken, directory = tmp_path / "broken", tmp_path / "run"
    shutil.copytree(tars, broken)
    shutil.copytree(finished, directory)
    shutil.rmtree(directory / "finetune")
    size = (broken / "shard_000002.tar").stat().st_size
    os.truncate(broken / "shard_000000.tar", 700)  # within the first member
    os.truncate(broken / "shard_000002.tar", size - 10240)  # the end, and what a record of tar's is filled up with
    options = [f"--data.videos={broken}"]
    done(stage("encode", directory, *options, ranks=2))
    index = json.loads((directory / "data/latents/index.json").read_text())
    with h5py.File(directory / "data/latents/latents-00002-of-00003.h5") as shard:
        used = len(shard["latents"])
    assert 0 < used <= 3
    counts = [entry["clips"] for entry in index["shards"]]
    assert counts[:2] == [1, 3 + len(BAD)] and counts[2] >= used + 1
    (line,) = (directory / "data/latents/latents-00000-of-00003.rejects.txt").read_text().splitlines()
    assert line.startswith("shard_000000.tar\t") and "truncated" in line
    done(stage("finetune", directory, *options, ranks=2))
    shutil.copy2(tars / "shard_000000.tar", broken / "shard_000000.tar")  # loaded down again
    output = done(stage("encode", directory, *options))
    assert "encode: 1 made, 2 reused" in output, output
    for path in broken.glob("*.tar"):
        os.truncate(path, 700)
    refused(stage("encode", tmp_path / "none", *options), DATA, "shard_000000.tar", "truncated")


def test_videos_in_tar_shards_are_unpacked_and_encoded(tmp_path):
    drawn = tmp_path / "drawn"
    done(stage("encode", drawn, "--data.videos=shapes:train", "--data.count=5"))
    (listing,) = drawn.glob("data/clips/*/data.txt")
    records = json.loads((listing.parent / "shapes.json").read_text())
    films = [(listing.parent / record["path"]).read_bytes() for record in records]
    captions = [record["cap"][0] for record in records]
    tars = tmp_path / "tars"
    tars.mkdir()
    write_tar(tars / "a.tar", [("0.mp4", films[0]), ("0.txt", captions[0].encode() + b"\n"), ("0.jpg", b"..."),
                               ("x/1.json", json.dumps({"caption": captions[1]}).encode()), ("x/1.mp4", films[1])])
    write_tar(tars / "b.tar", [("2.prompt.txt", captions[2].encode()), ("2.mp4", films[2]),
                               ("3.mp4", films[3]),  # nobody says what it shows
                               ("4.mp4", films[4][:200]), ("4.txt", captions[4].encode())])
    write_tar(tars / "c.tar", [("5.mp4", films[0])])
    os.truncate(tars / "c.tar", 1000)
    directory = tmp_path / "run"
    done(stage("encode", directory, f"--data.videos={tars}", ranks=2))
    with h5py.File(drawn / "data/latents/latents-00000-of-00001.h5") as whole, \
            h5py.File(directory / "data/latents/latents-00000-of-00001.h5") as shard:
        assert torch.equal(bfloat16(shard["latents"][()]), bfloat16(whole["latents"][:3]))
        assert bytes(shard["prompt/bytes"][()]).decode() == "".join(captions[:3])
    left_out = "".join(path.read_text() for path in directory.glob("data/latents/*rejects.txt"))
    assert "b/3.mp4" in left_out and "b/4.mp4" in left_out and "c.tar\t" in left_out and left_out.count("\n") == 3
    before = hashes(directory, ["data/latents/*"])
    times = {path: path.stat().st_mtime_ns for path in directory.glob("data/clips/*/*/*.mp4")}
    assert "nothing to make, 1 reused" in done(stage("encode", directory, f"--data.videos={tars}"))
    assert hashes(directory, ["data/latents/*"]) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times, "was unpacked again"
    refused(stage("encode", directory, f"--data.videos={tars}", "--check"), USAGE, "unpacked", "listing")


SYNTHETIC = ["--generate.count=22", "--generate.samples=3"]  # 66 clips: two shards


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synthetic") / "run"
    done(stage("generate", directory, "--to=shards", *SYNTHETIC, ranks=2))
    return directory


def test_the_teachers_clips_become_a_set(synthetic):
    folder = synthetic / "synthetic"
    assert sorted(path.name for path in folder.iterdir()) == ["index.json"] + [f"synthetic-{i:05d}-of-00002.h5" for i in (0, 1)]
    assert [shard["clips"] for shard in json.loads((folder / "index.json").read_text())["shards"]] == [64, 2]
    assert not list(synthetic.glob("videos*")) and not list(synthetic.glob("distill/*"))
    with h5py.File(folder / "synthetic-00001-of-00002.h5") as shard, \
            h5py.File(synthetic / "samples/teacher/sample-000065.h5") as sample:
        assert torch.equal(bfloat16(shard["latents"][1]), torch.from_numpy(sample["latents"][()]).bfloat16())
        assert bytes(shard["prompt/bytes"][()]).endswith(bytes(sample["prompt"][()]))
    assert "nothing to make, 2 reused" in done(stage("generate", synthetic, "--to=shards", *SYNTHETIC))


def test_a_killed_set_continues_with_other_ranks_to_the_same_bits(synthetic, tmp_path):
    directory, output = tmp_path / "run", tmp_path / "set"
    options = ["--to=shards", f"--output={output}", *SYNTHETIC]
    kill_when(command(directory, 2, *SMALLER, *options, stage="generate"), "samples/teacher/sample-*.h5", directory, 5)
    kept = {path: path.stat().st_mtime_ns for path in directory.glob("samples/teacher/sample-*.h5")}
    assert not output.exists() or not list(output.glob("*.h5"))
    done(stage("generate", directory, *options))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished clips were made again"
    assert hashes(output, ["*"]) == hashes(synthetic / "synthetic", ["*"])


def test_finetuning_takes_the_teachers_set(synthetic, finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory, ignore=shutil.ignore_patterns("finetune", "data"))
    done(stage("finetune", directory, f"--data.shards={synthetic / 'synthetic'}", ranks=2))
    assert (directory / "finetune/step-000002/manifest.json").exists()


def test_sets_are_never_mixed_or_overwritten(synthetic, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(synthetic, directory)
    before = hashes(directory, ["synthetic/*"])
    refused(stage("generate", directory, "--to=shards", "--generate.count=2"), USAGE, "choose another --output")
    shutil.rmtree(directory / "samples")
    refused(stage("generate", directory, "--to=shards", *SYNTHETIC, "--generate.steps=3"), USAGE, "other settings")
    assert hashes(directory, ["synthetic/*"]) == before
    refused(stage("generate", directory, "--to=webm"), USAGE, "'webm' is none of videos, shards")
    refused(stage("generate", directory, "--output=x"), USAGE, "--output goes with --to shards")
