"""The whole recipe by sbatch on two simulated nodes, preempted and stopped on its way, gives the same artifacts as
launch/local.sh on this machine.

Skipped where slurm-wlm and munge are not installed.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from small_recipe import BINARY, IDENTICAL, SOURCE, hashes, write_configuration  # noqa: E402

CLUSTER = SOURCE / "tests/slurm/cluster.sh"


def run(command, **environment):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "SURGERY_BINARY": BINARY, "SURGERY_ROOT": str(SOURCE), **environment})


class SlurmRecipe(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="surgery-slurm-recipe-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        port = str(20000 + (os.getpid() + 5000) % 10000 * 3)
        result = run([CLUSTER, "start", self.folder / "cluster"], SURGERY_SLURM_PORT=port)
        if result.returncode == 77:
            self.skipTest(result.stderr.strip())
        self.addCleanup(run, [CLUSTER, "stop", self.folder / "cluster"])
        self.assertEqual(result.returncode, 0, result.stderr)

    def slurm(self, *command):
        return run(command, SLURM_CONF=str(self.folder / "cluster/slurm.conf"), SURGERY_LAUNCHER="mpirun")

    def wait_for(self, condition, job):
        """Until the condition holds; fails as soon as the job has ended without."""
        deadline = time.monotonic() + 400
        while not condition():
            late = time.monotonic() > deadline or (self.ended(job) is not None and not condition())
            self.assertFalse(late, self.output.read_text()[-3000:] if self.output.exists() else "")
            time.sleep(0.2)

    def submit(self, recipe):
        submitted = self.slurm("sbatch", "--parsable", "-N2", "-n2", f"--output={self.output}", f"--chdir={SOURCE}",
                               SOURCE / "slurm/surgery.sh", recipe)
        self.assertEqual(submitted.returncode, 0, submitted.stderr)
        return submitted.stdout.strip()

    def ended(self, job):
        """Its exit code as soon as it has ended for good."""
        text = self.slurm("scontrol", "show", "job", "-o", job).stdout
        fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
        if fields.get("JobState") not in ("COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL"):  # one queued again looks cancelled
            return None
        return int(fields["ExitCode"].split(":")[0])

    def test_sbatch_gives_what_the_same_configuration_gives_here(self):
        recipe, by_slurm, here = self.folder / "recipe.cfg", self.folder / "slurm", self.folder / "here"
        # Distillation is long enough to be stopped within.
        write_configuration(recipe, run__directory=by_slurm, distill__updates_per_group=20)
        self.output = self.folder / "out"
        text = lambda: self.output.read_text()

        job = self.submit(recipe)
        self.wait_for(lambda: list(by_slurm.glob("cache/trajectory-*.h5")), job)
        self.slurm("scancel", "--batch", "--signal=USR2", job)  # as --signal=B:USR2@300 does before the time limit
        self.wait_for(lambda: "start 2," in text(), job)
        self.assertIn("back in the queue (time 1 of at most 20)", text())
        self.wait_for(lambda: list(by_slurm.glob("distill/block-*.h5")), job)
        (by_slurm / "STOP").touch()
        self.wait_for(lambda: self.ended(job) is not None, job)
        self.assertEqual(self.ended(job), 75, text()[-3000:])
        self.assertIn("the plan is refused now (above): not queued again", text())
        self.assertFalse((by_slurm / "tables.csv").exists(), "it was stopped before the end of distillation")

        (by_slurm / "STOP").unlink()
        before = len(text())
        job = self.submit(recipe)
        self.wait_for(lambda: self.ended(job) is not None, job)
        self.assertEqual(self.ended(job), 0, text()[-3000:])
        self.assertIn("2 ranks, launcher mpirun", text()[before:])
        outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        local = subprocess.run(["bash", SOURCE / "launch/local.sh", recipe, f"--run.directory={here}"],
                               capture_output=True, text=True, timeout=600,
                               env={**outside, "RANKS": "2", "SURGERY_BINARY": BINARY})
        self.assertEqual(local.returncode, 0, local.stdout[-3000:] + local.stderr[-3000:])
        patterns = IDENTICAL + ["finetune/*/*.safetensors", "model/*/*.safetensors", "samples/*/*.h5", "evaluation.json"]
        expected = hashes(here, patterns)
        self.assertGreater(len(expected), 30)
        self.assertEqual(hashes(by_slurm, patterns), expected)
        self.assertEqual(sorted(path.name for path in (by_slurm / "videos").iterdir()),
                         sorted(path.name for path in (here / "videos").iterdir()))
        stages = [json.loads(line) for line in (by_slurm / "ledger.jsonl").read_text().splitlines()]
        self.assertTrue(all(stage["ranks"] == 2 for stage in stages if "ranks" in stage), stages)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    sys.exit(1 if not result.wasSuccessful() else 77 if result.skipped and result.testsRun <= len(result.skipped) else 0)
