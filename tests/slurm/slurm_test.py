"""slurm/surgery.sh under a Slurm of two simulated nodes: launching, exit codes, signals and the bounded requeue.

The program is a stub here (SURGERY_BINARY): a shell script that notes how it was called and ends as it is told to.
Skipped where slurm-wlm and munge are not installed.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(os.environ.get("SURGERY_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
CLUSTER = SOURCE / "tests/slurm/cluster.sh"
MPI_PROGRAM = os.environ.get("MPI_ABORT_PROGRAM")
LIMIT = 240  # seconds: against hanging only

STUB = """#!/bin/bash
# Notes "command rank/size arguments"; ends with the codes in the file `codes`, one a start, then 0.
here=$(dirname "$0")
echo "$1 ${OMPI_COMM_WORLD_RANK:-0}/${OMPI_COMM_WORLD_SIZE:-1} single=${SURGERY_SINGLE_RANK:-0} ${*:2}" >> "$here/calls"
case $1 in
  info) exit 64 ;;  # srun's PMIx does not span two nodes of one host
  plan) exit "$(cat "$here/plan" 2>/dev/null || echo 0)" ;;
esac
start=${SLURM_RESTART_COUNT:-0}
code=$(sed -n "$((start + 1))p" "$here/codes" 2>/dev/null)
if [[ $code == wait ]]; then
  trap 'echo "signal" >> "$here/calls"; exit 75' USR2
  touch "$here/waiting"
  for ((i = 0; i < 1200; ++i)); do sleep 0.1; done
  exit 70
fi
exit "${code:-0}"
"""


def run(command, **environment):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LIMIT,
                          env={**os.environ, **environment})


class Slurm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="surgery-slurm-"))
        port = str(20000 + os.getpid() % 10000 * 3)
        result = run([CLUSTER, "start", cls.folder / "cluster"], SURGERY_SLURM_PORT=port)
        if result.returncode == 77:
            raise unittest.SkipTest(result.stderr.strip())
        assert result.returncode == 0, result.stderr
        os.environ["SLURM_CONF"] = str(cls.folder / "cluster/slurm.conf")

    @classmethod
    def tearDownClass(cls):
        run([CLUSTER, "stop", cls.folder / "cluster"])
        shutil.rmtree(cls.folder, ignore_errors=True)

    def setUp(self):
        self.job_folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        self.stub = self.job_folder / "surgery"
        self.stub.write_text(STUB)
        self.stub.chmod(0o755)
        self.recipe = self.job_folder / "recipe.cfg"
        self.recipe.write_text("[run]\n")
        self.output = self.job_folder / "out"

    def submit(self, *options, wait=True, script="slurm/surgery.sh", arguments=None, **environment):
        """Submits; gives the exit code (the largest of an array's), or without `wait` the job's number."""
        arguments = [self.recipe] if arguments is None else arguments
        command = ["sbatch", "--parsable", f"--output={self.output}", f"--chdir={SOURCE}", *options, SOURCE / script,
                   *arguments]
        result = run(command, SURGERY_ROOT=str(SOURCE), **{"SURGERY_BINARY": str(self.stub), **environment})
        job = result.stdout.strip()
        self.assertTrue(job, result.stderr)
        if not wait:
            return job
        self.wait_until_ended(job)
        self.text = self.output.read_text() if self.output.exists() else ""
        return max(int(fields["ExitCode"].split(":")[0]) for fields in self.show(job))

    def calls(self, command):
        calls = (self.job_folder / "calls").read_text().splitlines()
        return [call for call in calls if call.split()[0] == command]

    def codes(self, *codes):
        (self.job_folder / "codes").write_text("".join(f"{code}\n" for code in codes))

    def test_one_task_plans_then_runs_without_a_launcher(self):
        code = self.submit("-n1", arguments=[self.recipe, "--run.seed=7"])
        self.assertEqual(code, 0, self.text)
        self.assertEqual(self.calls("plan"), [f"plan 0/1 single=1 --config {self.recipe} --run.seed=7"])
        self.assertEqual(self.calls("run"), [f"run 0/1 single=1 --config {self.recipe} --run.seed=7"])

    def test_two_nodes_are_joined_by_mpirun_where_srun_cannot(self):
        code = self.submit("-N2", "-n2", SURGERY_COMMAND="distill")
        self.assertEqual(code, 0, self.text)
        self.assertEqual(sorted(call.split()[1] for call in self.calls("distill")), ["0/2", "1/2"], self.text)
        self.assertEqual(len(self.calls("plan")), 1)

    def test_real_ranks_on_two_nodes_communicate(self):
        if not MPI_PROGRAM:
            self.skipTest("MPI_ABORT_PROGRAM is not set")
        for how, expected in (("fine", 0), ("throw", 65), ("agree", 64)):
            code = self.submit("-N2", "-n2", SURGERY_BINARY=MPI_PROGRAM, SURGERY_PLAN="0", SURGERY_COMMAND=how,
                               SURGERY_LAUNCHER="mpirun")
            self.assertEqual(code, expected, self.text)

    def test_exit_codes_are_the_programs_own_and_explained(self):
        for code, word in ((64, "configuration"), (65, "bad"), (70, "failed"), (74, "room")):
            self.codes(code)
            self.assertEqual(self.submit("-n1"), code, self.text)
            self.assertIn(f"({code})", self.text)
            self.assertIn(word, self.text)

    def test_a_refused_plan_starts_nothing(self):
        (self.job_folder / "plan").write_text("64")
        self.assertEqual(self.submit("-n1"), 64)
        self.assertEqual(self.calls("run"), [])
        self.assertIn("nothing was started", self.text)

    def test_work_left_is_requeued_until_done(self):
        self.codes(75, 75, 0)
        self.assertEqual(self.submit("-n1"), 0, self.text)
        self.assertEqual(len(self.calls("run")), 3, self.text)
        self.assertIn("back in the queue (time 2 of at most 20)", self.text)

    def test_the_requeue_is_bounded(self):
        self.codes(75, 75, 75, 75)
        self.assertEqual(self.submit("-n1", SURGERY_MAX_REQUEUES="1"), 75, self.text)
        self.assertEqual(len(self.calls("run")), 2, self.text)
        self.assertIn("submit again", self.text)

    def test_other_failures_are_not_requeued(self):
        self.codes(70)
        self.assertEqual(self.submit("-n1"), 70)
        self.assertEqual(len(self.calls("run")), 1)

    def wait_for(self, path):
        deadline = time.monotonic() + LIMIT
        while not path.exists():
            self.assertLess(time.monotonic(), deadline, "the job did not start")
            time.sleep(0.1)

    def show(self, job):
        """The fields of a job, or of each task of an array."""
        lines = run(["scontrol", "show", "job", "-o", job]).stdout.splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def wait_until_ended(self, job):
        deadline = time.monotonic() + LIMIT
        seen_ended = False  # a job on its way back to the queue looks cancelled for a moment
        while True:
            tasks = self.show(job)
            unfinished = [task for task in tasks if task["JobState"] in
                          ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")]
            if tasks and not unfinished:
                if seen_ended:
                    return tasks[0]["JobState"]
                seen_ended = True
                time.sleep(5)
                continue
            seen_ended = False
            self.assertLess(time.monotonic(), deadline, tasks)
            time.sleep(0.2)

    def test_the_signal_before_the_time_limit_reaches_the_ranks_and_the_job_goes_on(self):
        self.codes("wait", 0)
        job = self.submit("-N2", "-n2", wait=False)
        self.wait_for(self.job_folder / "waiting")
        time.sleep(0.5)  # both ranks have set their traps
        run(["scancel", "--batch", "--signal=USR2", job])  # what --signal=B:USR2@300 does by the clock
        self.assertEqual(self.wait_until_ended(job), "COMPLETED", self.output.read_text())
        self.assertGreaterEqual((self.job_folder / "calls").read_text().count("signal"), 1)
        self.assertEqual(len(self.calls("run")), 4)

    def test_a_cancelled_job_is_not_queued_again(self):
        self.codes("wait", 0)
        job = self.submit("-n1", wait=False)
        self.wait_for(self.job_folder / "waiting")
        time.sleep(0.5)
        run(["scancel", job])
        self.assertEqual(self.wait_until_ended(job), "CANCELLED")
        self.assertEqual(len(self.calls("run")), 1)

    def test_an_ablation_array_runs_each_variant_in_its_own_directory(self):
        variants = self.job_folder / "variants.txt"
        variants.write_text("# name options\nwide --distill.phi_degree=3\n\nplain\n")
        code = self.submit("--array=1-2", "-n1", script="slurm/ablations.sh", arguments=[variants, self.recipe],
                           SURGERY_RUNS="elsewhere")
        self.assertEqual(code, 0, self.text)
        calls = sorted(call.split("--run.directory=")[1] for call in self.calls("run"))
        self.assertEqual(calls, ["elsewhere/plain", "elsewhere/wide --distill.phi_degree=3"])

    def test_a_missing_recipe_or_program_is_named(self):
        self.assertEqual(self.submit("-n1", arguments=["nowhere.cfg"]), 64)
        self.assertIn("nowhere.cfg cannot be read", self.text)
        self.output.unlink()
        self.assertEqual(self.submit("-n1", SURGERY_BINARY="/nonexistent/surgery"), 64)
        self.assertIn("launch/build.sh", self.text)

    def test_the_same_script_works_without_slurm(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        environment.update(SURGERY_BINARY=str(self.stub), RANKS="2", SURGERY_ROOT=str(SOURCE))
        self.codes(75)
        result = subprocess.run(["bash", SOURCE / "slurm/surgery.sh", self.recipe], env=environment, capture_output=True,
                                text=True, timeout=LIMIT)
        self.assertEqual(result.returncode, 75, result.stderr)
        self.assertEqual(sorted(call.split()[1] for call in self.calls("run")), ["0/2", "1/2"])


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    sys.exit(1 if not result.wasSuccessful() else 77 if result.skipped and result.testsRun <= len(result.skipped) else 0)
