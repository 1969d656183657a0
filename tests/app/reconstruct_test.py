"""`surgery reconstruct`: videos through the VAE and back (SURGERY_BINARY), with the shapes teacher's VAE."""
import csv
import json
import math
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

BINARY = os.environ["SURGERY_BINARY"]
SOURCE = pathlib.Path(__file__).resolve().parents[2]
TEACHER = SOURCE / "datasets/shapes/teacher"
CLIPS = SOURCE.parent / "shared/data/clips"  # real clips
SIZE = ["--data.frames=5", "--data.height=64", "--data.width=80"]


def surgery(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "SURGERY_SINGLE_RANK": "1"})


def has_video():
    build = json.loads(surgery("info", "--json").stdout)
    return any(library["name"].startswith("libav") for library in build["libraries"])


@unittest.skipUnless(has_video(), "built without the video back-end")
class Reconstruct(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        # The shapes set is written out as mp4 on the way to latents.
        made = surgery("encode", f"--run.directory={cls.folder / 'run'}", f"--model.path={TEACHER}", "--data.count=3", *SIZE)
        assert made.returncode == 0, made.stderr
        cls.listing = next((cls.folder / "run/data/clips").glob("*/*.txt"))
        cls.clips = cls.folder / "clips"
        cls.clips.mkdir()
        for file in sorted(cls.listing.parent.rglob("*.mp4")):
            shutil.copy(file, cls.clips)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def reconstruct(self, source, *options, code=0):
        output = pathlib.Path(tempfile.mkdtemp(dir=self.folder)) / "clips"
        result = surgery("reconstruct", "--model", TEACHER, "--input", source, "--output", output, *SIZE, *options)
        self.assertEqual(result.returncode, code, result.stderr)
        if code:
            return result
        table = list(csv.DictReader((output / "reconstruction.csv").read_text().splitlines()))
        return output, json.loads((output / "reconstruction.json").read_text()), table, result.stdout

    def test_a_folder_whose_bad_clips_are_named_and_left_out(self):
        bad = self.clips / "000-broken, \"really\".mp4"
        bad.write_bytes(b"no video")
        try:
            output, told, table, printed = self.reconstruct(self.clips)
        finally:
            bad.unlink()
        good = [clip for clip in told["clips"] if "psnr" in clip]
        self.assertEqual([len(told["clips"]), len(good)], [4, 3])
        for clip in good:
            self.assertGreater(clip["psnr"], 25, "the teacher's VAE knows these pictures")
            shown = json.loads(surgery("inspect", "--json", output / clip["file"]).stdout)
            self.assertIn("80", json.dumps(shown))
        self.assertAlmostEqual(told["mean_psnr"], sum(clip["psnr"] for clip in good) / 3)
        self.assertEqual([row["video"] for row in table], [clip["video"] for clip in told["clips"]])
        self.assertAlmostEqual(float(table[-1]["psnr"]), told["clips"][-1]["psnr"], 3)
        wrong = next(row for row in table if row["error"])
        self.assertEqual(wrong["video"], bad.name)
        self.assertIn(bad.name, printed)
        self.assertEqual(len(list(output.glob("*.mp4"))), 3)

    def test_listing_and_single_file_agree_and_settings_reach_the_vae(self):
        _, listed, _, _ = self.reconstruct(self.listing)
        video = next(self.listing.parent.rglob(listed["clips"][0]["video"]))
        _, single, _, _ = self.reconstruct(video)
        self.assertEqual(single["clips"][0]["psnr"], listed["clips"][0]["psnr"])
        for option in ("--model.vae_tile=32", "--model.vae_precision=bf16"):
            _, other, _, _ = self.reconstruct(video, option)
            self.assertNotEqual(other["clips"][0]["psnr"], single["clips"][0]["psnr"], option)
            self.assertAlmostEqual(other["clips"][0]["psnr"], single["clips"][0]["psnr"], delta=6, msg=option)

    @unittest.skipUnless((CLIPS / "data.txt").exists(), "the real clips are not here")
    def test_real_clips_come_back_whole(self):
        output, told, table, printed = self.reconstruct(CLIPS / "data.txt")
        listed = [record["path"] for record in json.loads((CLIPS / "clips.json").read_text())]
        self.assertGreaterEqual(len(listed), 5)
        self.assertEqual([clip["video"] for clip in told["clips"]], listed)
        self.assertEqual(sorted(path.name for path in output.glob("*.mp4")), sorted(clip["file"] for clip in told["clips"]))
        for clip, row in zip(told["clips"], table):
            shown = json.loads(surgery("inspect", "--json", output / clip["file"]).stdout)
            self.assertEqual([shown[name] for name in ("frames", "height", "width")], [5, 64, 80], clip["file"])
            self.assertTrue(math.isfinite(clip["psnr"]), clip)
            self.assertTrue(5 < clip["psnr"] < 60, "neither noise nor the clip itself")
            self.assertAlmostEqual(float(row["psnr"]), clip["psnr"], 3)
            self.assertIn(f"{clip['psnr']:8.2f} dB  {clip['video']}", printed)
        self.assertEqual(len({clip["psnr"] for clip in told["clips"]}), len(listed), "each clip has its own")
        self.assertTrue(math.isfinite(told["mean_psnr"]))
        self.assertIn(f"mean of {len(listed)} clips; ", printed)

    def test_what_cannot_be_used_is_refused(self):
        empty = self.folder / "empty"
        empty.mkdir()
        self.assertIn("holds no video", self.reconstruct(empty, code=65).stderr)
        self.assertIn("no such file", self.reconstruct(self.folder / "absent", code=74).stderr)
        bad = self.folder / "bad.mp4"
        bad.write_bytes(b"no video")
        self.assertIn("none of 1 videos", self.reconstruct(bad, code=65).stderr)
        output, *_ = self.reconstruct(self.listing)
        again = surgery("reconstruct", "--model", TEACHER, "--input", self.listing, "--output", output, *SIZE)
        self.assertEqual(again.returncode, 64, again.stderr)
        self.assertIn("another reconstruction", again.stderr)
        self.assertIn("data.buckets", self.reconstruct(self.listing, "--data.buckets=5x64x80", code=64).stderr)


if __name__ == "__main__":
    unittest.main()
