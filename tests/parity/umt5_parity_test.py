"""umT5 at the width of umt5-xxl (two layers, a small vocabulary) and its traps, against transformers.

Environment: SURGERY_BINARY, the program.
"""
import math

import pytest
import torch
from measured import agree, difference
from safetensors.torch import load_file, save_file
from text_parity_test import CONFIGURATIONS, TOLERANCE, draw, run, sample
from transformers import UMT5Config, UMT5EncoderModel
from transformers.models.umt5.modeling_umt5 import UMT5Attention

XXL = dict(vocab_size=300, d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64, feed_forward_proj="gated-gelu")
LENGTH, COUNTS, SHORT = 512, (7, 400), 160


def scale(name, settings):
    """Standard deviation of a weight: states stay near 1, the softmax is far from uniform."""
    if "layer_norm" in name:
        return 0.2
    if "relative_attention_bias" in name:
        return 2
    if "shared" in name or "embed_tokens" in name:
        return 1
    outer = settings["d_ff"] if name.endswith("wo.weight") else settings["d_model"]
    return (2 if ".q." in name else 1) * outer ** -0.5 * (settings["d_kv"] ** -0.25 if ".q." in name or ".k." in name else 1)


@pytest.fixture(scope="module")
def xxl(tmp_path_factory):
    """Folder, model, ids and mask."""
    folder = tmp_path_factory.mktemp("xxl")
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**XXL)).eval()
    model = model.to_empty(device="cpu")
    model.tie_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.normal_(1.0 if "layer_norm" in name else 0.0, scale(name, XXL))
    model.save_pretrained(folder / "text_encoder", max_shard_size="100GB")
    ids = torch.zeros(len(COUNTS), LENGTH, dtype=torch.int64)
    for row, n in enumerate(COUNTS):
        ids[row, :n] = torch.randint(4, 300, (n,))
        ids[row, n - 1] = 1
    yield folder, model, ids, (ids > 0).long()
    for file in folder.rglob("*.safetensors"):
        file.unlink()


def exact(state, settings, ids):
    """umT5's forward written out in fp64, a tensor converted at a time; no pads."""
    heads, d_kv = settings["num_heads"], settings["d_kv"]

    def weight(layer, part, name):
        return state[f"encoder.block.{layer}.layer.{part}.{name}.weight"].double()

    def norm(x, by):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * by

    def split(x):
        return x.unflatten(-1, (heads, d_kv)).transpose(0, 1)

    distance = torch.arange(len(ids))[None, :] - torch.arange(len(ids))[:, None]
    firsts = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91])
    buckets = torch.bucketize(distance.abs(), firsts, right=True) + 16 * (distance > 0)
    x = state["shared.weight"][ids].double()
    for layer in range(settings["num_layers"]):
        a = norm(x, weight(layer, 0, "layer_norm"))
        q, k, v = (split(a @ weight(layer, 0, f"SelfAttention.{name}").T) for name in "qkv")
        bias = weight(layer, 0, "SelfAttention.relative_attention_bias")[buckets].permute(2, 0, 1)
        mixed = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).flatten(1) @ weight(layer, 0, "SelfAttention.o").T
        a = norm(x, weight(layer, 1, "layer_norm"))
        gate = a @ weight(layer, 1, "DenseReluDense.wi_0").T
        gate = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate ** 3)))
        x = x + (gate * (a @ weight(layer, 1, "DenseReluDense.wi_1").T)) @ weight(layer, 1, "DenseReluDense.wo").T
    return norm(x, state["encoder.final_layer_norm.weight"].double())


def real(rows, mask):
    return torch.cat([r[:n] for r, n in zip(rows, mask.sum(1).tolist())])


def test_xxl_width_in_fp32(xxl, tmp_path):
    folder, model, ids, mask = xxl
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    ours = run(folder, tmp_path, {"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    agree(real(ours, mask), real(expected, mask), TOLERANCE)


def test_xxl_width_in_bf16(xxl, tmp_path):
    """No further from fp64 than 1.2 times the reference's distance: the order of roundings is each one's own. Both take the
    mean square, the scores and the softmax in fp32 and round what goes into a product and what comes out of it."""
    folder, model, ids, _ = xxl
    ids = ids[1:, :SHORT]
    rounded = model.bfloat16()  # what rounding the weights alone does is no error of either
    with torch.no_grad():
        truth = exact(rounded.state_dict(), XXL, ids[0])
        theirs = difference(rounded(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0], truth)
    ours = run(folder, tmp_path, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, precision="bf16")
    assert ours["last_hidden_state"].dtype == torch.bfloat16
    agree(ours["last_hidden_state"][0], truth, 1.2 * theirs)
    assert 1e-3 < theirs < 0.1


def test_every_layer_has_its_own_position_bias(tmp_path, monkeypatch):
    """Sharing the first layer's, as T5 does, would show."""
    model = draw(CONFIGURATIONS["small"])
    model.save_pretrained(tmp_path / "text_encoder")
    ids, mask = sample(60)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        first = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        for block in model.encoder.block[1:]:
            block.layer[0].SelfAttention.relative_attention_bias.weight.copy_(first)
        shared = model(input_ids=ids, attention_mask=mask).last_hidden_state
        monkeypatch.setattr(UMT5Attention, "compute_bias", lambda self, q, k, **options: torch.zeros(1, self.n_heads, q, k))
        none = model(input_ids=ids, attention_mask=mask).last_hidden_state
    ours = run(tmp_path, tmp_path, {"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    agree(ours, expected, TOLERANCE)
    assert difference(shared, expected) > 1e-2 and difference(none, expected) > 1e-2


@pytest.mark.parametrize("holds", ["shared", "tied", "both"])
def test_the_embedding_is_shared_weight(holds, tmp_path):
    """Alone, under its second name, or with a copy beside it that was left as it was drawn (transformers 5 once read
    Wan's files so and gave noise)."""
    model = draw(CONFIGURATIONS["small"])
    model.save_pretrained(tmp_path / "text_encoder")
    file = tmp_path / "text_encoder/model.safetensors"
    tensors = load_file(file)
    tensors.pop("encoder.embed_tokens.weight", None)
    if holds == "tied":
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    if holds == "both":
        tensors["encoder.embed_tokens.weight"] = torch.randn_like(tensors["shared.weight"])
    save_file(tensors, file, metadata={"format": "pt"})
    ids, mask = sample(20)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    agree(run(tmp_path, tmp_path, {"input_ids": ids, "attention_mask": mask})["last_hidden_state"], expected, TOLERANCE)
