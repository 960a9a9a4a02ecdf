#!/usr/bin/env python3
"""Does the example's engine agree with Hugging Face? Token ids on awkward strings, logits of one prompt; records vectors for tests without torch.

    python3 tests/engine/parity.py --program build/release/examples/generate/generate --model SmolLM2-135M-Instruct.Q4_1.gguf [--record tests/engine/vectors.json]

Needs torch, transformers, accelerate and gguf. Both sides get their weights from the same GGUF file. The reference tokenizer is built with the `tokenizers`
library from the vocabulary and merges of that file and the pre-tokenizer that SmolLM2 was published with (digits one by one, then byte-level split): the
loader of transformers itself leaves out the digits, which changes the ids of spaces before numbers.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-3
STRINGS = [
    "",
    " ",
    "Hello, world!",
    "  two spaces,   three,\t a tab and trailing ones  ",
    "\n\n\nthree newlines\r\nand a carriage return\n",
    "I'm sure they've said we'll go; it's what she'd do, they're like that, don't",
    "'S UPPER'LL 'tis O'Neil ''quoted''",
    "In 1851 there were 3 ships, 12,345.678 miles and  42 men; 0x1F 1e-9 10:30",
    "x²+y³=½ Ⅷ ٣٤٥ १२३ ①",
    "naïve café Ångström façade Straße ﬁne",
    "e\u0301 is not \u00e9; a\u0300\u0301",
    "Привет, мир! Καλημέρα κόσμε. שלום עולם مرحبا",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "🙂👍🏽👩‍👩‍👧‍👦🇫🇷 and text",
    "zero\u200bwidth, no\u00a0break, line\u2028separator, ideographic\u3000space, bom\ufeff",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text<|endoftext|>text <|im_start|> <|im_not|> <| im_end |> <repo_name>x<file_sep>",
    "def f(x):\n    if x == 1:\n        return {'a': [1, 2], \"b\": x**2}  # done\n\treturn None\n",
    "https://example.org/path?q=1&r=%20#top a_b-c~d e@f.g C:\\dir\\file",
    "aaaaaaaaaaaaaaaaaaaaaaaa----------------=================== !!!???...,,,;;;",
    "control \x00\x01\x1b\x7f and \u0080\u009f\ufffd \U0010ffff",
    "mixed123numbers456 in7side wo8rds, v1.2.3-rc4",
]
PROMPT = "The whale is 26 metres long, isn't it? He wrote naïve notes about ships and what they carried:\n    1. sail\n    2. anchor 🙂\nif (x != 10) return None"


def reference_tokenizer(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind in (3, 4)])
    return tokenizer


def program_output(program, model, *arguments):
    return subprocess.run([program, "--model", model, *arguments], check=True, capture_output=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="the built example; without it nothing is compared, only recorded")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--record", help="write the vectors that `generate --check-vectors` reads")
    options = parser.parse_args()

    tokenizer = reference_tokenizer(options.model)
    ids = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in STRINGS}
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    folder, name = os.path.split(os.path.abspath(options.model))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0].numpy()
    print(f"{len(ids)} strings, prompt of {len(prompt)} tokens")

    if options.record:
        # Per position the largest logit and nine of a fixed stride through the vocabulary: a wrong channel, head or position shows in all of them.
        samples = []
        for position, row in enumerate(logits):
            for token in sorted({int(row.argmax()), *((position * 997 + i * 5449) % len(row) for i in range(9))}):
                samples.append([position, token, round(float(row[token]), 6)])
        with open(options.record, "w", encoding="ascii") as out:
            out.write('{\n "tolerance": %g,\n "strings": [\n' % TOLERANCE)
            out.write(",\n".join("  " + json.dumps({"text": text, "ids": numbers}) for text, numbers in ids.items()))
            out.write('\n ],\n "prompt": {\n  "text": %s,\n  "ids": %s,\n  "logits": %s\n }\n}\n' % (json.dumps(PROMPT), json.dumps(prompt), json.dumps(samples)))
        print(f"{len(samples)} logits recorded in {options.record}")

    failures = 0
    if options.program:
        with tempfile.TemporaryDirectory() as scratch:
            path, raw = os.path.join(scratch, "text"), os.path.join(scratch, "logits")

            def write(text):
                with open(path, "wb") as out:
                    out.write(text.encode())

            for text, expected in ids.items():
                write(text)
                found = json.loads(program_output(options.program, options.model, "--tokenize", path))
                if found != expected:
                    failures += 1
                    print(f"token ids of {text!r} differ:\n  expected {expected}\n  found    {found}")
            write(PROMPT)
            program_output(options.program, options.model, "--raw-logits", raw, "--prompt-file", path)
            found = np.fromfile(raw, dtype=np.float32).reshape(len(prompt), -1)
        largest = float(np.abs(found - logits).max())
        print(f"largest difference of a logit: {largest:.2e} of {np.abs(logits).max():.1f}; {failures} strings differ")
        failures += not largest < TOLERANCE
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
