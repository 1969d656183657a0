"""Sets of clips as they are published: filters, buckets, several sets at once, and a look at a set beforehand."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import h5py
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, CLIPS, command, environment, hashes  # noqa: E402

SMALLER = {  # than the small recipe: what comes before the clips hardly matters
    "trajectories.count": 1, "trajectories.held_out": 1, "trajectories.steps": 2,
    "distill.rates": "linear", "distill.group_timesteps": 2, "distill.updates_per_group": 1,
    "distill.held_out_timesteps": 1, "distill.blocks_per_unit": 10,
    "data.count": 0, "finetune.iterations": 5, "finetune.checkpoints": "", "finetune.global_batch": 4,
    "finetune.learning_rate": 1e-4,
}
LARGE, SMALL = (9, 64, 80), (5, 80, 64)  # frames, height, width
BUCKETS = "--data.buckets=" + ",".join("x".join(map(str, shape)) for shape in (LARGE, SMALL))
SHARDS = ["data/latents/*.h5", "data/latents/*.txt", "data/latents/index.json"]


def line_of(stage, directory, *options, ranks=1):
    settings = [f"--{key}={value}" for key, value in SMALLER.items()]
    line = command(directory, ranks, *settings, *options, stage=stage)
    return line if ranks > 1 else line[line.index(BINARY):]


def surgery(stage, directory, *options, ranks=1, code=0):
    result = subprocess.run(line_of(stage, directory, *options, ranks=ranks), env=environment(), capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A run up to its selection."""
    directory = tmp_path_factory.mktemp("selected") / "run"
    for stage in ["cache", "distill", "tables", "select"]:
        surgery(stage, directory)
    return directory


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two encoded sets of drawn clips: six large ones, five small ones."""
    folders = {}
    for name, (frames, height, width), count in [("large", LARGE, 6), ("small", SMALL, 5)]:
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        surgery("encode", folders[name], f"--data.frames={frames}", f"--data.height={height}",
                f"--data.width={width}", f"--data.count={count}")
    return folders


@pytest.fixture(scope="module")
def listing(drawn, tmp_path_factory):
    """The clips of both in one set, some annotated in full, some hardly; and records for the filters to drop."""
    folder = tmp_path_factory.mktemp("set")
    records = []
    for name, (frames, height, width) in [("large", LARGE), ("small", SMALL)]:
        for i, clip in enumerate(sorted(drawn[name].glob("data/clips/*/*.mp4"))):
            shutil.copy(clip, folder / f"{name}-{i}.mp4")
            record = {"path": f"{name}-{i}.mp4", "cap": [f"a {name} clip"], "aesthetic": 5.0}
            if i % 2:  # the others must be probed
                record.update(resolution={"height": height, "width": width}, fps=16, num_frames=frames)
            records.append(record)
    whole = (folder / "large-0.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[:len(whole) // 2])
    size = {"resolution": {"height": 64, "width": 80}, "fps": 16, "num_frames": 9}
    records += [
        {"path": "ugly.mp4", "cap": "x", "aesthetic": 3.5, **size},
        {"path": "unscored.mp4", "cap": "x", **size},
        {"path": "tiny.mp4", "cap": "x", "aesthetic": 5, "resolution": {"height": 32, "width": 80}},
        {"path": "long.mp4", "cap": "x", "aesthetic": 5, "duration": 100, "resolution": {"height": 64, "width": 80}},
        {"path": "wide.mp4", "cap": "x", "aesthetic": 5, **size, "resolution": {"height": 64, "width": 640}},
        {"path": "../elsewhere.mp4", "cap": "x", "aesthetic": 5, **size},
        {"path": "gone.mp4", "cap": "x", "aesthetic": 5},
        {"path": "broken.mp4", "cap": "x", "aesthetic": 5, **size},
    ]
    (folder / "clips.json").write_text(json.dumps(records))
    (folder / "data.txt").write_text(",clips.json\n")
    return folder / "data.txt"


def settings_of(listing):
    return [f"--data.videos={listing}", BUCKETS, "--data.least_height=64", "--data.least_width=64",
            "--data.least_aesthetic=4.75", "--data.most_aspect=2", "--data.most_seconds=10"]


DROPPED = {"ugly.mp4": "aesthetic score: 3.5", "unscored.mp4": "no aesthetic score", "tiny.mp4": "too small: 32x80",
           "long.mp4": "too long: 100", "wide.mp4": "aspect ratio: 64x640", "elsewhere.mp4": "outside its root"}


@pytest.fixture(scope="module")
def encoded(selected, listing, tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoded") / "run"
    shutil.copytree(selected, directory)
    result = surgery("encode", directory, *settings_of(listing), ranks=2)
    warnings = [line for line in result.stderr.splitlines() if "broken.mp4" in line and "left out" in line]
    assert len(warnings) == 1, "once is enough: " + result.stderr
    return directory


def test_videos_are_probed_once(encoded, listing, tmp_path):
    here = shutil.copytree(listing.parent, tmp_path / "set") / listing.name  # keeps the times
    runs = {name: pathlib.Path(shutil.copytree(encoded, tmp_path / name)) for name in ("same", "base")}
    for run in runs.values():
        kept = run / "data/probes.tsv"
        first, *lines = kept.read_text().splitlines()
        fields = [line.replace(str(listing.parent), str(here.parent)).split("\t") for line in lines]
        by_name = {pathlib.Path(line[0]).name: line for line in fields}
        assert set(by_name) == {f"{name}-{i}.mp4" for name in ("large", "small") for i in (0, 2, 4)}
        assert by_name["large-0.mp4"][3:5] == [str(LARGE[2]), str(LARGE[1])]
        by_name["large-0.mp4"][4] = "70"  # what is kept is believed: so it shows that it was used
        kept.write_text("\n".join([first, *("\t".join(line) for line in fields), ""]))
    taller = [option.replace("least_height=64", "least_height=72") for option in settings_of(here)]

    def rejected_height(directory, *options):
        surgery("encode", directory, *taller, *options)
        rejects = (directory / "data/latents/latents.rejects.txt").read_text()
        (line,) = [line for line in rejects.splitlines() if line.startswith("large-0.mp4\t")]
        return line.split("too small: ")[1].split("x")[0]

    assert rejected_height(runs["same"]) == "70"
    assert rejected_height(tmp_path / "based", f"--run.base={runs['base']}") == "70"
    assert rejected_height(tmp_path / "alone") == "64"
    (here.parent / "large-0.mp4").touch()
    assert rejected_height(runs["same"]) == "64", "the file has changed since"


def test_clips_are_filtered_and_find_their_buckets(encoded, listing, tmp_path):
    shapes = {}
    for path in sorted(encoded.glob("data/latents/*.h5")):
        with h5py.File(path) as file:
            shapes[tuple(int(file.attrs[name]) for name in ("num_frames", "height", "width"))] = int(file.attrs["samples"])
    assert shapes == {LARGE: 6, SMALL: 5}
    lines = (encoded / "data/latents/latents.rejects.txt").read_text().splitlines()
    assert len(lines) == 6
    for name, reason in DROPPED.items():
        (line,) = [line for line in lines if name in line.split("\t")[0]]
        assert reason in line.split("\t")[1], line
    (rejects,) = [path for path in encoded.glob("data/latents/latents-*.rejects.txt")]
    gone, broken = rejects.read_text().splitlines()  # what cannot be read keeps its place in a shard
    assert gone.startswith("gone.mp4\t") and "no such video file" in gone and broken.startswith("broken.mp4\t")
    index = json.loads((encoded / "data/latents/index.json").read_text())
    assert "9x64x80,5x80x64" in index["choice"] and "aesthetic 4.75" in index["choice"]
    subset = index["subset"]
    assert (subset["rule"], subset["records"], subset["usable"], subset["taken"]) == ("least-key-1", 19, 13, 13)
    alone = tmp_path / "run"
    surgery("encode", alone, *settings_of(listing))
    assert hashes(alone, SHARDS) == hashes(encoded, SHARDS), "the ranks are no part of the result"


def test_a_choice_is_the_seeds_and_grows(listing, tmp_path):
    def taken(count, *options):
        directory = tmp_path / f"run-{count}-{len(options)}"
        surgery("encode", directory, *settings_of(listing), f"--data.count={count}", *options)
        ids = []
        for path in sorted(directory.glob("data/latents/*.h5")):
            with h5py.File(path) as file:
                if file.attrs["samples"]:
                    text, ends = bytes(file["meta/id/bytes"][:]), file["meta/id/offsets"][:]
                    ids += [text[a:b].decode() for a, b in zip(ends, ends[1:])]
        return set(ids), json.loads((directory / "data/latents/index.json").read_text())["subset"]["xxh128"]

    three, hash_of_three = taken(3)
    six, hash_of_six = taken(6)
    assert three < six and hash_of_three != hash_of_six
    assert taken(6, "--run.seed=1")[0] != six


def losses(directory):
    return [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()
            if '"finetune"' in line]


def kill_after(directory, iteration, *options):
    process = subprocess.Popen(line_of("finetune", directory, *options), env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    manifest, late = directory / f"finetune/step-{iteration:06d}/manifest.json", time.monotonic() + 100
    while not manifest.exists() and process.poll() is None and time.monotonic() < late:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert manifest.exists()


def test_finetuning_walks_the_buckets_alike_at_any_number_of_ranks(encoded, listing, tmp_path):
    runs = [pathlib.Path(shutil.copytree(encoded, tmp_path / name)) for name in ("one", "two", "killed")]
    said = surgery("finetune", runs[0], *settings_of(listing)).stdout
    assert "11 samples: 5 of 5x80x64, 6 of 9x64x80" in said
    surgery("finetune", runs[1], *settings_of(listing), ranks=2)
    kill_after(runs[2], 2, *settings_of(listing))
    assert len(losses(runs[2])) < 5, "killed too late to show anything"
    assert "continues after iteration" in surgery("finetune", runs[2], *settings_of(listing)).stdout
    assert len(losses(runs[0])) == 5 and len(set(losses(runs[0]))) == 5
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=2e-3)
    assert losses(runs[2])[-1] == losses(runs[0])[-1]
    refused = surgery("finetune", tmp_path / "one", *settings_of(listing), "--data.least_aesthetic=4", code=64).stderr
    assert "aesthetic 4.75" in refused and "run 'encode' again" in refused


def test_finetuning_mixes_sets_by_weight(selected, drawn, tmp_path):
    directory = pathlib.Path(shutil.copytree(selected, tmp_path / "run"))
    large, small = (drawn[name] / "data/latents" for name in ("large", "small"))
    options = [BUCKETS, "--finetune.iterations=2"]
    said = surgery("finetune", directory, *options, f"--data.shards={large}=1,{small}=3", ranks=2).stdout
    assert "11 samples" in said and len(losses(directory)) == 2
    refused = surgery("finetune", directory, *options, f"--data.shards={large}=3,{small}=1", code=64).stderr
    assert "step-" in refused and "other settings" in refused
    # A shape that no bucket names was not planned for.
    refused = surgery("finetune", directory, "--data.buckets=9x64x80", f"--data.shards={large},{small}", code=65).stderr
    assert "5x80x64" in refused and "data.buckets" in refused
    assert "encode" in surgery("finetune", directory, *options, f"--data.shards=own,{large}", code=74).stderr


def test_a_set_that_grew_or_shrank_since_the_checkpoint_is_refused(selected, drawn, tmp_path):
    directory = pathlib.Path(shutil.copytree(selected, tmp_path / "run"))
    frames, height, width = LARGE
    for count in (5, 7):
        surgery("encode", tmp_path / f"of-{count}", f"--data.frames={frames}", f"--data.height={height}", f"--data.width={width}",
                f"--data.count={count}")
    folder = pathlib.Path(shutil.copytree(drawn["large"] / "data/latents", tmp_path / "set"))
    options = [f"--data.shards={folder}", BUCKETS, "--finetune.save_every=1"]
    surgery("finetune", directory, *options, "--finetune.iterations=1")
    kept = hashes(directory, ["finetune/step-000001/*"])
    assert kept
    for count in (5, 7):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / f"of-{count}/data/latents", folder)
        assert "made with other settings, data or student" in surgery("finetune", directory, *options, code=64).stderr
    shutil.rmtree(folder)
    shutil.copytree(drawn["large"] / "data/latents", folder)
    shard = next(folder.glob("*.h5"))
    aside = shard.rename(tmp_path / "aside")
    assert shard.name in surgery("finetune", directory, *options, code=74).stderr
    assert hashes(directory, ["finetune/step-000001/*"]) == kept
    aside.rename(shard)
    assert "continues after iteration 1" in surgery("finetune", directory, *options).stdout


def check(listing, folder, *options, ranks=1, code=0):
    line = [BINARY, "encode", "--check", f"--data.videos={listing}", "--data.count=0", *options]
    if ranks > 1:
        whole = command(folder, ranks)
        line = whole[:whole.index(BINARY)] + line
    result = subprocess.run(line, env=environment(), cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-2000:]
    return result


def rows(text):
    return {" ".join(line.split()[:-1]): int(line.split()[-1]) for line in text.splitlines()
            if line[:1] in ("r", "u", " ") and line.split() and line.split()[-1].isdigit()}


def test_a_set_is_checked_without_a_model(listing, tmp_path):
    options = settings_of(listing)[1:]
    found = rows(check(listing, tmp_path, *options).stdout)
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    assert found["records"] == 19 and found["left out: missing file"] == 1
    assert found["left out: bad record"] == 1 and found["left out: too small"] == 1
    whole = check(listing, tmp_path, *options, "--decode", f"--output={tmp_path}/one.txt")
    found = rows(whole.stdout)
    assert found["usable clips"] == 11 and found["of 9x64x80"] == 6 and found["of 5x80x64"] == 5
    assert found["left out: unreadable file"] == 1 and "broken.mp4" in whole.stdout
    for name, reason in DROPPED.items():
        assert any(name in line and reason in line for line in whole.stdout.splitlines()), name
    check(listing, tmp_path, *options, "--decode", f"--output={tmp_path}/two.txt", ranks=2)
    assert (tmp_path / "one.txt").read_text() == (tmp_path / "two.txt").read_text()
    assert len((tmp_path / "one.txt").read_text().splitlines()) == 8
    assert rows(check(listing, tmp_path, *options, "--data.least_seconds=9", code=65).stdout)["usable clips"] == 0
    assert "go with --check" in surgery("encode", tmp_path / "run", f"--output={tmp_path}/x", code=64).stderr
    assert "are drawn" in check("shapes:train", tmp_path, code=64).stderr


@pytest.mark.skipif(not (CLIPS / "data.txt").exists(), reason="the real clips are not here")
def test_real_clips_find_their_buckets(tmp_path):
    found = rows(check(CLIPS / "data.txt", tmp_path, "--decode",
                       "--data.buckets=81x480x832,49x144x176,81x272x640,25x480x832").stdout)
    records = json.loads((CLIPS / "clips.json").read_text())
    assert found["usable clips"] == found["records"] == len(records)
    assert found["of 49x144x176"] >= 1, "the small clip of 4 s is neither enlarged nor too short"
    assert found["of 81x480x832"] >= 2 and found["of 25x480x832"] == 1
