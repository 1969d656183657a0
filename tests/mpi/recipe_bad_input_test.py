"""Bad input, as its user meets it: the exit code, a message that names the file and its fault, and no artifact harmed.

What a reader does with each kind of damage is tested next to the reader; here the program is run, at two ranks where
they could disagree, on a small finished run and on copies of the shipped teacher with one file spoilt.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy
import pytest
from safetensors.numpy import save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, TEACHER, command, environment  # noqa: E402

USAGE, DATA, IO = 64, 65, 74
SMALLER = {  # than the small recipe: what is made here is only looked at
    "trajectories.count": 2, "trajectories.held_out": 1, "trajectories.steps": 4,
    "distill.rates": "4,linear", "distill.group_timesteps": 2, "distill.updates_per_group": 1,
    "distill.held_out_timesteps": 1, "distill.blocks_per_unit": 5,
    "data.count": 3, "finetune.iterations": 2, "finetune.checkpoints": "1", "finetune.global_batch": 2,
    "generate.count": 1,
}
NOTES = ["config.cfg", "ledger.jsonl", "metrics.jsonl", "report.html"]  # kept by every call


def surgery(*arguments, **variables):
    """The program without a launcher, as for the commands that are no recipe's stage."""
    return subprocess.run([BINARY, *map(str, arguments)], env={**environment(), **variables}, capture_output=True,
                          text=True, errors="replace", timeout=60)


def stage(name, directory, *options, ranks=1):
    settings = [f"--{key}={value}" for key, value in SMALLER.items()]
    line = command(directory, ranks, *settings, *map(str, options), stage=name)
    return subprocess.run(line if ranks > 1 else line[line.index(BINARY):], env=environment(), capture_output=True,
                          text=True, errors="replace", timeout=300)


def refused(result, code, *words, lines=1):
    """The code, all words in one message, and that message from `lines` ranks (at most: the first ends the others)."""
    everything = result.stdout[-2000:] + result.stderr[-4000:]
    assert result.returncode == code, everything
    said = re.findall(r"(?m)^rank \d+, [^:]+: .*(?:\n  .*)*", result.stderr)
    assert 1 <= len(said) <= lines, everything
    for word in words:
        assert all(str(word) in message for message in said), (word, everything)


def artifacts(directory):
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*")) if path.is_file() and path.name not in NOTES and path.parent.name != "events"}


# ---- how files are spoilt

def missing(path):
    path.unlink()


def truncated(path):
    replace(path, path.read_bytes()[:path.stat().st_size * 2 // 3])


def damaged(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    replace(path, bytes(data))


def damaged_header(path):
    data = bytearray(path.read_bytes())
    data[9] ^= 0xFF
    replace(path, bytes(data))


def foreign(path):
    replace(path, b"%PDF-1.7 this is quite another kind of file, and longer than any of the signatures looked for\n")


def replace(path, data):
    path.unlink()  # it may be a link to a file that must stay as it is
    path.write_bytes(data)


def edit_json(path, **changes):
    replace(path, json.dumps({**json.loads(path.read_text()), **changes}).encode())


def edit_header(path, change):
    """Rewrites the header of a safetensors file, its data untouched."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    change(header)
    text = json.dumps(header).encode()
    replace(path, len(text).to_bytes(8, "little") + text + data[8 + length:])


def transpose(name):
    def change(header):
        assert header[name]["shape"][0] != header[name]["shape"][1]
        header[name]["shape"][:2] = header[name]["shape"][1::-1]
    return lambda path: edit_header(path, change)


# ---- what is spoilt

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    result = stage("run", directory, ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    return directory


@pytest.fixture
def run(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def model(tmp_path):
    return pathlib.Path(shutil.copytree(TEACHER, tmp_path / "model", copy_function=os.symlink))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    text_dim = json.loads(pathlib.Path(TEACHER, "transformer/config.json").read_text())["text_dim"]
    ones = lambda *shape: numpy.ones(shape, numpy.float32)
    save_file({"hidden_states": ones(1, 16, 1, 2, 2), "timestep": ones(1),
               "encoder_hidden_states": ones(1, 2, text_dim)}, folder / "transformer")
    save_file({"latents": ones(1, 16, 1, 2, 2)}, folder / "vae")
    for frames in [0, 2]:
        save_file({"video": ones(1, 3, frames, 16, 16)}, folder / f"frames-{frames}")
    return folder


def forward(model, component, inputs):
    line = {"transformer": ["transformer", f"--input={inputs / 'transformer'}"],
            "vae": ["vae-decode", f"--input={inputs / 'vae'}"]}.get(component, ["text", "--prompt=a red square"])
    return surgery("forward", f"--model={model}", "--component", *line, f"--output={model / 'output'}")


CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
MODEL_FILES = [
    ("transformer", CONFIG, missing, IO, "cannot be read"),
    ("transformer", CONFIG, truncated, DATA, "not valid JSON"),
    ("transformer", CONFIG, lambda path: edit_json(path, ffn_dim=-1), DATA, "ffn_dim must be a positive integer"),
    ("transformer", CONFIG, lambda path: edit_json(path, num_layers=10**12), DATA, "num_layers must be at most"),
    ("transformer", CONFIG, lambda path: replace(path, pathlib.Path(TEACHER, "vae/config.json").read_bytes()), DATA,
     'must be "WanTransformer3DModel"'),
    ("transformer", WEIGHTS, missing, IO, "neither"),
    ("transformer", WEIGHTS, truncated, DATA, "truncated"),
    ("transformer", WEIGHTS, damaged_header, DATA, "not valid JSON"),
    ("transformer", WEIGHTS, foreign, DATA, "not safetensors"),
    ("transformer", WEIGHTS, transpose("blocks.3.ffn.net.2.weight"), DATA, "blocks.3.ffn.net.2.weight is ["),
    ("vae", CONFIG, missing, IO, "cannot be read"),
    ("vae", CONFIG, truncated, DATA, "not valid JSON"),
    ("vae", CONFIG, foreign, DATA, "not valid JSON"),
    ("vae", CONFIG, lambda path: edit_json(path, z_dim="sixteen"), DATA, '"z_dim" is "sixteen"'),
    ("vae", WEIGHTS, missing, IO, "neither"),
    ("vae", WEIGHTS, truncated, DATA, "truncated"),
    ("vae", WEIGHTS, damaged_header, DATA, "not valid JSON"),
    ("vae", WEIGHTS, foreign, DATA, "not safetensors"),
    ("vae", WEIGHTS, transpose("decoder.conv_out.weight"), DATA, "decoder.conv_out.weight"),
    ("text_encoder", CONFIG, missing, IO, "cannot be read"),
    ("text_encoder", CONFIG, truncated, DATA, "not valid JSON"),
    ("text_encoder", CONFIG, lambda path: edit_json(path, num_layers=2**31 - 1), DATA, "num_layers is"),
    ("text_encoder", CONFIG, lambda path: edit_json(path, model_type="t5"), DATA, "only umt5 is built"),
    ("text_encoder", "model.safetensors", missing, IO, "neither"),
    ("text_encoder", "model.safetensors", truncated, DATA, "truncated"),
    ("text_encoder", "model.safetensors", damaged_header, DATA, "not valid JSON"),
    ("text_encoder", "model.safetensors", foreign, DATA, "not safetensors"),
    ("text_encoder", "model.safetensors", transpose("shared.weight"), DATA, 'shared.weight is ['),
    ("tokenizer", "spiece.model", missing, IO, "cannot be read"),
    ("tokenizer", "spiece.model", truncated, DATA, "not a SentencePiece model"),
    ("tokenizer", "spiece.model", lambda path: replace(path, b""), DATA, "not a SentencePiece model"),
    ("tokenizer", "spiece.model", foreign, DATA, "not a SentencePiece model"),
    ("tokenizer", "tokenizer_config.json", truncated, DATA, "not valid JSON"),
]


@pytest.mark.parametrize("component,name,spoil,code,words", MODEL_FILES)
def test_a_models_file_is_named_with_its_fault(model, inputs, component, name, spoil, code, words):
    spoil(model / component / name)
    # Weights may lie in several files: where all are missing, or do not fit the sizes, their folder is named.
    folder = words == "neither" or ".weight" in words
    refused(forward(model, component, inputs), code, model / component / ("" if folder else name), words)
    assert not (model / "output").exists()


def test_the_spoilt_models_differ_from_one_that_works(model, inputs):
    for component in ["transformer", "vae", "text_encoder"]:
        assert forward(model, component, inputs).returncode == 0


def test_sizes_alone_are_checked_by_plan(model):
    edit_json(model / "transformer/config.json", num_layers=10**12)
    refused(surgery("plan", f"--model.path={model}", "--rate=1e9"), DATA, "config.json", "num_layers must be at most")


def test_weights_that_break_off_fail_all_ranks_with_one_message(model, tmp_path):
    truncated(model / "text_encoder/model.safetensors")
    directory = tmp_path / "run"
    refused(stage("cache", directory, f"--model.path={model}", ranks=2), DATA,
            model / "text_encoder/model.safetensors", "truncated")
    assert artifacts(directory) == {}


def test_a_model_without_its_parts_is_refused(model, inputs, tmp_path):
    original = tmp_path / "Wan2.1-T2V-1.3B"  # another model's sizes, and nothing but a transformer
    original.mkdir()
    (original / "config.json").write_text(
        '{"_class_name": "WanModel", "dim": 1536, "ffn_dim": 8960, "freq_dim": 256, "num_heads": 12, "num_layers": 30}')
    shutil.copy(model / "transformer" / WEIGHTS, original / WEIGHTS)
    refused(forward(original, "transformer", inputs), DATA, original / WEIGHTS, "with config.json",
            "blocks 10-29: ", "missing (540)")
    directory = tmp_path / "run"
    refused(stage("cache", directory, f"--model.path={original / WEIGHTS}"), USAGE, "model.text_encoder is not set",
            "is one file")
    refused(stage("cache", directory, f"--model.path={original}", ranks=2), DATA, original,
            "holds no weights of a text encoder", f"{WEIGHTS} holds the tensors of a transformer")
    assert artifacts(directory) == {}

    def rename(header):
        header["blocks.0.self_attn.q.weight"] = header.pop("blocks.0.attn1.to_q.weight")
    edit_header(model / "transformer" / WEIGHTS, rename)
    refused(forward(model, "transformer", inputs), DATA, model / "transformer",
            "blocks.0.attn1.to_q.weight missing", "blocks.0.self_attn.q.weight unexpected")


# ---- a run's own artifacts

@pytest.mark.parametrize("spoil", [missing, truncated, damaged, foreign])
def test_a_spoilt_artifact_is_set_aside_and_made_again(finished, run, spoil):
    victims = [run / name for name in ["cache/trajectory-000001.h5", "distill/block-03.h5",
                                       "data/latents/latents-00000-of-00001.h5", "evaluation.json"]]
    for victim in victims:
        spoil(victim) if victim.suffix == ".h5" or spoil is not damaged else foreign(victim)
    spoilt = {victim: victim.read_bytes() for victim in victims if victim.exists()}
    result = stage("run", run, ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    kept = {f"{victim.relative_to(run)}.bad" for victim in spoilt}
    now = artifacts(run)
    assert {name: now[name] for name in now if name not in kept} == artifacts(finished)
    assert kept == {name for name in now if name.endswith(".bad")}
    for victim, data in spoilt.items():
        assert pathlib.Path(f"{victim}.bad").read_bytes() == data
        # Rank 0 alone looks, so it is said once; the file is named once in it.
        said = [line for line in (result.stdout + result.stderr).splitlines() if f"{victim.name}.bad" in line]
        assert len(said) == 1 and said[0].count(f"{victim}: ") == 1, said


def test_a_spoilt_checkpoint_is_set_aside_and_an_older_one_continued(finished, run):
    truncated(run / "finetune/step-000002/state-1-of-2.safetensors")
    result = stage("finetune", run, ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "state-1-of-2.safetensors" in result.stderr and "set aside as step-000002.bad" in result.stderr
    assert "continues after iteration 1" in result.stdout
    now = artifacts(run)
    assert {name: now[name] for name in now if ".bad/" not in name} == artifacts(finished)
    assert len(list(run.glob("finetune/step-000002.bad/*"))) == 3


def test_a_spoilt_clip_of_our_own_is_written_again(finished, run):
    (clip,) = run.glob("data/clips/*/train-000001.mp4")
    truncated(clip)
    spoilt = clip.read_bytes()
    result = stage("encode", run, ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    now = artifacts(run)
    assert now.pop(f"{clip.relative_to(run)}.bad") == hashlib.sha256(spoilt).hexdigest()
    assert now == artifacts(finished), "the shard, which was whole, must stay"


STAGES = [  # a stage alone, what it reads, how that is spoilt, what it made before
    ("distill", "cache/trajectory-000001.h5", damaged, DATA, "checksum differs", "distill/block-04.h5"),
    ("tables", "distill/block-04.h5", truncated, DATA, "truncated", "tables.h5"),
    ("select", "tables.h5", foreign, DATA, "foreign file", "selection.json"),
    ("finetune", "selection.json", missing, IO, "run 'select' first", "finetune/step-000002/manifest.json"),
    ("finetune", "selection.json", lambda path: edit_json(path, rates=[0] * 10), DATA, "not a selection",
     "finetune/step-000002/manifest.json"),
    ("finetune", "data/latents/latents-00000-of-00001.h5", truncated, DATA, "truncated",
     "finetune/step-000002/manifest.json"),
    ("evaluate", "samples/teacher/sample-000000.h5", damaged, DATA, "checksum differs", "evaluation.json"),
]


@pytest.mark.parametrize("name,source,spoil,code,words,made", STAGES)
def test_a_stage_alone_names_what_an_earlier_one_must_make_again(run, name, source, spoil, code, words, made):
    spoil(run / source)
    (run / made).unlink()
    before = artifacts(run)
    # Each rank reads the selection and the shards itself; of a unit or of rank 0's work one message tells.
    each = name == "finetune"
    refused(stage(name, run, ranks=2), code, run / source, words, lines=2 if each else 1)
    assert before.items() <= artifacts(run).items()


def test_another_runs_spoilt_artifact_is_not_taken_and_not_touched(finished, run, tmp_path):
    truncated(run / "cache/trajectory-000001.h5")
    before = artifacts(run)
    result = stage("cache", tmp_path / "new", f"--run.base={run}", ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "trajectory-000001.h5 is not taken" in result.stdout + result.stderr
    assert artifacts(run) == before
    new = artifacts(tmp_path / "new")
    assert new == {name: value for name, value in artifacts(finished).items() if name in new}
    assert sum(name.startswith("cache/") for name in new) == 3


@pytest.mark.parametrize("spoil,code,words", [
    (missing, IO, "no such file"), (truncated, DATA, "truncated"), (damaged, DATA, "damaged"),
    (foreign, DATA, "foreign file")])
def test_inspect_names_what_is_wrong(run, spoil, code, words):
    for name in ["cache/trajectory-000000.h5", "distill/block-00.h5", "data/latents/latents-00000-of-00001.h5"]:
        spoil(run / name)
        refused(surgery("inspect", run / name), code, run / name, words)


def test_inspect_shows_what_is_not_utf8(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"block,\xff\n1,2\n")
    result = surgery("inspect", tmp_path / "table.csv", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["columns"] == ["block", "\ufffd"]


# ---- videos, annotations, prompts

def annotate(folder, paths):
    records = [{"path": path, "cap": ["a red square"], "fps": 16, "num_frames": 5} for path in paths]
    (folder / "clips.json").write_text(json.dumps(records))
    (folder / "data.txt").write_text(",clips.json\n")
    return folder / "data.txt"


def test_bad_videos_are_left_out_by_name(finished, tmp_path):
    good = next(finished.glob("data/clips/*/train-000000.mp4")).read_bytes()
    (tmp_path / "good.mp4").write_bytes(good)
    (tmp_path / "truncated.mp4").write_bytes(good[:len(good) // 2])
    (tmp_path / "damaged.mp4").write_bytes(good[:40] + bytes(len(good) - 80) + good[-40:])
    (tmp_path / "foreign.mp4").write_bytes(pathlib.Path(TEACHER, "vae/config.json").read_bytes())
    (tmp_path / "empty.mp4").write_bytes(b"")
    bad = ["missing.mp4", "truncated.mp4", "damaged.mp4", "foreign.mp4", "empty.mp4"]
    listing = annotate(tmp_path, ["good.mp4", *bad])
    result = stage("encode", tmp_path / "run", f"--data.videos={listing}", "--data.count=6", ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    (shard,) = (tmp_path / "run/data/latents").glob("*.h5")
    rejects = shard.with_suffix(".rejects.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in rejects] == bad
    for line in rejects:
        assert str(tmp_path / line.split("\t")[0]) in line.split("\t")[1], line
    assert json.loads(surgery("inspect", shard, "--json").stdout)["shard"]["samples"] == 1
    refused(stage("encode", tmp_path / "run", "--data.videos=shapes:tests"), USAGE, "data.videos", "shapes:tests")


def spoilt_listing(folder, kind):
    listing = annotate(folder, ["a.mp4"])
    annotation = folder / "clips.json"
    if kind == "listing":
        listing.unlink()
    elif kind == "line":
        listing.write_text("clips.json\n")
    elif kind == "binary":
        listing.write_bytes(pathlib.Path(TEACHER, "tokenizer/spiece.model").read_bytes())
    elif kind == "annotation":
        annotation.unlink()
    elif kind == "truncated":
        truncated(annotation)
    elif kind == "foreign":
        annotation.write_bytes(pathlib.Path(TEACHER, "vae/config.json").read_bytes())
    elif kind == "uncaptioned":
        annotation.write_text('[{"path": "a.mp4"}]')
    return listing, annotation


@pytest.mark.parametrize("kind,words,ranks", [
    ("listing", "no such listing", 1), ("line", "line 1 is not ROOT,ANNOTATION", 1), ("binary", "is a binary file", 1),
    ("annotation", "no such annotation", 1), ("truncated", "not well-formed JSON", 2),
    ("foreign", "is one JSON object", 1), ("uncaptioned", "cap is missing", 1)])
def test_bad_annotations_are_named(tmp_path, kind, words, ranks):
    listing, annotation = spoilt_listing(tmp_path, kind)
    named = annotation if kind in ["annotation", "truncated", "foreign", "uncaptioned"] else listing
    result = stage("encode", tmp_path / "run", f"--data.videos={listing}", ranks=ranks)
    refused(result, IO if kind in ["listing", "annotation"] else DATA, named, words, lines=ranks)
    assert artifacts(tmp_path / "run") == {}


PROMPTS = [(None, "no such prompt list"), (b"a red square\na blue \xff circle\n", "line 2 is not UTF-8 at byte 8"),
           (b"", "holds no prompt"), (b"a\0b\n", "NUL byte"),
           (pathlib.Path(TEACHER, "text_encoder/model.safetensors").read_bytes(), "prompts.txt: line 1")]


@pytest.mark.parametrize("content,words", PROMPTS, ids=["missing", "not UTF-8", "empty", "NUL", "foreign"])
def test_bad_prompt_lists_are_named(tmp_path, content, words):
    prompts = tmp_path / "prompts.txt"
    if content is not None:
        prompts.write_bytes(content)
    ranks = 2 if "UTF-8" in words else 1
    result = stage("cache", tmp_path / "run", f"--trajectories.prompts={prompts}", ranks=ranks)
    refused(result, IO if content is None else DATA, prompts, words, lines=ranks)
    assert artifacts(tmp_path / "run") == {}


def test_a_prompt_that_is_cut_is_told_of(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red square\n" + "a red square moves left and " * 200 + "stops\na blue circle\n")
    said = stage("cache", tmp_path / "run", f"--trajectories.prompts={prompts}")
    assert said.returncode == 0, said.stderr
    warnings = [line for line in said.stderr.splitlines() if "is not read" in line]
    assert len(warnings) == 1 and "'a red square moves left" in warnings[0], said.stderr


def test_a_prompt_file_of_forward_is_named_with_its_line(model, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"a red square\na blue \xff circle\n")
    result = surgery("forward", f"--model={model}", "--component=text", f"--prompt=@{tmp_path / 'prompts.txt'}",
                     f"--output={tmp_path / 'output'}")
    refused(result, DATA, tmp_path / "prompts.txt", "line 2 is not UTF-8 at byte 8")


@pytest.mark.parametrize("option,code,words", [
    ("--generate.prompts={}/prompts.txt", DATA, "line 1 is not UTF-8"), ("--data.videos={}/data.txt", IO, "no such"),
    ("--generate.negative_prompt=@{}/none.txt", IO, "no such"), ("--select.budget=1000", USAGE, "select.budget"), ("--select.budget=11xR4", USAGE, "but the model has 10"),
    ("--select.pins=12=1", USAGE, "select.pins")])
def test_a_run_refuses_at_its_start_what_a_late_stage_could_not_use(tmp_path, option, code, words):
    (tmp_path / "prompts.txt").write_bytes(b"\xff\n")
    refused(stage("run", tmp_path / "run", option.format(tmp_path), ranks=2), code, words)
    assert artifacts(tmp_path / "run") == {}


# ---- what is not there

ABSENT = [  # commands without a run
    ("plan", "--rate=1e9", "--model.config={}"), ("inspect", "{}"), ("inspect", "{}.mp4"),
    ("select", "--tables={}.csv", "--budget=0.7"), ("select", "--tables={}.h5", "--budget=0.7"),
    ("forward", "--component=text", "--prompt=a", "--model={}", "--output=/dev/null"),
    ("forward", "--component=text", "--prompt=@{}.txt", f"--model={TEACHER}", "--output=/dev/null"),
    ("forward", "--component=transformer", "--input={}", f"--model={TEACHER}", "--output=/dev/null"),
    ("export", "--model={}", "--output={}-output"),
    ("report", "--run.directory={}", f"--model.path={TEACHER}"),
]


@pytest.mark.parametrize("line", ABSENT, ids=lambda line: f"{line[0]} {line[1][:12]}")
def test_what_is_not_there_is_an_input_that_failed(tmp_path, line):
    refused(surgery(*[word.format(tmp_path / "absent") for word in line]), IO, tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name,lacks,words", [
    ("distill", "cache/trajectory-000001.h5", "run 'cache' first"), ("tables", "distill/block-04.h5", "run 'distill' first"),
    ("select", "tables.h5", "run 'tables' first"), ("finetune", "selection.json", "run 'select' first"),
    ("finetune", "data/latents", "run 'encode' first"), ("generate", "selection.json", "run 'select' first"),
    ("generate", "finetune/step-000002", "no such checkpoint"),
    ("evaluate", "samples/teacher/sample-000000.h5", "run 'generate' first"),
    ("cache", None, "model.path")])
def test_a_stage_names_what_it_lacks(run, name, lacks, words):
    options = []
    for made in {"distill": ["distill/block-00.h5"], "finetune": ["finetune/step-000002/manifest.json"],
                 "tables": ["tables.h5"], "evaluate": ["evaluation.json"]}.get(name, []):
        (run / made).unlink()
    if lacks:
        shutil.rmtree(run / lacks) if (run / lacks).is_dir() else (run / lacks).unlink()
    else:
        options, lacks = [f"--model.path={run / 'nothing'}"], "nothing"
    refused(stage(name, run, *options), IO, run / lacks, words)


# ---- what cannot be done

@pytest.mark.parametrize("budget,words", [
    ("0.01", "cannot be met"), ("1000", "the cheapest choice costs"), ("11xR4", "but the model has 10"),
    ("5xR3", "no rate 3"), ("-1", "is no budget"), ("much", "is no budget")])
def test_a_budget_that_cannot_be_met_is_refused(finished, tmp_path, budget, words):
    result = surgery("select", f"--tables={finished / 'tables.csv'}", f"--budget={budget}",
                     f"--output={tmp_path / 'selection.json'}")
    refused(result, USAGE, words)
    assert not (tmp_path / "selection.json").exists()


def test_a_budget_that_cannot_be_met_leaves_the_selection_there(finished, run):
    refused(stage("select", run, "--select.budget=0.01", ranks=2), USAGE, "select.budget: 0.01", "cannot be met")
    assert artifacts(run) == artifacts(finished)


def test_a_table_that_breaks_off_is_named_with_its_line(finished, tmp_path):
    table = tmp_path / "tables.csv"
    text = (finished / "tables.csv").read_text()
    table.write_text(text[:text.rindex(",", 0, -10)])
    refused(surgery("select", f"--tables={table}", "--budget=0.7"), DATA, f"{table}:31", "fields, expected 5")


def test_clips_without_frames_are_refused_together(tmp_path):
    options = ["--trajectories.frames=0", "--data.frames=-3", "--generate.frames=6", "--cost.frames=4"]
    result = stage("run", tmp_path / "run", *options, ranks=2)
    refused(result, USAGE, "4 faults", "trajectories.frames = '0'", "data.frames = '-3'", "generate.frames = '6'",
            "cost.frames = '4'", "must be 4k+1", lines=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("frames", [0, 2])
def test_the_vae_takes_no_other_number_of_frames(model, inputs, frames):
    result = surgery("forward", f"--model={model}", "--component=vae-encode", f"--input={inputs / f'frames-{frames}'}",
                     f"--output={model / 'output'}")
    refused(result, DATA, f"the clip has {frames} frames", "4k+1")


def test_ranks_with_different_configurations_are_refused(run, tmp_path):
    before = artifacts(run)
    line = command(run, 1, *[f"--{key}={value}" for key, value in SMALLER.items()], "--config", tmp_path / "settings.cfg")
    program = line[line.index(BINARY):]
    (tmp_path / "settings.cfg").write_text("[finetune]\nwarmup = 3\n")
    (tmp_path / "other.cfg").write_text("[finetune]\nwarmup = 4\n")
    for other, code, words in [("other.cfg", USAGE, ["rank 1 on", "[finetune] warmup = 4", "[finetune] warmup = 3"]),
                               ("missing.cfg", USAGE, ["rank 1 on", "another command line or configuration", "missing.cfg"])]:
        second = [*program[:-1], tmp_path / other]
        result = subprocess.run([*map(str, line), ":", "-n", "1", *map(str, second)], env=environment(), capture_output=True,
                                text=True, timeout=60)
        refused(result, code, *words)
    assert artifacts(run) == before


def test_a_lone_rank_in_an_allocation_of_many_is_refused(run):
    before = artifacts(run)
    line = command(run, 1, *[f"--{key}={value}" for key, value in SMALLER.items()])
    for variables, words in [({"SLURM_NTASKS": "2"}, "SLURM_NTASKS=2"), ({"SLURM_NNODES": "4"}, "SLURM_NNODES=4"),
                             ({"SLURM_NTASKS": "two"}, "is not a number of ranks")]:
        refused(surgery(*line[line.index(BINARY) + 1:], **variables), USAGE, words)
    assert artifacts(run) == before
