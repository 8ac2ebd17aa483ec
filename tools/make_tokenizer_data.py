#!/usr/bin/env python3
"""Makes tests/data/tokenizers/: small tokenizers of every kind that model/tokenizer reads, each with a
golden file of hostile texts and what the Hugging Face `tokenizers` library makes of them.

  make_tokenizer_data.py            trains the tokenizers and writes tokenizer.json and golden.json
  make_tokenizer_data.py --golden   keeps tokenizer.json and writes golden.json only

golden.json: {"library": version, "cases": [case]}, where a case has `text`; `ids`, without the
template's special tokens; `template`, the ids with them; `plain`, the ids with special tokens in the
text taken as plain text; `decoded` and `skipped`, what `template` decodes to with and without special
tokens. `template` and `plain` are left out when they equal `ids`, `skipped` when it equals `decoded`.
Needs: pip install tokenizers. The corpus below was written for this file.
"""

import json
import pathlib
import random
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

DATA = pathlib.Path(__file__).parent.parent / "tests/data"
OUT = DATA / "tokenizers"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL

CORPUS = """
The coordinator plans where each model goes, and the workers load exactly their own bytes of it.
It doesn't wait for ever: every call has a deadline, and we'll say who didn't answer. I'm sure they've
seen it. You'd think that's enough; it isn't, so there's a watchdog that's watching the step counter.
for (int64_t i = 0; i < n; ++i) { sum += weights[i] * values[i]; }   // 1234567890 times, 3.14159
def main(argv):\n    return [x ** 2 for x in range(10) if x % 2 == 0]\n\n\n\tprint("done")\r\n
Le modèle répond déjà en français : « où êtes-vous ? » Der Prüfer läuft über die Straße, schönes Wetter.
El niño comió piñas mañana. Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.
Сервер отвечает быстро, и каждый запрос получает ровно один ответ. Ελληνικά γράμματα στον χάρτη.
模型把每个请求分成若干步，然后在显卡上计算结果。你好，世界！今天天气很好，我们去公园散步。
これはテストです。モデルは一度に一つの単語を生成します。カタカナとひらがな。
서버는 요청을 받고 답을 보냅니다. 한국어 문장도 있습니다.
هذا نص عربي قصير للاختبار. זה טקסט קצר בעברית. नमस्ते दुनिया, यह एक परीक्षण है। สวัสดีชาวโลก
🙂 🙃 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ → ∑ ≤ ≥ ½ ² ³ № ™ €100 £50 ¥1000
"""


def corpus():
    words = CORPUS.split()
    source = random.Random(7)
    mixed = [" ".join(source.choice(words) for _ in range(12)) for _ in range(200)]
    return CORPUS.strip().split("\n") * 4 + mixed


HOSTILE = [
    "", " ", "  ", "\n", "\r\n", "a", " a", "a ", "  a  ", "Hello world", " Hello  world ",
    "I'm  a 12345\n\n x", "Don'T STOP!!\n\n\ty=f(x);  \n", "  hello   world  ", " naïve 你好，世界 3½",
    "it's I'M they'RE We'Ve he'D SHE'LL 'S'T'm 'x 'r 'v 'l 're'", "'ſ x'ſy I'ſ 'ſs '\u212a 'K", "''s '''t",
    "'", "' s", "'\u0301s", "x'll'd've", "'LL'lL'Ll 'rE 'Re 'vE", "’s it’s",
    "\r\r\n\n\r\n", "a\r\nb\r\n\r\n  c", "x \n y", "x\n \ny", " \t\r\n \t\r\n", "a \r\n\r\n ", "!!\r\n\r\n x", " !\n\n", "!\r!",
    "\u0085a\u0085", "\u00a0a\u00a0\u00a0b", "\u1680x", "\u2000\u2001\u2002\u2009\u200a y", "a\u2028b\u2029c", "\u202f\u205f\u3000z",
    "a\u3000\u3000\nb", "zero\u200bwidth\u200c\u200d\u2060\ufeff", "\u180e x", "\x1c\x1d\x1e\x1f y", "\x0b\x0c x", " \u3000 \u3000",
    "0123456789", "12 345 6789 01", "١٢٣٤٥ ۱۲۳", "१२३४५६", "Ⅷ ⅻ Ⅸ", "½ ¼ ² ³ ① ⑳ ㊿", "1½2", "x²+y³=1", "𝟏𝟐𝟑𝟒 𝟙", "〇一二三 3三",
    "\u0000", "a\u0000b\u0000\u0000", "\x01\x02\x1b[0m\x7f", "\x80\x9f", "\ufffd", "a\ufffd\ufffdb", "\ufffe\uffff", "\U0010ffff\U000f0000\ue000",
    "e\u0301 \u00e9", "A\u030a \u00c5 \u212b", "\u1112\u1161\u11ab\u1100\u1173\u11af 한글", "\uac00\u11a8 \u1100\u1161\u11a7", "q\u0307\u0323 q\u0323\u0307",
    "\u0344 \u0340 \u0341 \u0374 \u037e \u0387 \u1fef", "\u2126 \u212a \u2329", "\u0958 \u095c \ufb1d \ufb2a", "\u0301\u0302 \u0301a", "a\u0300\u0316\u0334\u0338",
    "\U0001d15e \U0001d1bb", "\u1e9b\u0323", "\u0f43 \u0f73\u0f75", "\U00011131\U00011127 \U00011347\U0001133e", "\uf900 \ufa0e \U0002f800", "\u09c7\u09be\u0cc6\u0cc2\u0cd5",
    "\u1e0a\u0323 \u1e0c\u0307 d\u0323\u0307\u031b", "\u2adc \u2add\u0338", "\u07fd\u0301a\u07fd\u0334", "\U00011935\U00011930 \U00011938",
    "नमस्ते दुनिया", "สวัสดี", "لا إله", "שָׁלוֹם", "Việt Nam", "Zażółć", "İstanbul ıI", "ß ẞ ﬁ ﬆ ŉ", "Ǆ ǅ ǆ", "ªº ʰʲ ₐ ᴬ",
    "👩‍👩‍👧‍👦👍🏽", "🇩🇪🇫🇷", "❤️ ❤", "🏴\U000e0067\U000e0062\U000e007f", "1️⃣2️⃣", "🙂🙂🙂", "a🙂b", "\U0001f1e9",
    "Ᲊᲊ\ua7cb \U00031350\U0002ebf0 \U00010d40", "\u24b6\u24e9 \U0001f130", "snake_case __init__ a‿b", "CamelCase ALLCAPS mixedCASE",
    "(a)[b]{c}<d>", "--- === ... ???", "a.b,c;d:e!f?g", "$100 €5 100% #tag @me", "http://x.y/z?q=1&r=2", "C:\\dir\\file", "\t\tif (x) {\n\t\t\treturn;\n\t\t}\n",
    "▁", "▁▁", "a▁b", " ▁ ", "▁ a", "Ġ Ċ Ġa", "<0x41> <0x0A>", "<0xFF><0xE4>", "</s><s>", "<s> a </s> b", "a<s>b", "<unk>", "<unk> <unk>x",
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", " <|endoftext|> x", "<|im_start", "<|im_start|><|im_end|>", "<|im_start|> |>",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nx<|eot_id|>", "<|eot_id|><|eot_id|> ", "<|begin_of_text|>a",
    "[L] [R] [B] a [L] b", "a  [L]  b", "a  [R]  b", "a  [B]  b", "[L][L]  [L]", "[R]  [R] [R]", "  [B]  [B]  ", "a\u3000\n[B]\u00a0\tb", "[R] [L]", "[L] [R]",
    "[W] [W]a a[W] [W]. _[W] ([W]) [W][W]", "é[W] [W]\u0301 ½[W] \u200d[W] Ⅷ[W] ⓐ[W]", "abab ababab abc abcd abcde", "xabcabcx", "[WLR]  a [WLR] b[WLR] c  [WLR]",
    "cafe\u0301 café caf\u00e9", "  café  ", "e\u0301[N] É É[N]", "A\u030a \u00c5 \u212b [N]", "[N]  [N]a", "  \n  ", "[R]  x", "[R] \t\n x", "   ", "[R]   ",
    "a" * 300, " " * 300, "\n" * 300, " a" * 100, "ab" * 150, "1" * 100, "!" * 200, "é" * 100, "e\u0301" * 100, "你" * 100, "🙂" * 60, "\u0301" * 50, "'s" * 50,
    "\u0316\u0301" * 40, " \n" * 60, "<|im_start|>" * 20, "▁" * 60, "Ġ" * 40, "\r" * 50 + "x", " " * 60 + "x", "\u3000" * 40, "the " * 50,
]

ALPHABET = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDST", "0123456789", "     ", "\n\r\t", "''''", "stmdrvel", ".,;:!?()[]<>|_-", "éèüñßſK", "ий你好世界カなの한국",
    "\u0301\u0300\u0316\u0327\u0334\u0338\u0345", "½²³①Ⅷ٣१𝟙", "🙂👍🏽\u200d❤\ufe0f🇩🇪", "\u0085\u00a0\u1680\u2003\u2028\u3000\u200b\ufeff", "\u1112\u1161\u11ab\uac00",
    "\x00\x01\x1f\x7f\x80", "▁Ġ\ufffd", "\u212b\u2126\u0958\ufb1d\u0344", "ᲊ\U00031351\U00010d41\u0897",
]
SPELLINGS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<0x41>", "[L]", "[R]", "[B]", "[W]", "[N]", "[WLR]", "ab", "abc", "é", "É",
             "<|eot_id|>", "<|begin_of_text|>", "it's", "the", "  ", "\r\n", "'ll"]


def random_text(source, pieces):
    out = []
    for _ in range(source.randrange(pieces)):
        kind = source.random()
        if kind < 0.15:
            out.append(source.choice(SPELLINGS))
        elif kind < 0.2:
            c = source.randrange(0x110000)
            out.append(chr(c) if not 0xD800 <= c < 0xE000 else "x")
        else:
            group = source.choice(ALPHABET)
            out.append("".join(source.choice(group) for _ in range(source.randrange(1, 5))))
    return "".join(out)


def golden(tokenizer):
    source = random.Random(11)
    texts = HOSTILE + [random_text(source, 24) for _ in range(120)]
    cases = []
    for text in texts:
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        template = tokenizer.encode(text).ids
        case = {"text": text, "ids": ids, "template": template, "plain": plain,
                "decoded": tokenizer.decode(template, skip_special_tokens=False),
                "skipped": tokenizer.decode(template)}
        for key, same in (("template", "ids"), ("plain", "ids"), ("skipped", "decoded")):
            if case[key] == case[same]:
                del case[key]
        cases.append(case)
    return {"library": tokenizers.__version__, "cases": cases}


def special(*names):
    return [AddedToken(n, special=True, normalized=False) for n in names]


def byte_level(pattern, names, vocab_size, nfc):
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated", False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens(special(*names))
    return tokenizer


def hostile_added_tokens():
    make = lambda text, **flags: AddedToken(text, **{"normalized": False, **flags})
    return [make("[L]", lstrip=True), make("[R]", rstrip=True, special=True), make("[B]", lstrip=True, rstrip=True),
            make("[W]", single_word=True), make("[WLR]", single_word=True, lstrip=True, rstrip=True, special=True),
            make("ab", normalized=True), make("abab"), make("abc"), make("abcde", normalized=True),
            make("é", normalized=True), make("e\u0301[N]", normalized=True, special=True), make("[N]", normalized=True, lstrip=True),
            make("É", single_word=True, normalized=True), make("  ")]


def llama3():
    tokenizer = byte_level(LLAMA3, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], 900, nfc=False)
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    state = json.loads(tokenizer.to_str())
    state["model"]["ignore_merges"] = True
    # A whole word that merges cannot reach: only ignore_merges finds it.
    state["model"]["merges"] = [m for m in state["model"]["merges"] if "".join(m) not in ("Ġthe", "ing")]
    unreachable = {"Ġthe", "ing"}
    state["model"]["merges"] = [m for m in state["model"]["merges"] if not unreachable & set(m)]
    return Tokenizer.from_str(json.dumps(state))


def qwen2_added():
    tokenizer = byte_level(QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 800, nfc=True)
    tokenizer.add_tokens(hostile_added_tokens())
    return tokenizer


def gpt2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens(special("<|endoftext|>") + hostile_added_tokens())
    return tokenizer


def metaspace_bpe(pieces, with_bytes):
    """A BPE model over text whose spaces are U+2581, with <unk>, <s>, </s> and perhaps byte tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=with_bytes))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if with_bytes else [])
    tokenizer.train_from_iterator(
        [c for c in corpus() if all(ord(x) < 0x250 or x == "\u2581" for x in c)],
        trainers.BpeTrainer(vocab_size=pieces, special_tokens=names, show_progress=False))
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def llama2_decoder():
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                              decoders.Strip(" ", 1, 0)])


def llama2_legacy():
    tokenizer = metaspace_bpe(700, with_bytes=True)
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = llama2_decoder()
    state = json.loads(tokenizer.to_str())
    state["model"]["merges"] = [" ".join(m) for m in state["model"]["merges"]]  # the older spelling
    for token in state["added_tokens"]:
        token["normalized"] = token["content"] == "</s>"
    state["pre_tokenizer"] = None
    return json.dumps(state, ensure_ascii=False, indent=1)


def llama2_metaspace():
    tokenizer = metaspace_bpe(700, with_bytes=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = llama2_decoder()
    tokenizer.add_tokens(hostile_added_tokens())
    return tokenizer


def metaspace_split():
    tokenizer = metaspace_bpe(500, with_bytes=False)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("``", "\"")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    state = json.loads(tokenizer.to_str())
    state["model"]["fuse_unk"] = False
    return Tokenizer.from_str(json.dumps(state))


MAKERS = {f.__name__: f for f in (llama3, qwen2_added, gpt2, llama2_legacy, llama2_metaspace, metaspace_split)}


def main():
    for name, make in MAKERS.items():
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tokenizer.json"
        if "--golden" not in sys.argv:
            made = make()
            text = made if isinstance(made, str) else made.to_str()
            path.write_text(json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) + "\n")
        write_golden(path, folder / "golden.json")
    (OUT / "tiny_qwen2").mkdir(exist_ok=True)
    write_golden(DATA / "tiny-qwen2/tokenizer.json", OUT / "tiny_qwen2/golden.json")


def write_golden(tokenizer_path, golden_path):
    cases = golden(Tokenizer.from_file(str(tokenizer_path)))
    golden_path.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
