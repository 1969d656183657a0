"""The cleaning of prompts against ftfy and diffusers, live: clean text, text that was misread in every way that ftfy
knows, hostile lines, and random strings of the characters that misread text is made of.

Environment: TEXT_PROGRAM, tests/parity/text_program.cpp.
"""
import random

import ftfy
import ftfy.bad_codecs  # noqa: F401  the sloppy code pages
import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from ftfy.badness import MOJIBAKE_CATEGORIES
from ftfy.chardata import CHARMAP_ENCODINGS
from texts import HOSTILE, MULTILINGUAL, WAN_NEGATIVE, ask, shared, vbench

MOST_COMMON = ["latin-1", "sloppy-windows-1252", "windows-1252"]


def compare(what, texts):
    """Pairs on which the program differs from the reference, and the share that it had to change."""
    reference = ftfy.fix_text if what == "fix" else prompt_clean
    expected = [reference(text) for text in texts]
    wrong = [(text, ours, theirs) for text, ours, theirs in zip(texts, ask(what, texts), expected) if ours != theirs]
    return wrong, sum(text != theirs for text, theirs in zip(texts, expected)) / len(texts)


def misread(text, encoding, times):
    """UTF-8 taken for `encoding`, so often; None where that encoding has no such bytes."""
    for _ in range(times):
        try:
            text = text.encode("utf-8").decode(encoding, "replace" if encoding == "windows-1252" else "strict")
        except UnicodeError:
            return None
    return text


def corpus():
    lines = MULTILINGUAL + vbench()[::8] + shared("all_dimension_aug_wanx_seed42.txt")[::40]
    quoted = [f"“{line.replace(' ', chr(0xA0), 1)}” – it’s a café, naïve…" for line in lines]
    return lines[:len(MULTILINGUAL)] + quoted + [WAN_NEGATIVE.read_text("utf-8")]


def test_clean_text_stays_as_the_reference_leaves_it():
    texts = vbench() + shared("all_dimension_aug_wanx_seed42.txt") + shared("all_dimension_cn.txt") + MULTILINGUAL
    for what in ("fix", "clean"):
        wrong, _ = compare(what, texts)
        assert not wrong, wrong[:5]
    untouched = [text for text in texts if ftfy.fix_text(text) == text]
    assert len(untouched) > len(texts) * 0.5, "the corpus must hold text that needs no mending"
    assert ask("fix", untouched) == untouched


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_misread_text_is_mended_alike(times):
    """The share of agreement that README states."""
    lines, texts = corpus(), []
    for encoding in MOST_COMMON + CHARMAP_ENCODINGS[2:]:
        some = [text for line in lines if (text := misread(line, encoding, times)) is not None]
        assert len(some) > len(lines) * 0.9, encoding
        texts += some
    wrong, changed = compare("fix", texts)
    assert not wrong, (len(wrong), len(texts), wrong[:3])
    assert changed > 0.9, "the reference must find something to mend, or the comparison is blind"


def test_the_most_common_misreadings_come_back_whole():
    """Not only as the reference: as it was written."""
    pairs = [(misread(line, encoding, times), ftfy.fix_text(line)) for line in MULTILINGUAL for encoding in MOST_COMMON[:2]
             for times in (1, 2)]
    pairs = [(text, line) for text, line in pairs if ftfy.fix_text(text) == line]
    assert len(pairs) > 3 * len(MULTILINGUAL)
    assert ask("fix", [text for text, _ in pairs]) == [line for _, line in pairs]


def test_partly_misread_text_is_mended_alike():
    texts = []
    for line in corpus()[::2]:
        for encoding in MOST_COMMON:
            bad = misread(line, encoding, 1)
            half = len(line) // 2
            texts += [line + " " + bad, misread(line[:half], encoding, 1) + line[half:] + " 漢字", bad.replace("\xa0", " "),
                      bad.replace("\x9d", "?"), bad[:-1], "x" + bad[1:], bad.upper(), bad.replace("\x80", "\x1a")]
    wrong, changed = compare("fix", texts)
    assert not wrong, (len(wrong), len(texts), wrong[:3])
    assert changed > 0.9


def test_hostile_lines():
    for what in ("fix", "clean"):
        wrong, changed = compare(what, HOSTILE)
        assert not wrong, wrong[:5]
        assert changed > 0.5


def test_random_strings_of_suspicious_characters():
    draw = random.Random(7)
    characters = sorted(set("".join(bytes(range(0x80, 0x100)).decode(e) for e in CHARMAP_ENCODINGS)
                            + "".join(MOJIBAKE_CATEGORIES.values()) + "\x1a\ufffd"))
    starts = [c for c in "ÂÃÄÅâãäåðàØÙÐÑвВГРСΒΓΞΟβāŒœ√≈‚×" for _ in range(6)]
    texts = ["".join(draw.choice([draw.choice(characters), draw.choice(starts), draw.choice(" aZ.9?\u00a0"),
                                  draw.choice("\x80\x84\x93\x99\xa0\xa1\xbf€™“”œ")])
                     for _ in range(draw.randint(2, 12))) for _ in range(20000)]
    wrong, changed = compare("fix", texts)
    assert not wrong, (len(wrong), wrong[:5])
    assert 0.3 < changed


def test_what_is_not_mended():
    """The differences that remain, each with its reason; this fails when one of them goes away."""
    named = "a &period; b &checkmark; &NotEqualTilde;"  # names that HTML 5 added
    assert ask("clean", [named]) == [named] != [prompt_clean(named)]
