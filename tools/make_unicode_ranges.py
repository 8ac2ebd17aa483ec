#!/usr/bin/env python3
"""Writes model/tokenizer/unicode_ranges.inc: the Unicode facts that tokenization depends on.

Every fact is asked of the Hugging Face `tokenizers` library itself, code point by code point, because
its three sources (Oniguruma for split patterns, Rust's regex for added tokens, an old normalization
crate for NFC) follow different Unicode versions. Needs: pip install tokenizers regex.
"""

import pathlib
import unicodedata

import regex
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matched_by(pattern):
    """The code points that Split removes when it splits on `pattern`."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", False)
    return {c for c in CODE_POINTS if not split.pre_tokenize_str(chr(c))}


def word_characters():
    """The code points that stop a single_word added token from matching before them."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[], unk_token="a"))
    tokenizer.add_tokens([AddedToken("Q", single_word=True, normalized=False)])
    found = tokenizer.token_to_id("Q")
    return {c for c in CODE_POINTS if found not in tokenizer.encode("Q" + chr(c)).ids}


def inert_in_nfc():
    """Code points that take part in NFC in current Unicode but not in the library's."""
    nfc = normalizers.NFC()
    inert = set()
    for c in CODE_POINTS:
        mark = not regex.match(r"\p{ccc=0}", chr(c))
        reordered = any(nfc.normalize_str(s) != s for s in ("a" + chr(c) + "\u0334", "a\u0315" + chr(c)))
        if mark and not reordered:
            inert.add(c)
    # Starters of compositions added by Unicode 13 and 16 (UnicodeData.txt, canonical mappings):
    # Dives Akuru, Todhri, Tulu-Tigalari, Gurung Khema, Kirat Rai. All are younger than the crate.
    for first, last in ((0x11930, 0x11938), (0x105C9, 0x105E4), (0x11382, 0x113C9),
                        (0x1611E, 0x16129), (0x16D63, 0x16D6A)):
        assert all(nfc.normalize_str(chr(c)) == chr(c) for c in range(first, last + 1))
        inert.update(range(first, last + 1))
    return inert


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    letters, marks, numbers, spaces = (matched_by(p) for p in (r"\p{L}", r"\p{M}", r"\p{N}", r"\s"))
    word = word_characters()
    assert letters <= word and marks <= word and not spaces & word
    classes = {
        "L": letters,
        "M": marks,
        "N": numbers & word,
        "O": numbers - word,
        "W": word - letters - marks - numbers,
        "S": spaces,
    }
    table = sorted((a, b, name) for name, points in classes.items() for a, b in ranges(points))
    assert all(x[1] < y[0] for x, y in zip(table, table[1:])), "classes overlap"
    lines = [
        f"// Written by tools/make_unicode_ranges.py with tokenizers {tokenizers.__version__}; do not edit.",
        "// L letter, M mark, N number that is a word character, O other number, W other word character,",
        "// S white space; ascending, disjoint; code points in no range are of no class.",
        "constexpr ClassRange kClassRanges[] = {",
        *(f"    {{0x{a:X}, 0x{b:X}, {name}}}," for a, b, name in table),
        "};",
        "",
        "// Code points that NFC leaves alone and that stop reordering and composition across them.",
        "constexpr InertRange kInertRanges[] = {",
        *(f"    {{0x{a:X}, 0x{b:X}}}," for a, b in ranges(inert_in_nfc())),
        "};",
    ]
    path = pathlib.Path(__file__).parent.parent / "model/tokenizer/unicode_ranges.inc"
    path.write_text("\n".join(pack(lines)) + "\n")


def pack(lines):
    """Joins short table rows into lines of at most 100 columns."""
    out = []
    for line in lines:
        row = line.startswith("    {")
        if row and out and out[-1].startswith("    {") and len(out[-1]) + len(line.strip()) + 1 <= 100:
            out[-1] += " " + line.strip()
        else:
            out.append(line)
    return out


if __name__ == "__main__":
    main()
