"""Token ids against transformers: freshly trained SentencePiece models, with SentencePiece's usual normaliser and with
none, with and without pieces for bytes, on a thousand prompts and the lines that break tokenizers.

The reference is what Wan and diffusers use, the fast tokenizer: transformers' conversion of spiece.model with umT5's 300
sentinels (what its tokenizer.json holds), and the class that AutoTokenizer gives today.

Environment: TEXT_PROGRAM, tests/parity/text_program.cpp; SURGERY_BINARY, the program.
"""
import io
import json
import os
import subprocess
import types

import pytest
import sentencepiece
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from texts import HOSTILE, MULTILINGUAL, WAN_NEGATIVE, ask, shared, vbench
from transformers import T5Tokenizer
from transformers.convert_slow_tokenizer import T5Converter

LIMIT, END, UNKNOWN = 512, 1, 3
NEGATIVE = WAN_NEGATIVE.read_text("utf-8").strip()
# Written in a prompt they are tokens to the reference and text to us: no prompt means them.
TOKENS_IN_TEXT = ["</s>", "<pad>", "<unk>", "<s>", "<extra_id_"]
MARKER = "▁"  # SentencePiece's own word marker; a space to the reference


def prompts():
    lines = vbench() + shared("all_dimension_aug_wanx_seed42.txt")[:200] + MULTILINGUAL + [NEGATIVE]
    return lines + [f"{line}, {more}" for more in ("in 4K", "at dawn", "close-up", "CGI!") for line in lines][:1000 - len(lines)]


def plain(text):
    return MARKER not in text and not any(token in text for token in TOKENS_IN_TEXT)


@pytest.fixture(scope="module", params=[(rule, bytes_) for rule in ("nmt_nfkc", "identity") for bytes_ in (False, True)],
                ids=lambda p: f"{p[0]}{'-bytes' if p[1] else ''}")
def trained(request, tmp_path_factory):
    """The folder of a tokenizer as umT5's might be, and its bytes."""
    rule, byte_fallback = request.param
    model = io.BytesIO()
    lines = [prompt_clean(line) for line in prompts() + [NEGATIVE] * 20]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", vocab_size=2000, hard_vocab_limit=False,
        pad_id=0, eos_id=END, bos_id=2, unk_id=UNKNOWN, character_coverage=0.999, byte_fallback=byte_fallback,
        normalization_rule_name=rule, num_threads=1, minloglevel=2, max_sentence_length=20000)
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LIMIT, "extra_ids": 0}))
    return folder


def fast(folder):
    """What transformers' conversion makes of the model: umT5's tokenizer.json."""
    return T5Converter(types.SimpleNamespace(vocab_file=str(folder / "spiece.model"), _extra_ids=300,
                                             convert_tokens_to_ids=lambda token: END)).converted()


def cut(ids):
    """Truncation as the reference does it: the end stays the last."""
    return ids[:-1][:LIMIT - 1] + [END]


def differing(texts, ours, reference):
    """Where the ids differ by more than the order of equally likely pieces."""
    return [(text, mine, theirs) for text, mine, theirs in zip(texts, ours, reference) if sorted(mine) != sorted(theirs)]


@pytest.mark.filterwarnings("ignore:The sentencepiece tokenizer")
def test_ids_are_the_fast_tokenizers(trained):
    texts = [text for text in prompts() + HOSTILE if plain(text)]
    assert len(texts) >= 1000
    cleaned = [prompt_clean(text) for text in texts]
    reference = fast(trained)
    expected = [cut(encoding.ids) for encoding in reference.encode_batch(cleaned)]
    ours = ask("ids", texts, trained)
    assert not (wrong := differing(cleaned, ours, expected)), wrong[:3]
    reordered = [(text, mine, theirs) for text, mine, theirs in zip(cleaned, ours, expected) if mine != theirs]
    # fp32 sums of equal probabilities: only repeated characters ("...") can be cut so.
    repeats = ("…", "...", "aaa", "?!?")
    assert len(reordered) < len(texts) / 100 and all(any(r in text for r in repeats) for text, *_ in reordered), reordered[:2]
    assert any(UNKNOWN in ids for ids in ours), "unknown characters must occur, or the comparison is blind to them"
    assert [END] in ours and any(len(ids) == LIMIT for ids in ours)
    # Wan's negative prompt, with its full-width commas.
    negative = texts.index(NEGATIVE)
    assert ours[negative] == expected[negative] and len(ours[negative]) > 20


def test_ids_are_the_slow_tokenizers(trained):
    """SentencePiece itself; only of pieces for bytes it makes more than the reference does."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(trained / "spiece.model"))
    texts = prompts()[::5] + HOSTILE
    expected = [cut(model.encode(prompt_clean(text)) + [END]) for text in texts]
    folded = []
    for ids in expected:
        kept = [UNKNOWN if model.is_byte(i) else i for i in ids]
        folded.append([i for at, i in enumerate(kept) if not (at and i == UNKNOWN == kept[at - 1] and model.is_byte(ids[at]))])
    short = [at for at, ids in enumerate(expected) if len(ids) < LIMIT]  # where folding does not move the cut
    ours = ask("ids", texts, trained)
    assert not (wrong := differing([texts[i] for i in short], [ours[i] for i in short], [folded[i] for i in short])), wrong[:3]


def test_bytes_are_kept_where_tokenizer_json_says_so(trained, tmp_path):
    model = sentencepiece.SentencePieceProcessor(model_file=str(trained / "spiece.model"))
    if not any(model.is_byte(i) for i in range(model.vocab_size())):
        pytest.skip("this model has no pieces for bytes")
    for name in ("spiece.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "byte_fallback": True}}))
    rare = "rare \u4da9 sign"
    assert ask("ids", [rare], tmp_path) == [model.encode(rare) + [END]]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "byte_fallback": False}}))
    without = ask("ids", [rare], tmp_path)
    assert without == ask("ids", [rare], trained) and UNKNOWN in without[0]
    for damaged in ["", '{"model":', "[1]", "{}", '{"model": []}', '{"model": 7}']:
        (tmp_path / "tokenizer.json").write_text(damaged)
        result = subprocess.run([os.environ["SURGERY_BINARY"], "inspect", tmp_path], capture_output=True, text=True)
        assert result.returncode == 65 and "tokenizer.json" in result.stderr, (damaged, result.stderr)


def test_ids_are_those_of_todays_class(trained):
    """It takes T5's 2 for the unknown piece, which in umT5 is the beginning of a sequence; the rest agrees."""
    reference = T5Tokenizer.from_pretrained(trained)
    texts = [text for text in prompts()[::5] + HOSTILE if plain(text)]
    ours = ask("ids", texts, trained)
    expected = [reference(prompt_clean(text), truncation=True, max_length=LIMIT).input_ids for text in texts]
    expected = [[UNKNOWN if i == 2 else i for i in ids] for ids in expected]
    assert not (wrong := differing(texts, ours, expected)), wrong[:3]


@pytest.mark.filterwarnings("ignore:The sentencepiece tokenizer")
def test_tokens_written_in_a_prompt_are_text(trained):
    """The known difference; this fails when it goes away."""
    texts = [text for text in HOSTILE if any(token in text for token in TOKENS_IN_TEXT)]
    assert len(texts) >= 4
    reference = fast(trained)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(trained / "spiece.model")).vocab_size()
    for text, mine in zip(texts, ask("ids", texts, trained)):
        theirs = cut(reference.encode(prompt_clean(text)).ids)
        assert mine != theirs and mine.count(END) == 1 and mine[-1] == END and 0 not in mine and 2 not in mine
        assert max(theirs) >= pieces or theirs.count(END) > 1 or 0 in theirs


def test_the_longest_prompts_end_with_their_end(trained):
    for ids in ask("ids", ["word " * 700, "長い文 " * 600, "a, b. " * 5000], trained):
        assert len(ids) == LIMIT and ids[-1] == END and ids.count(END) == 1
