"""What plan, run and report say of a run that is not finished: what exists, what is missing, what continues."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, command, environment  # noqa: E402

SMALLER = {  # than the small recipe: only names are looked at
    "trajectories.count": 2, "trajectories.held_out": 1, "trajectories.steps": 4,
    "distill.rates": "4,linear", "distill.group_timesteps": 2, "distill.updates_per_group": 1,
    "distill.held_out_timesteps": 1, "distill.blocks_per_unit": 5,
    "data.count": 3, "finetune.iterations": 3, "finetune.checkpoints": "1", "finetune.global_batch": 2,
    "generate.count": 2,
}
STAGES = {"trajectories": 3, "distill": 10, "tables": 1, "select": 1, "encode": 3, "finetune": 3, "model": 1,
          "generate": 8, "evaluate": 1, "report": 1}  # and their pieces


def surgery(name, directory, *options):
    settings = [f"--{key}={value}" for key, value in SMALLER.items()]
    line = command(directory, 1, *settings, *options, stage=name)
    result = subprocess.run(line[line.index(BINARY):], env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


def exists(directory, *options):
    """Of every stage, what plan finds: {stage: (exists, wanted)}; and what it says is missing."""
    plan = json.loads(surgery("plan", directory, "--rate=1e9", "--json", *options))
    return {stage["name"]: (stage["exists"], stage["wanted"]) for stage in plan["stages"]}, plan["missing"]


def report(directory):
    """What the command says, and the page without its markup."""
    said = surgery("report", directory)
    page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", (directory / "report.html").read_text(), flags=re.S)
    return said, re.sub(r"\s+", " ", page)


def sections(directory):
    return re.findall(r"<h2>(.*?)</h2>", (directory / "report.html").read_text())


def test_a_recipe_made_stage_by_stage_tells_how_far_it_is(tmp_path):
    directory = tmp_path / "run"
    assert exists(directory) == ({name: (0, count) for name, count in STAGES.items()},
                                 "trajectories (0 of 3 prompts there), distill (0 of 10 blocks there), tables, select, "
                                 "encode (0 of 3 clips there), finetune (0 of 3 steps there), model, "
                                 "generate (0 of 8 clips there), evaluate, report")
    there, seen = set(), []
    for name, stage in [("cache", "trajectories"), ("distill", "distill"), ("tables", "tables"), ("select", "select"),
                        ("encode", "encode"), ("finetune", "finetune"), ("generate", "generate"),
                        ("evaluate", "evaluate")]:
        surgery(name, directory)
        there.add(stage)
        found, missing = exists(directory)
        assert found == {name: (count if name in there else 0, count) for name, count in STAGES.items()}
        assert [part.split(" ")[0] for part in re.split(r", ", missing)] == [name for name in STAGES if name not in there]
        said, page = report(directory)
        assert "the run is not finished, missing: " + missing.removesuffix(", report") in said
        assert "'surgery run' with the same configuration continues" in said
        assert f"Missing: {missing.removesuffix(', report')}." in page
        seen.append(sections(directory))
    assert all(set(before) <= set(now) for before, now in zip(seen, seen[1:])), seen
    assert seen[0] == ["This run is not finished", "Ledger"]
    assert seen[1] == ["This run is not finished", "Distillation", "Ledger"]
    assert seen[-1] == ["This run is not finished", "Rates", "Distillation", "Finetuning", "Evaluation", "Clips",
                        "Ledger"]
    output = surgery("run", directory)
    assert "missing: model, report" in output and "there: trajectories (3 of 3 prompts)" in output
    assert "model: 1 made" in output and "trajectories: nothing to make, 3 reused" in output
    assert exists(directory) == ({name: (count, count) for name, count in STAGES.items()}, "")
    assert "nothing is missing" in surgery("plan", directory, "--rate=1e9")
    assert sections(directory) == seen[-1][1:]
    page = directory / "report.html"
    before = page.stat().st_mtime_ns
    assert "report: nothing to make, 1 reused" in surgery("report", directory)
    assert page.stat().st_mtime_ns == before, "the page of a finished run is made once"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    surgery("run", directory)
    return directory


LATER = ["report.html", "evaluation.json"]
CUTS = [  # what a run that ended early lacks, how far each stage is then, and what is missing
    (["cache/trajectory-000002.h5", "distill", "tables.*", "selection.json", "data", "finetune", "model", "samples", "videos*"],
     {"trajectories": (2, 3), "distill": (0, 10)}, "trajectories (2 of 3 prompts there), distill (0 of 10 blocks there)"),
    (["distill/block-0[3-9].h5", "tables.*", "selection.json", "finetune", "model", "samples", "videos*"],
     {"distill": (3, 10), "encode": (3, 3)}, "distill (3 of 10 blocks there), tables, select, finetune"),
    (["finetune/step-00000[23]", "model", "samples", "videos*"],
     {"finetune": (1, 3), "generate": (0, 8)}, "finetune (1 of 3 steps there), model, generate (0 of 8"),
    (["samples/step-000003", "videos", "samples/distilled/sample-000001.h5"],
     {"finetune": (3, 3), "generate": (5, 8)}, "generate (5 of 8 clips there), evaluate"),
    (["videos/*-0.mp4"], {"generate": (6, 8)}, "generate (6 of 8 clips there), evaluate"),
    (["tables.csv"], {"tables": (0, 1), "select": (1, 1)}, "tables, evaluate"),
]


@pytest.mark.parametrize("lacks,found,missing", CUTS)
def test_a_run_that_ended_in_the_middle_is_reported(finished, tmp_path, lacks, found, missing):
    directory = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    for pattern in lacks + LATER:
        paths = list(directory.glob(pattern))
        assert paths, pattern
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    stages, told = exists(directory)
    assert {name: stages[name] for name in found} == found
    assert told.startswith(missing)
    said, page = report(directory)
    assert f"missing: {missing}" in said and f"Missing: {missing}" in page
    name = next(name for name in STAGES if stages[name][0] < stages[name][1])
    assert f"surgery {'cache' if name == 'trajectories' else name}" in page
    before = (directory / "report.html").read_text()
    surgery("run", directory)
    assert exists(directory)[1] == ""
    assert (directory / "report.html").read_text() != before
    assert "This run is not finished" not in sections(directory)


def test_a_block_that_is_half_distilled_does_not_count(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished / "cache", directory / "cache")
    # The second trajectory cannot be read; what five blocks learned from the first is committed.
    (directory / "cache/trajectory-000001.h5").write_bytes(b"damaged")
    settings = [f"--{key}={value}" for key, value in SMALLER.items()]
    line = command(directory, 1, *settings, stage="distill")
    result = subprocess.run(line[line.index(BINARY):], env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 65, result.stderr[-3000:]
    assert len(list(directory.glob("distill/block-*.h5"))) == 5
    assert exists(directory)[0]["distill"] == (0, 10)
    assert "distill (0 of 10 blocks there)" in report(directory)[1]


def test_what_another_run_can_give_is_counted_apart(finished, tmp_path):
    directory, base = tmp_path / "run", f"--run.base={finished}"
    plan = json.loads(surgery("plan", directory, "--rate=1e9", "--json", base))
    stages = {stage["name"]: stage for stage in plan["stages"]}
    assert {name: stage["in_base"] for name, stage in stages.items()} == {
        **dict.fromkeys(STAGES, 0), "trajectories": 3, "distill": 10, "encode": 3, "generate": 4}  # of the teacher, and distilled
    assert all(stage["exists"] == 0 for stage in stages.values())
    assert plan["missing"].startswith("trajectories (0 of 3 prompts there, 3 in run.base), distill (0 of 10 blocks")
    left = stages["finetune"]["seconds"] + 0.5 * stages["generate"]["seconds"] + stages["evaluate"]["seconds"]
    assert plan["seconds_left"] == pytest.approx(left) and left < 0.9 * plan["seconds"]
    said = surgery("plan", directory, "--rate=1e9", base)
    assert "left to make: " in said and "left to make" not in surgery("plan", directory, "--rate=1e9")
    said = surgery("run", directory, base, "--finetune.learning_rate=1e-5")
    assert "there: trajectories (0 of 3 prompts, 3 in run.base), distill (0 of 10 blocks, 10 in run.base)" in said
    assert "distill: nothing to make, 10 reused" in said and "encode: nothing to make" in said
    assert "generate teacher: 2 made" in said, "their mp4 is written beside the clips that were taken"


@pytest.mark.parametrize("damaged,missing,page_has", [
    (["tables.h5"], "tables", {"Rates", "Distillation", "Evaluation"}),
    (["selection.json"], "select", {"Rates", "Distillation", "Evaluation"}),
    (["evaluation.json"], "evaluate", {"Rates", "Distillation"}),
    (["distill/block-04.h5"], "distill (9 of 10 blocks there)", {"Rates", "Distillation", "Evaluation"}),
    (["tables.h5", "selection.json", "evaluation.json", "distill/block-09.h5"],
     "distill (9 of 10 blocks there), tables, select, evaluate", {"Distillation", "Clips"}),
])
def test_a_damaged_input_is_left_out_of_the_report(finished, tmp_path, damaged, missing, page_has):
    directory = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    for name in damaged:
        (directory / name).write_bytes(b"damaged")
    said, page = report(directory)
    assert f"the run is not finished, missing: {missing}:" in said and f"Missing: {missing}." in page
    assert page_has <= set(sections(directory))
    assert all((directory / name).read_bytes() == b"damaged" for name in damaged), "a report changes nothing else"


def reported(directory, *options):
    """The report of a run, made with further options: what the command says."""
    result = subprocess.run([BINARY, "report", f"--run.directory={directory}", *options], env=environment(),
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def test_a_run_is_reported_without_its_teacher(finished, tmp_path):
    directory = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    report(directory)
    whole = sections(directory)
    (directory / "report.html").unlink()
    assert "goes on without this: /gone" in reported(directory, "--model.path=/gone")
    assert sections(directory) == whole and "This run is not finished" not in whole
    teacher = tmp_path / "teacher"
    (teacher / "transformer").mkdir(parents=True)
    (teacher / "transformer/config.json").write_text("damaged")
    for name in ("report.html", "tables.h5", "distill/block-04.h5"):
        (directory / name).unlink()
    said = reported(directory, f"--model.path={teacher}")
    assert "transformer/config.json" in said and "missing: distill (9 of 10 blocks there), tables:" in said
    assert {"Rates", "Distillation", "Evaluation"} <= set(sections(directory))
    shutil.rmtree(directory / "distill")
    (directory / "selection.json").unlink()
    assert "missing: distill (0 blocks there), tables, select" in reported(directory, f"--model.path={teacher}")


def test_a_run_is_reported_without_its_prompts(finished, tmp_path):
    directory = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    said = reported(directory, "--generate.prompts=/gone.txt")
    assert "goes on without this: /gone.txt" in said and "missing: generate" in said
    assert "Evaluation" in sections(directory) and "Clips" not in sections(directory)


def test_shards_of_another_choice_are_no_part_of_this_one(finished, tmp_path):
    """Other clips under other names, in the run and in its base."""
    directory = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    base = tmp_path / "base"
    surgery("encode", base, "--data.count=5")
    stages, missing = exists(directory, f"--run.base={base}")
    assert stages["encode"] == (3, 3) and missing == ""
    shutil.rmtree(directory / "data/latents")
    assert exists(directory, f"--run.base={base}")[0]["encode"] == (0, 3)
    shutil.copytree(base / "data/latents", directory / "data/latents")
    assert exists(directory)[0]["encode"][1] == 3 and "encode: 3 clips in 1 shards" in surgery("encode", directory)
    assert exists(directory)[0]["encode"] == (3, 3)


def test_encoding_that_stopped_is_no_finetuning_set(finished, tmp_path):
    directory = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(directory / "finetune")
    (directory / "data/latents/index.json").unlink()
    settings = [f"--{key}={value}" for key, value in SMALLER.items()]
    line = command(directory, 1, *settings, stage="finetune")
    result = subprocess.run(line[line.index(BINARY):], env=environment(), capture_output=True, text=True, timeout=60)
    assert result.returncode == 74 and "index.json: is not there: run 'encode' first" in result.stderr


def test_a_plan_asks_only_for_what_is_left(finished, tmp_path):
    settings = [f"--{key}={value}" for key, value in SMALLER.items()]

    def plan(directory, *options):
        line = command(directory, 1, *settings, "--rate=1e9", *options, stage="plan")
        return subprocess.run(line[line.index(BINARY):], env=environment(), capture_output=True, text=True, timeout=60)

    tight = ["--disk=0.000001", "--memory=0.000001"]
    assert plan(finished, *tight).returncode == 0
    refused = plan(tmp_path / "run", *tight)
    assert refused.returncode == 64 and "more on disk" in refused.stderr and "of memory a rank" in refused.stderr
    assert plan(tmp_path / "run", f"--run.base={tmp_path}/none").returncode == 64


def test_what_the_recipe_does_not_need_is_not_missing(tmp_path):
    plan = json.loads(surgery("plan", tmp_path / "run", "--rate=1e9", "--json", "--trajectories.source=live",
                              "--finetune.iterations=0", "--data.shards=elsewhere"))
    assert {stage["name"] for stage in plan["stages"] if stage["exists"] is None} == {"trajectories", "encode", "finetune"}
    assert plan["missing"] == "distill (0 of 10 blocks there), tables, select, model, generate (0 of 4 clips there), " \
                              "evaluate, report"


def test_there_is_no_report_of_a_run_that_is_not_there(tmp_path):
    line = command(tmp_path / "none", 1, stage="report")
    result = subprocess.run(line[line.index(BINARY):], env=environment(), capture_output=True, text=True, timeout=60)
    assert result.returncode == 74 and "none: no such run" in result.stderr
    assert not (tmp_path / "none").exists()
