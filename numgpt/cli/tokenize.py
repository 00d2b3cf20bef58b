"""numgpt tokenize: train a tokenizer, turn text into ids and back, count."""

import argparse
import sys
from pathlib import Path

from numgpt.files import FormatError
from numgpt.text import BPETokenizer, CharTokenizer, corpus, load_tokenizer

DEFAULT_VOCABULARY = 1000


def register(commands) -> None:
    parser = commands.add_parser(
        "tokenize", help="train a tokenizer, turn text into ids and back, count",
        description="Train a tokenizer, turn text into ids and ids into text, or count tokens. Text and ids are read from "
                    "files, or from standard input where none is named.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    train = _action(actions, "train", _train, "learn a vocabulary from text")
    train.add_argument("-o", "--out", type=Path, required=True, metavar="PATH",
                       help="where it goes: a folder (vocab.json, merges.txt), or with --char a .json file")
    train.add_argument("--vocab", type=int, default=DEFAULT_VOCABULARY, metavar="N",
                       help=f"tokens in the vocabulary, the 256 bytes and <|endoftext|> included (default: {DEFAULT_VOCABULARY})")
    train.add_argument("--char", action="store_true", help="one token a character, in place of byte pairs")
    train.add_argument("files", nargs="*", type=Path, metavar="FILE")

    for name, run, about in (("encode", _encode, "print the ids of a text, or write them to a token file"),
                             ("decode", _decode, "print the text of ids, which stand between spaces, or of token files"),
                             ("count", _count, "print how many tokens and bytes a text has")):
        action = _action(actions, name, run, about)
        action.add_argument("tokenizer", type=Path, metavar="TOKENIZER",
                            help="a folder with vocab.json and merges.txt (or encoder.json and vocab.bpe), a file of merges, "
                                 "or a .json of characters")
        action.add_argument("files", nargs="*", type=Path, metavar="FILE")
        if name == "encode":
            action.add_argument("-o", "--out", type=Path, metavar="FILE.bin", help="write uint16 ids, as nanoGPT reads them")
            action.add_argument("--header", action="store_true", help="with --out: llm.c's header before them")
        if name != "decode":
            action.add_argument("--allow-special", action="store_true",
                                help="special tokens in the text, such as <|endoftext|>, are those tokens; else they are an error")


def _action(actions, name: str, run, about: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    action.set_defaults(run=lambda arguments: _answered(run, arguments), error=action.error)
    return action


def _answered(run, arguments) -> int:
    try:
        return run(arguments)
    except FormatError:
        raise
    except ValueError as error:  # a special token in the text, an unknown character, an id out of range
        raise FormatError(str(error)) from None


def _train(arguments) -> int:
    if arguments.char != (arguments.out.suffix == ".json"):
        arguments.error("characters go into a .json file and need --char; byte pairs go into a folder")
    text = _bytes(arguments.files)
    if arguments.char:
        tokenizer = CharTokenizer.train(_decoded(text), replacement=True)
    else:
        tokenizer = BPETokenizer.train(text.decode("utf-8", "surrogateescape"), arguments.vocab)
    tokenizer.save(arguments.out)
    print(f"{arguments.out}: {tokenizer!r}")
    return 0


def _encode(arguments) -> int:
    ids = _ids(load_tokenizer(arguments.tokenizer), _bytes(arguments.files), arguments.allow_special)
    if arguments.out is None:
        if arguments.header:
            arguments.error("--header is for a token file: name it with --out")
        print(*ids)
    else:
        corpus.write_tokens(arguments.out, ids, header=arguments.header)
        print(f"{arguments.out}: {len(ids):,} tokens")
    return 0


def _decode(arguments) -> int:
    tokenizer = load_tokenizer(arguments.tokenizer)
    for path in arguments.files or [None]:
        if path is not None and path.suffix == ".bin":
            ids = corpus.read_tokens(path).tolist()
        else:
            words = _bytes([path] if path else []).split()
            wrong = next((word for word in words if not word.isdigit()), None)
            if wrong is not None:
                raise FormatError(f"{path or 'standard input'}: {wrong.decode(errors='replace')!r} is no id")
            ids = list(map(int, words))
        text = tokenizer.decode_bytes(ids) if isinstance(tokenizer, BPETokenizer) else tokenizer.decode(ids).encode("utf-8", "replace")
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
    sys.stdout.flush()
    return 0


def _count(arguments) -> int:
    tokenizer = load_tokenizer(arguments.tokenizer)
    for path in arguments.files or [None]:
        text = _bytes([path] if path else [])
        n = len(_ids(tokenizer, text, arguments.allow_special))
        print(f"{path or 'standard input'}: {n:,} tokens, {len(text):,} bytes" + (f", {len(text) / n:.2f} bytes a token" if n else ""))
    return 0


def _ids(tokenizer, text: bytes, allow_special: bool) -> list[int]:
    if not isinstance(tokenizer, BPETokenizer):
        return tokenizer.encode(_decoded(text))
    return tokenizer.encode(text, allowed_special="all" if allow_special else ())


def _bytes(files: list[Path]) -> bytes:
    return b"".join(path.read_bytes() for path in files) if files else sys.stdin.buffer.read()


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"the text is not UTF-8 at byte {error.start}, and characters are all that this tokenizer knows") from None
