"""A rank that ends badly ends the whole job, soon, with the exit code of its error and its name on standard error."""
import os
import subprocess
import unittest

PROGRAM = os.environ["MPI_ABORT_PROGRAM"]
MPIRUN = os.environ.get("MPIEXEC", "mpirun")


def run(how, ranks, launcher=True, **environment):
    command = [PROGRAM, how]
    if launcher:
        command = [MPIRUN, "--oversubscribe", "-n", str(ranks)] + command
    # The limit is there against hanging; it is far from what any of these takes.
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


class Abort(unittest.TestCase):
    def test_a_job_that_goes_well_exits_with_0(self):
        for ranks in (1, 2, 4):
            result = run("fine", ranks)
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_an_exception_on_one_rank_ends_all_and_is_named(self):
        for ranks in (1, 2, 4):
            result = run("throw", ranks)
            self.assertEqual(result.returncode, 65, result.stderr)
            self.assertRegex(result.stderr, rf"rank {ranks - 1}, \S+: block 7 is damaged")

    def test_a_failing_unit_fails_every_rank_in_good_order(self):
        for ranks in (1, 3):
            result = run("throw-in-unit", ranks)
            self.assertEqual(result.returncode, 74, result.stderr)
            self.assertEqual(result.stderr.count("block 4 failed 3 times"), 1, result.stderr)
            self.assertNotIn("MPI_ABORT", result.stderr)

    def test_an_exception_that_nobody_catches_ends_all(self):
        for how, text in (("throw-in-thread", "in a thread"), ("throw-nothing-known", "unknown type")):
            result = run(how, 2)
            self.assertEqual(result.returncode, 70, result.stderr)
            self.assertRegex(result.stderr, rf"rank 1, \S+: .*{text}")

    def test_a_rank_that_is_killed_ends_all(self):
        for ranks in (2, 4):
            result = run("kill", ranks)
            self.assertNotEqual(result.returncode, 0)

    def test_a_rank_that_leaves_without_a_word_ends_all(self):
        self.assertNotEqual(run("leave", 2).returncode, 0)

    def test_a_rank_that_hangs_is_found_and_what_it_did_is_told(self):
        result = run("hang", 2)
        self.assertEqual(result.returncode, 70, result.stderr)
        self.assertRegex(result.stderr, r'rank 0, \S+: no progress for .* in "finetune", last at step 17')

    def test_an_error_that_all_ranks_share_is_printed_once(self):
        for ranks in (1, 4):
            result = run("agree", ranks)
            self.assertEqual(result.returncode, 64, result.stderr)
            self.assertEqual(result.stderr.count("every rank sees this"), 1, result.stderr)
            self.assertNotIn("MPI_ABORT", result.stderr)

    def test_a_stop_with_work_left_has_its_own_code(self):
        self.assertEqual(run("stop", 2).returncode, 75)

    def test_a_single_process_needs_no_launcher(self):
        self.assertEqual(run("fine", 1, launcher=False).returncode, 0)
        self.assertEqual(run("throw", 1, launcher=False).returncode, 65)

    def test_a_lone_process_in_an_allocation_of_many_is_refused_with_a_hint(self):
        result = run("fine", 1, launcher=False, SLURM_NTASKS="4")
        self.assertEqual(result.returncode, 64, result.stderr)
        self.assertIn("SLURM_NTASKS=4", result.stderr)
        self.assertIn("srun --mpi=pmix", result.stderr)
        self.assertEqual(run("fine", 1, launcher=False, SLURM_NTASKS="4", SURGERY_SINGLE_RANK="1").returncode, 0)


if __name__ == "__main__":
    unittest.main()
