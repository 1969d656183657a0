"""Small valid inputs for the fuzzers, and a dictionary of their words: seeds.py FOLDER, with nothing but Python itself.

Writes FOLDER/TARGET/NAME for each target and FOLDER/words.
"""
import collections
import io
import json
import pathlib
import pickle
import sys
import tarfile
import types
import zipfile

STORAGES = ("FloatStorage", "BFloat16Storage", "HalfStorage", "LongStorage", "BoolStorage")
WIDTHS = (4, 2, 2, 8, 1)


def make_torch():
    """Just enough of torch's names that pickles look like those of torch.save."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *arguments: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    sys.modules["torch"], sys.modules["torch._utils"] = torch, utils
    return torch, utils


TORCH, UTILS = make_torch()


class Storage:
    def __init__(self, kind, key, elements):
        self.identity = ("storage", getattr(TORCH, kind), key, "cpu", elements)


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return UTILS._rebuild_tensor_v2, self.arguments


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return UTILS._rebuild_parameter, (self.tensor, True, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, Storage) else None


def pickled(value, protocol):
    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    return out.getvalue()


def state_dicts():
    """name -> value, most of them state dicts, of tensors over storages "0" (fp32), "1" (bf16), ... with 6 elements each."""
    storages = [Storage(kind, str(i), 6) for i, kind in enumerate(STORAGES)]
    ordered = collections.OrderedDict((f"w{i}", Tensor(s, 0, (2, 3), (3, 1))) for i, s in enumerate(storages))
    ordered._metadata = collections.OrderedDict([("", {"version": 1})])
    views = {"turned": Tensor(storages[0], 0, (3, 2), (1, 3)), "row": Tensor(storages[0], 3, (3,), (1,)),
             "none": Tensor(storages[0], 6, (0, 4), (4, 1)), "scalar": Tensor(storages[0], 5, (), ()),
             "parameter": Parameter(Tensor(storages[0], 0, (6,), (1,)))}
    return {"ordered": ordered, "views": views, "bare": views["turned"],
            "nested": {"epoch": 3, "rate": 0.5, "notes": [1, (2, None), "é"], "big": -2**40, "state_dict": views}}


def archived(content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        records = {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}
        records |= {f"data/{i}": bytes(range(6 * width)) for i, width in enumerate(WIDTHS)}
        for name, record in records.items():
            archive.writestr(zipfile.ZipInfo(f"a/{name}"), record)
    return out.getvalue()


def tars():
    """name -> archive: each dialect, names too long for a header, a directory; small enough for the fuzzer's inputs."""
    archives = {}
    for name, dialect in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        for length in (10, 120):
            out = io.BytesIO()
            headers = {"comment": "c"} if name == "pax" and length == 10 else None
            with tarfile.open(fileobj=out, mode="w", format=dialect, pax_headers=headers) as archive:
                folder = tarfile.TarInfo("d")
                folder.type = tarfile.DIRTYPE
                archive.addfile(folder)
                member = tarfile.TarInfo("d/" + "n" * (length // 2) + "/" + "m" * (length // 2))
                member.size = 3
                archive.addfile(member, io.BytesIO(b"abc"))
            archives[f"{name}-{length}"] = out.getvalue()[:4096]  # the rest is padding
    return archives


def container(header, data_bytes):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def configurations():
    """name -> config.json: those of the published models, the original's form, a hybrid one."""
    models = pathlib.Path(__file__).parents[2] / "configs/models"
    files = {"-".join(path.parts[-3:-1]): path.read_bytes() for path in sorted(models.glob("*/*/config.json"))}
    files = {name: content for name, content in files.items() if len(content) <= 4096}
    wan = {"_class_name": "WanModel", "dim": 1536, "eps": 1e-06, "ffn_dim": 8960, "freq_dim": 256, "in_dim": 16,
           "model_type": "t2v", "num_heads": 12, "num_layers": 30, "out_dim": 16, "text_len": 512}
    hybrid = {"rates": [1, 2, "linear"], "phi_degree": 2, "phi_layers": 2, "phi_hidden_activation": "gelu",
              "phi_output_activation": "softplus", "stabilizer": "lse"}
    return files | {name: json.dumps(value).encode() for name, value in
                    {"wan": wan, "hybrid": wan | {"num_layers": 3, "hybrid": hybrid}}.items()}


def annotations():
    """name -> annotation: as Open-Sora Plan publishes them, the other names of its keys, records to leave out."""
    published = [{"path": "part/a_segment_0.mp4", "cap": ["one", "two"], "resolution": {"height": 720, "width": 1280},
                  "num_frames": 343, "fps": 29.97, "duration": 11.44, "aesthetic": 5.1, "motion": None, "tech": [1, {"a": 2}]},
                 {"path": "b.mp4", "cap": "é", "frame_idx": "5:69", "crop": [4, 100, 8, 60]}]
    others = [{"video": "c.webm", "caption": "d", "cut": [10, 75]}, {"video_path": "e.mkv", "prompt": "f", "aes": -1},
              {"file_name": "./g/../h.gif", "text": ["i"]}]
    bad = [{"path": "../a.mp4", "cap": "x"}, {"path": "a.mp4"}, {"path": 5, "cap": {"en": "x"}}, [1], "a.mp4", None]
    return {name: json.dumps(value, ensure_ascii=False).encode() for name, value in
            {"published": published, "others": others, "bad": bad}.items()}


def seeds():
    """target -> name -> bytes"""
    entry = lambda dtype, shape, begin, end: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    safetensors = {"empty": container({}, 0), "one": container({"w": entry("F32", [2, 2], 0, 16)}, 16),
                   "two": container({"__metadata__": {"format": "pt"}, "a": entry("BF16", [3], 0, 6),
                                     "b": entry("U8", [], 6, 7), "c": entry("I64", [0, 4], 7, 7)}, 7)}
    texts = ['{}', '[1,-2.5e3,true,null,"\\u00e9\\ud83d\\ude00"]', '{"a":{"b":[{"c":"d"}]},"e":"é"}', '18446744073709551615']
    pickles = {f"{name}-{protocol}": pickled(value, protocol) for name, value in state_dicts().items()
               for protocol in (2, 4, 5)}
    listings = ["a,a.json\n", "a/b,a.json\n\n.,./a.json\r\n ,\ta.json", "a,none.json", "a,b.pkl", "a", "a,b,c"]
    return {"config_json": configurations(), "annotation": annotations(),
            "listing": {str(i): text.encode() for i, text in enumerate(listings)},
            "safetensors": safetensors, "strict_json": {str(i): text.encode() for i, text in enumerate(texts)},
            "pickle": pickles, "tar": tars(), "torch_file": {name: archived(content) for name, content in pickles.items()}}


WORDS = ["9 path=a\n", "9 size=1\n", "GNU.sparse.major", "ustar  \0", "ustar\x0000", "../", "././@LongLink", "storage", "torch\n", "FloatStorage\n", "torch._utils\n_rebuild_tensor_v2\n", "torch._utils\n_rebuild_parameter\n",
         "collections\nOrderedDict\n", "cpu", "data_offsets", "dtype", "shape", "__metadata__", "BF16", "F8_E4M3",
         "a/data.pkl", "a/data/0", "a/byteorder", "PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "PK\x06\x06", "PK\x06\x07",
         "\x7f\xff\xff\xff\xff\xff\xff\xff", "\\ud800", "18446744073709551615"]


def json_words(value):
    """The keys and the texts of a JSON value, quoted, ASCII alone."""
    if isinstance(value, dict):
        return {json.dumps(key) for key in value}.union(*map(json_words, value.values()))
    if isinstance(value, list):
        return set().union(*map(json_words, value))
    return {json.dumps(value)} if isinstance(value, str) and value.isascii() else set()


def words():
    texts = [*configurations().values(), *annotations().values()]
    return WORDS + sorted(set().union(*(json_words(json.loads(text)) for text in texts))) + [",a.json\n"]


def main(folder):
    for target, inputs in seeds().items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, content in inputs.items():
            (folder / target / name).write_bytes(content)
    escaped = ("".join(c if c.isascii() and (c.isalnum() or c in "._/") else f"\\x{ord(c):02x}" for c in word) for word in words())
    (folder / "words").write_text("".join(f'"{word}"\n' for word in escaped))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
