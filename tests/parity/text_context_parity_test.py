"""What the transformer is given of a prompt, and what it makes of it, against diffusers' WanPipeline: the encoder's rows
of the real tokens, zeros up to 512, and a cross-attention that attends to all of them.

Environment: SURGERY_BINARY, the program; TRAIN_TOKENIZER_PROGRAM, the tests' program that writes a tokenizer folder.
"""
import os
import subprocess

import pytest
import torch
from diffusers import WanPipeline
from measured import agree, difference
from safetensors.torch import load_file, save_file
from text_parity_test import draw, prompts
from transformer_parity_test import draw as draw_transformer
from transformer_parity_test import forward as forward_transformer
from transformers import AutoTokenizer

LENGTH = 512
TOLERANCE = 1e-5  # relative L2 in fp32
WIDTH = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "lines.txt").write_text("\n".join(prompts()), "utf-8")
    subprocess.run([os.environ["TRAIN_TOKENIZER_PROGRAM"], folder / "lines.txt", "400", str(LENGTH), folder / "tokenizer"],
                   check=True, timeout=120)
    encoder = draw(dict(vocab_size=512, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4))
    encoder.save_pretrained(folder / "text_encoder")
    return folder, encoder, AutoTokenizer.from_pretrained(folder / "tokenizer")


@pytest.fixture(scope="module")
def texts(model):
    """Three of usual length, the empty one, and one that is cut."""
    lines = prompts()[::70][:3] + ["", " ".join(prompts()[:60])]
    ids = [model[2](line).input_ids for line in lines]
    assert len(ids[3]) == 1 and len(ids[4]) >= LENGTH and all(2 < len(i) < 200 for i in ids[:3])
    return lines


@pytest.fixture(scope="module")
def context(model, texts, tmp_path_factory):
    """The program's."""
    work = tmp_path_factory.mktemp("context")
    (work / "prompts.txt").write_text("\n".join(texts) + "\n", "utf-8")
    subprocess.run([os.environ["SURGERY_BINARY"], "forward", "--model", model[0], "--component", "context", "--prompt",
                    f"@{work}/prompts.txt", "--output", work / "out.safetensors"], check=True, timeout=120)
    return load_file(work / "out.safetensors")["encoder_hidden_states"]


def pipeline_context(model, texts):
    pipeline = WanPipeline(tokenizer=model[2], text_encoder=model[1], vae=None, scheduler=None)
    with torch.no_grad():
        return pipeline._get_t5_prompt_embeds(texts, max_sequence_length=LENGTH, device="cpu", dtype=torch.float32)


def padded(model, texts):
    tokens = model[2](texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def test_context_is_the_pipelines(model, texts, context):
    expected = pipeline_context(model, texts)
    assert context.shape == (len(texts), LENGTH, WIDTH)
    agree(context, expected, TOLERANCE)


def test_rows_past_the_mask_are_zeros_and_not_the_encoders(model, texts, context):
    ids, mask = padded(model, texts)
    with torch.no_grad():
        raw = model[1](input_ids=ids, attention_mask=mask).last_hidden_state
    counts = mask.sum(1).tolist()
    assert counts[3] == 1 and counts[4] == LENGTH and ids[4, -1] == 1
    for rows, encoder_rows, n in zip(context, raw, counts):
        assert (rows[:n].abs().sum(1) > 0).all() and not rows[n:].any()
        if n < LENGTH:
            assert encoder_rows[n:].abs().sum(1).min() > 0.1, "the encoder's own rows of pads must differ from zeros"


def test_a_pad_that_is_not_masked_would_show(model, texts, context, tmp_path):
    ids, mask = padded(model, texts[:4])
    save_file({"input_ids": ids, "attention_mask": mask}, tmp_path / "in.safetensors")
    subprocess.run([os.environ["SURGERY_BINARY"], "forward", "--model", model[0], "--component", "text", "--input",
                    tmp_path / "in.safetensors", "--output", tmp_path / "out.safetensors"], check=True, timeout=120)
    ours = load_file(tmp_path / "out.safetensors")["last_hidden_state"]
    for row, n in enumerate(mask.sum(1).tolist()):
        one_more = mask[row:row + 1].clone()
        one_more[0, n] = 1
        with torch.no_grad():
            wrong = model[1](input_ids=ids[row:row + 1], attention_mask=one_more).last_hidden_state
        agree(ours[row, :n], context[row, :n], TOLERANCE)  # 512 with a mask, or the real tokens alone
        assert difference(wrong[0, :n], context[row, :n]) > 1e-3


def test_cross_attention_attends_to_the_zeros(context, tmp_path):
    transformer = draw_transformer(dict(num_attention_heads=4, attention_head_dim=16, num_layers=2, text_dim=WIDTH))
    transformer.save_pretrained(tmp_path / "transformer")
    tensors = {"hidden_states": torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(3)),
               "timestep": torch.tensor([500.0]), "encoder_hidden_states": context[:1]}
    with torch.no_grad():
        expected = transformer(**tensors).sample
        n = int((context[0].abs().sum(1) > 0).sum())
        masked = transformer(**tensors | {"encoder_hidden_states": context[:1, :n]}).sample  # pads left out
    assert n < LENGTH / 2 and difference(masked, expected) > 1e-2, "the pads must matter, or the comparison is blind"
    code, ours = forward_transformer(tmp_path, tensors, tmp_path)
    assert code == 0, ours
    agree(ours, expected, TOLERANCE)
