"""The whole recipe by sbatch on two simulated nodes gives the same artifacts as launch/local.sh on this machine.

Skipped where slurm-wlm and munge are not installed.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
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

    def test_sbatch_gives_what_the_same_configuration_gives_here(self):
        recipe, by_slurm, here = self.folder / "recipe.cfg", self.folder / "slurm", self.folder / "here"
        write_configuration(recipe, run__directory=by_slurm)
        output = self.folder / "out"
        result = run(["sbatch", "--wait", "-N2", "-n2", f"--output={output}", f"--chdir={SOURCE}",
                      SOURCE / "slurm/surgery.sh", recipe], SLURM_CONF=str(self.folder / "cluster/slurm.conf"),
                     SURGERY_LAUNCHER="mpirun")
        text = output.read_text() if output.exists() else ""
        self.assertEqual(result.returncode, 0, result.stderr + text[-3000:])
        self.assertIn("2 ranks, launcher mpirun", text)
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
