"""The program as a person meets it: exit codes, messages and help of the built binary (SURGERY_BINARY)."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

BINARY = os.environ["SURGERY_BINARY"]
SOURCE = pathlib.Path(__file__).resolve().parents[2]


def surgery(*arguments):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=120)


def header(path):
    """Names, shapes and dtypes of a safetensors file."""
    with open(path, "rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    entries.pop("__metadata__", None)
    return entries


@contextlib.contextmanager
def working_directory(path):
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


class CommandLine(unittest.TestCase):
    def refused(self, code, message, *arguments):
        result = surgery(*arguments)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(message, result.stderr)

    def test_bad_usage_exits_with_64(self):
        self.refused(64, "no command was given")
        self.refused(64, "did you mean info?", "infos")
        self.refused(64, "did you mean --json?", "info", "--jason")
        self.refused(64, "did you mean run.seed?", "info", "--run.sede=1")
        self.refused(64, "must be one of auto, cpu, cuda", "info", "--model.device=tpu")
        self.refused(64, "/absent.cfg: cannot be read", "info", "--config", "/absent.cfg")

    def test_inspect_knows_a_run_and_a_model_by_their_folder(self):
        teacher = SOURCE / "datasets/shapes/teacher"
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder)
            run.joinpath("config.cfg").write_text(f"[model]\npath = {teacher}\n[run]\ndirectory = elsewhere\n")
            run.joinpath("selection.json").write_text("{}")
            found = json.loads(surgery("inspect", folder, "--json").stdout)
            text = surgery("inspect", folder).stdout
            run.joinpath("config.cfg").write_text("[server]\nport = 80\n")
            other = json.loads(surgery("inspect", folder, "--json").stdout)
        stages = {stage["stage"]: (stage["exists"], stage["wanted"]) for stage in found["stages"]}
        self.assertEqual((found["kind"], found["teacher"]), ("run", str(teacher)))
        self.assertEqual((stages["select"], stages["tables"], stages["distill"]), ((1, 1), (0, 1), (0, 10)))
        self.assertIn("tables", found["missing"])
        self.assertIn("missing: ", text)
        self.assertEqual(other["kind"], "folder")
        model = json.loads(surgery("inspect", str(teacher), "--json").stdout)
        parts = {part["part"]: part for part in model["parts"]}
        self.assertEqual(list(parts), ["transformer", "vae", "text_encoder"])
        weights = header(teacher / "transformer/diffusion_pytorch_model.safetensors")
        self.assertEqual(parts["transformer"]["tensors"], len(weights))
        self.assertIn("tokens", model["tokenizer"])

    def test_all_faults_come_in_one_run(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "a.cfg")
            file.write_text("[run]\nseed = x\n[sellect]\nbudget = 1\n")
            result = surgery("info", "--config", str(file), "--distill.epochs=0")
        self.assertEqual(result.returncode, 64)
        for part in ["3 faults", f"{file}:2: run.seed", f"{file}:4: unknown option sellect.budget", "distill.epochs"]:
            self.assertIn(part, result.stderr)

    def test_help_and_version_succeed(self):
        help_text = surgery("--help")
        self.assertEqual(help_text.returncode, 0)
        self.assertIn("--trajectories.guidance", help_text.stdout)
        self.assertIn("--json", surgery("info", "--help").stdout)
        self.assertRegex(surgery("--version").stdout, r"^surgery \d+\.\d+\.\d+ \(\w+")

    def test_plan_needs_sizes_alone(self):
        wan = ["--config", str(SOURCE / "configs/models/wan2.1-t2v-14b.cfg")]
        wan += ["--config", str(SOURCE / "configs/recipes/wan2.1-480p.cfg"), "--generate.count=8"]
        wan += ["--rate=9.9e14", "--ranks=64", "--disk=100000"]
        with working_directory(SOURCE):
            result = surgery("plan", *wan, "--json")
            self.assertEqual(result.returncode, 0, result.stderr)
            plan = json.loads(result.stdout)
            self.assertEqual(plan["parameters"], 14288491584)
            names = [stage["name"] for stage in plan["stages"]]
            self.assertEqual(names, ["trajectories", "distill", "tables", "select", "encode", "finetune", "model",
                                     "generate", "evaluate", "report"])
            self.assertGreater(plan["device_hours"], 0)
            self.refused(64, "finetune needs", "plan", *wan, "--memory=80")
            self.refused(64, "on disk", "plan", *wan, "--memory=10000", "--disk=1")
            self.refused(64, "of the host's memory a rank, 1.0 GiB are there", "plan", *wan, "--memory=10000", "--host-memory=1")
        self.refused(64, "neither model.path nor model.config", "plan")
        self.refused(74, "/absent", "plan", "--model.config=/absent")

    def test_recipes_and_models_are_valid_configurations(self):
        files = sorted((SOURCE / "configs").rglob("*.cfg"))
        self.assertGreater(len(files), 3)
        composed = [argument for file in files for argument in ("--config", str(file))]
        result = surgery("info", "--json", *composed)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_every_shipped_ablation_is_a_valid_configuration(self):
        text = (SOURCE / "configs/ablations/shapes.txt").read_text()
        lines = text.splitlines()
        variants = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        self.assertEqual(len({variant[0] for variant in variants}), len(variants))
        self.assertIn(f"--array=1-{len(variants)} ", text)
        for name, *options in variants:
            result = surgery("plan", "--config", str(SOURCE / "configs/recipes/shapes.cfg"),
                             f"--model.path={SOURCE}/datasets/shapes/teacher", *options)
            self.assertEqual(result.returncode, 0, name + result.stderr)

    def test_export_refuses_what_it_cannot_do(self):
        with tempfile.TemporaryDirectory() as folder:
            self.refused(64, "export needs --model PLACE", "export", "--output", f"{folder}/out")
            self.refused(64, "must be one of fp32, bf16, fp16", "export", "--model=a", "--output=b", "--dtype=int8")
            self.refused(64, "must be one of diffusers, wan, comfy", "export", "--model=a", "--output=b", "--layout=x")
            for size in ["", "0", "5G", "-1MB", "99999999999GB"]:
                self.refused(64, "must be a size", "export", "--model=a", "--output=b", f"--shard-size={size}")
            self.refused(64, "is one file", "export", "--model=a", "--output=b", "--layout=comfy", "--shard-size=1GB")
            self.refused(74, "no weights of a transformer are there", "export", "--model", folder, "--output", f"{folder}/out")
            broken = pathlib.Path(folder, "model/transformer")
            broken.mkdir(parents=True)
            broken.joinpath("config.json").write_text("{}")
            result = surgery("export", "--model", str(broken.parent), "--output", f"{folder}/out")
            self.assertIn(result.returncode, [65, 74], result.stderr)
            self.assertEqual(sorted(os.listdir(folder)), ["model"])  # nothing half made is left
            pathlib.Path(folder, "full").mkdir()
            pathlib.Path(folder, "full/a").write_text("")
            self.refused(64, "exists already", "export", "--model", str(broken.parent), "--output", f"{folder}/full")

    def test_export_keeps_every_tensor_in_another_dtype(self):
        teacher = SOURCE / "datasets/shapes/teacher"
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder, "out")
            output.mkdir()  # an empty folder may be given
            result = surgery("export", "--model", str(teacher), "--output", str(output), "--dtype=fp32")
            self.assertEqual(result.returncode, 0, result.stderr)
            parts = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
            for part, stem in parts.items():
                before = header(teacher / part / f"{stem}.safetensors")
                after = header(output / part / f"{stem}.safetensors")
                self.assertEqual({n: t["shape"] for n, t in before.items()}, {n: t["shape"] for n, t in after.items()})
                self.assertEqual({t["dtype"] for t in after.values()}, {"F32"}, part)
            for file in ["model_index.json", "tokenizer/spiece.model", "scheduler/scheduler_config.json"]:
                self.assertEqual((output / file).read_bytes(), (teacher / file).read_bytes())
            self.assertEqual(os.listdir(folder), ["out"])

    def test_inspect_tells_what_a_file_is(self):
        weights = SOURCE / "datasets/shapes/teacher/vae/diffusion_pytorch_model.safetensors"
        result = surgery("inspect", str(weights), "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout)["kind"], "safetensors")
        self.assertIn("kind: safetensors", surgery("inspect", str(weights)).stdout)
        self.refused(64, "no file was given", "inspect")
        self.refused(74, "absent", "inspect", "/absent.h5")
        with tempfile.TemporaryDirectory() as folder:
            cut = pathlib.Path(folder, "cut.safetensors")
            cut.write_bytes(weights.read_bytes()[:10000])
            self.refused(65, "cut.safetensors", "inspect", str(cut))

    def test_signals_end_what_has_nothing_to_commit(self):
        teacher = f"--model={SOURCE}/datasets/shapes/teacher"
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder, "text.safetensors")
            endless = [
                (signal.SIGTERM, ["forward", teacher, "--component=text", "--prompt=a circle", f"--output={output}",
                                  "--repeat=100000000"], output.exists),
                (signal.SIGUSR2, ["bench", "cache", f"--folder={folder}", "--repetitions=100000000"],
                 lambda: any(pathlib.Path(folder).glob("surgery-bench-*")))]
            for number, arguments, has_begun in endless:
                with subprocess.Popen([BINARY, *arguments], stdout=subprocess.DEVNULL) as process:
                    deadline = time.time() + 60
                    while not has_begun():
                        self.assertIsNone(process.poll())
                        self.assertLess(time.time(), deadline)
                        time.sleep(0.01)
                    process.send_signal(number)
                    try:
                        self.assertEqual(process.wait(timeout=20), -number, arguments[0])
                    finally:
                        process.kill()

    def test_info_tells_build_and_ranks(self):
        result = surgery("info", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        info = json.loads(result.stdout)
        libraries = {library["name"]: library for library in info["libraries"]}
        for name in ["LibTorch", "HDF5"]:  # what tells its version twice was linked as it was compiled
            self.assertEqual(libraries[name]["header"], libraries[name]["runtime"])
        self.assertFalse(info["tf32"], "fp32 is fp32 on GPUs too")
        self.assertEqual([rank["rank"] for rank in info["ranks"]], [0])
        self.assertGreater(info["ranks"][0]["memory_bytes"], 0)
        core = max(os.sched_getaffinity(0))
        bound = subprocess.run([BINARY, "info", "--json"], capture_output=True, text=True, timeout=120,
                               preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        (rank,) = json.loads(bound.stdout)["ranks"]
        self.assertEqual((rank["cores"], rank["affinity"]), (1, str(core)))


if __name__ == "__main__":
    unittest.main()
