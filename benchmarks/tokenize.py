"""Tokenizers: encoding and training speed, beside tiktoken and tokenizers where they are installed.

All encode with one vocabulary on one core. "english" is the text that ships inside Python, ten times over; "names" are
words that hardly repeat, so that every one is merged anew; "one word" is a single word of 100,000 letters.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from numgpt.text import BPETokenizer, corpus
from numgpt.text.bpe import BYTES, written


def names(n: int, seed: int = 0) -> str:
    """n bytes of words that hardly repeat: drawn syllables, of which some are frequent."""
    rng = np.random.default_rng(seed)
    syllables = ["".join(rng.choice(list("aeiounrstlkmd"), rng.integers(1, 4))) for _ in range(400)]
    drawn = np.minimum(rng.zipf(1.3, n), 400) - 1
    words, begin = [], 0
    for length in rng.integers(1, 6, n // 4):
        words.append("".join(syllables[i] for i in drawn[begin:begin + length]))
        begin += length
    return " ".join(words)[:n]


def peers(tokenizer: BPETokenizer, folder: Path) -> dict:
    """The same vocabulary in other libraries: name -> encode."""
    found = {}
    try:
        import tiktoken
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        ranks = {token: i for i, token in enumerate(tokenizer.tokens) if i not in tokenizer.special.values()}
        encoding = tiktoken.Encoding("same", pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special)
        found["tiktoken"] = encoding.encode_ordinary
    except ImportError:
        pass
    try:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import ByteLevelBPETokenizer
        tokenizer.save(folder)
        other = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        found["tokenizers"] = lambda text: other.encode(text).ids
    except ImportError:
        pass
    return found


def trainers() -> dict:
    found = {"numgpt": lambda text, n: BPETokenizer.train(text, n, special=())}
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        def theirs(text, n):
            other = Tokenizer(models.BPE())
            other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            other.train_from_iterator([text], trainers.BpeTrainer(
                vocab_size=n, min_frequency=2, show_progress=False, initial_alphabet=[written(bytes([b])) for b in BYTES]))
        found["tokenizers"] = theirs
    except ImportError:
        pass
    return found


def seconds(f, *arguments, repeats: int) -> tuple[float, float]:
    """The median and the spread of several runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        f(*arguments)
        times.append(time.perf_counter() - began)
    return statistics.median(times), max(times) - min(times)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tokenize", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures, too")
    arguments = parser.parse_args(argv)
    english = corpus.default() * 10
    tokenizer = BPETokenizer.train(english, 8256)
    texts = {"english": english, "names": names(1_000_000), "one word": "".join(names(200_000).split())[:100_000]}
    figures = {}

    def encode_afresh(text):
        tokenizer._memo.clear()  # as in a new process: every word is merged once
        return tokenizer.encode(text)

    with tempfile.TemporaryDirectory() as folder:
        encoders = {"numgpt": encode_afresh, **peers(tokenizer, Path(folder))}
        print(f"encoding, MB/s (median of {arguments.repeats}; seconds and their spread)")
        for what, text in texts.items():
            for name, encode in encoders.items():
                median, spread = seconds(encode, text, repeats=arguments.repeats)
                figures[f"encode {what} {name}"] = median
                print(f"  {what:10} {name:11} {len(text.encode()) / median / 1e6:8.2f}   {median:.3f} s +- {spread:.3f}")
    print("training 8,000 merges (seconds)")
    for what, text in (("english", english), ("names", names(5_000_000)), ("half of them", names(5_000_000)[:2_500_000])):
        distinct = len(set(text.split()))
        for name, train in trainers().items():
            median, _ = seconds(train, text, 8256, repeats=1)
            figures[f"train {what} {name}"] = median
            print(f"  {what:12} {name:11} {median:8.2f}   {len(text) / 1e6:.1f} MB, {distinct:,} distinct words")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1))
    return 0
