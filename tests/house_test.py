"""The rule of the house: a file includes only from its own floor and the floors below it.

Also keeps heavy headers inside the .cpp files that wrap them, and headers that need one away from other headers.
Usage: house_test.py REPOSITORY
"""
import pathlib
import re
import sys
import unittest

FLOORS = ["base", "storage", "parallel", "attention", "wan", "data", "report", "recipe", "app"]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
HEAVY = re.compile(r"^(mpi\.h|nccl\.h|hdf5\.h|H5.*\.h|libav\w+/.*|libswscale/.*|sentencepiece\w*\.h)$")


def sources(root):
    return sorted(p for p in (root / "src").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})


def faults_of(root, text, path):
    floor = path.relative_to(root / "src").parts[0]
    if floor not in FLOORS:
        return [f"{path}: '{floor}' is no floor of the house"]
    faults = []
    for kind, name in INCLUDE.findall(text):
        target = name.split("/")[0]
        if kind == '"' and not (root / "src" / name).exists():
            faults.append(f'{path}: "{name}" is not under src/ (own headers are named from there)')
        elif kind == '"' and target in FLOORS and FLOORS.index(target) > FLOORS.index(floor):
            faults.append(f"{path}: floor {floor} includes {name} from {target}, a floor above it")
    return faults


def heavy_faults(texts):
    """texts: path -> content. A header with a heavy include is private: only .cpp files of its folder include it."""
    heavy = {}
    for path, text in texts.items():
        names = [name for kind, name in INCLUDE.findall(text) if kind == "<" and HEAVY.match(name)]
        if names and path.endswith(".h"):
            heavy[path.removeprefix("src/")] = names[0]
    faults = []
    for path, text in texts.items():
        for _, name in INCLUDE.findall(text):
            private = path.endswith(".cpp") and path.split("/")[1] == name.split("/")[0]
            if name in heavy and not private:
                faults.append(f"{path}: includes {name}, which brings {heavy[name]} (for .cpp files of its folder)")
    return faults


class House(unittest.TestCase):
    root = pathlib.Path(__file__).resolve().parent.parent

    def test_includes_go_downward(self):
        files = sources(self.root)
        self.assertGreater(len(files), 20, "the sources were not found")
        faults = [fault for path in files for fault in faults_of(self.root, path.read_text(), path)]
        self.assertEqual(faults, [], "\n" + "\n".join(faults))

    def test_the_reader_finds_what_is_wrong(self):
        wrong = {
            "src/base/log.h": '#include "recipe/config.h"',
            "src/wan/vae.h": '  #  include "recipe/config.h"',
            "src/attic/box.h": "",
            "src/data/odd.h": '#include "odd_neighbour.h"',
        }
        for name, text in wrong.items():
            self.assertEqual(len(faults_of(self.root, text, self.root / name)), 1, name)
        fine = '#include "base/log.h"\n#include "recipe/config.h"\n#include <vector>\n'
        self.assertEqual(faults_of(self.root, fine, self.root / "src/recipe/plan.h"), [])

    def test_heavy_headers_stay_in_their_wrappers(self):
        texts = {str(path.relative_to(self.root)): path.read_text() for path in sources(self.root)}
        faults = heavy_faults(texts)
        self.assertEqual(faults, [], "\n" + "\n".join(faults))
        wrapper = {"src/data/libav.h": "#include <libavcodec/avcodec.h>"}
        self.assertEqual(heavy_faults(wrapper | {"src/data/read.cpp": '#include "data/libav.h"'}), [])
        self.assertEqual(len(heavy_faults(wrapper | {"src/data/video.h": '#include "data/libav.h"'})), 1)
        self.assertEqual(len(heavy_faults(wrapper | {"src/app/info.cpp": '#include "data/libav.h"'})), 1)

    def test_logic_does_not_switch_on_macros(self):
        """Optional back-ends are files of their own (a library's version may be asked for)."""
        switch = re.compile(r"^\s*#\s*(ifdef|ifndef|if(?!.*VERSION))", re.MULTILINE)
        faults = [str(p) for p in sources(self.root) if p.suffix != ".cu" and switch.search(p.read_text())]
        self.assertEqual(faults, [])


if __name__ == "__main__":
    unittest.main()
