"""Files of torch.save against torch itself: what `surgery inspect` tells of them, and their tensors bit for bit.

Environment: SURGERY_BINARY, the program; READ_TENSORS_PROGRAM, the tests' program that copies a file's tensors.
"""
import collections
import json
import os
import pathlib
import subprocess

import pytest
import torch
from safetensors.torch import load_file

BINARY = os.environ["SURGERY_BINARY"]
READ = os.environ["READ_TENSORS_PROGRAM"]
DATA = 65
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}


def draw(*shape, seed=0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 50).to(dtype)


def inspect(path):
    ran = subprocess.run([BINARY, "inspect", "--json", str(path)], capture_output=True, text=True)
    return ran.returncode, json.loads(ran.stdout) if ran.returncode == 0 else ran.stderr


def check(path, tensors, key="", **metadata):
    """The file tells and gives exactly `tensors`."""
    code, found = inspect(path)
    assert code == 0, found
    assert (found["kind"], found["key"], found["metadata"]) == ("torch", key, metadata)
    assert found["bytes"] == path.stat().st_size
    assert found["numbers"] == sum(tensor.numel() for tensor in tensors.values())
    assert {row["name"]: (row["dtype"], row["shape"]) for row in found["tensors"]} == {
        name: (DTYPES[tensor.dtype], list(tensor.shape)) for name, tensor in tensors.items()}
    copy = path.with_suffix(".safetensors")
    subprocess.run([READ, path, copy], check=True)
    read = load_file(copy)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype, name
        # Compared as bytes: NaN equals itself, -0 differs from 0.
        same = read[name].contiguous().reshape(-1).view(torch.uint8), tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(*same), name


def every_dtype():
    tensors = {str(dtype): draw(3, 5, seed=i, dtype=dtype) for i, dtype in enumerate(DTYPES)}
    special = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40])
    return tensors | {"special": special, "scalar": torch.tensor(2.5), "empty": torch.empty(0, 7), "é 日本": draw(2)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_in_every_protocol(tmp_path, protocol):
    tensors = every_dtype()
    torch.save(collections.OrderedDict(tensors), tmp_path / "a.pth", pickle_protocol=protocol)
    check(tmp_path / "a.pth", tensors)
    torch.save(tensors, tmp_path / "b.pth", pickle_protocol=protocol)
    check(tmp_path / "b.pth", tensors)


def test_views_shared_storages_and_parameters(tmp_path):
    base, other = draw(6, 8), draw(40, seed=1, dtype=torch.bfloat16)
    tensors = {"base": base, "again": base, "turned": base.t(), "row": base[2], "column": base[:, 3], "corner": base[1:4, 2:7:2],
               "permuted": base.view(2, 3, 8).permute(2, 0, 1), "last": base[5, 7], "none": base[6:],
               "tail": other[33:], "parameter": torch.nn.Parameter(draw(4, seed=2)),
               "frozen": torch.nn.Parameter(draw(3, seed=3), requires_grad=False)}
    torch.save(tensors, tmp_path / "a.pth")
    check(tmp_path / "a.pth", tensors)


def test_a_modules_state_dict(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.BatchNorm3d(3), torch.nn.LayerNorm(5)).to(torch.bfloat16)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    check(tmp_path / "a.pth", dict(module.state_dict()))


@pytest.mark.parametrize("key", ["state_dict", "model_state", "model"])
def test_nested_state_dicts(tmp_path, key):
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    saved = {"epoch": 3, "optimizer": optimizer.state_dict(), key: module.state_dict(), "history": [0.5, (1, None)]}
    torch.save(saved, tmp_path / "a.pth")
    check(tmp_path / "a.pth", dict(module.state_dict()), key=key)


def test_plain_values_beside_tensors(tmp_path):
    tensors = {"w": draw(3)}
    torch.save(tensors | {"step": -7, "rate": 0.5, "name": "é", "done": True, "none": None}, tmp_path / "a.pth")
    check(tmp_path / "a.pth", tensors, step="-7", rate="0.5", name="é", done="true", none="none")


def test_ten_thousand_tensors(tmp_path):
    tensors = {f"blocks.{i}.weight": torch.full((2,), float(i)) for i in range(10_000)}
    torch.save(tensors, tmp_path / "a.pth")
    check(tmp_path / "a.pth", tensors)


def test_without_checksums(tmp_path):
    old = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": draw(9)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(old)
    check(tmp_path / "a.pth", {"w": draw(9)})


def test_the_name_does_not_matter(tmp_path):
    torch.save({"w": draw(9)}, tmp_path / "weights.bin")
    check(tmp_path / "weights.bin", {"w": draw(9)})


def refused(path):
    code, message = inspect(path)
    assert code == DATA, message
    return message


class Owned:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_what_is_not_weights_is_refused(tmp_path):
    def message(value, **options):
        torch.save(value, tmp_path / "a.pth", **options)
        return refused(tmp_path / "a.pth")

    assert "wants to import posix.system" in message({"w": draw(3), "x": Owned()})
    assert not pathlib.Path("owned").exists()
    assert "wants to import" in message(torch.nn.Linear(2, 2))
    assert "8-bit float" in message({"w": draw(3).to(torch.float8_e4m3fn)})
    assert "a dtype that is not read" in message({"w": draw(3).to(torch.complex64)})
    assert "wants to import" in message({"w": draw(3, 3).to_sparse()})
    assert "more than once" in message({"w": draw(1).expand(1000)})
    assert "holds several dicts" in message({"a": {"w": draw(3)}, "b": {"w": draw(3)}})
    assert "not a dict" in message([draw(3)])
    assert "torch.save(torch.load(" in message({"w": draw(3)}, _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert "programs of TorchScript" in refused(tmp_path / "script.pt")
