"""numgpt tokenize, as it is called."""

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from numgpt.cli import main, tokenize
from numgpt.text import BPETokenizer, CharTokenizer, GPT1Tokenizer, corpus, load_tokenizer
from numgpt.text.bpe import END
from stages import later

TEXT = "the cat sat on the mat; the rat ate the oats. the theatre! é"


@pytest.fixture
def call(monkeypatch, capsysbinary):
    """Calls the command with bytes on standard input; gives its status, output and errors."""
    def run(*argv, given=b""):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        try:
            status = main(["tokenize", *map(str, argv)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsysbinary.readouterr()
    return run


@pytest.fixture
def folder(tmp_path, call):
    (tmp_path / "text").write_text(TEXT)
    assert call("train", "-o", tmp_path / "bpe", "--vocab", 262, tmp_path / "text")[0] == 0
    return tmp_path / "bpe"


def test_what_is_trained_is_the_tokenizer_of_the_library(folder, call):
    trained = BPETokenizer.train(TEXT, 262)
    assert load_tokenizer(folder).tokens == trained.tokens
    status, out, _ = call("encode", folder, given=TEXT.encode())
    assert status == 0 and list(map(int, out.split())) == trained.encode(TEXT)


@pytest.mark.parametrize("given", [TEXT.encode(), b"", b"\xff\xfe no UTF-8 \x00", "北京\r\n".encode()])
def test_decode_gives_back_the_bytes_that_encode_was_given(folder, call, given):
    _, ids, _ = call("encode", folder, given=given)
    assert call("decode", folder, given=ids)[:2] == (0, given)


@pytest.mark.parametrize("header", [False, True])
def test_token_files_are_written_and_read(folder, call, tmp_path, header):
    status, out, _ = call("encode", folder, tmp_path / "text", "-o", tmp_path / "t.bin", *["--header"] * header)
    assert status == 0 and out.endswith(b"tokens\n")
    assert (tmp_path / "t.bin").read_bytes().startswith(struct.pack("<i", 20240520)) == header
    assert call("decode", folder, tmp_path / "t.bin")[1] == TEXT.encode()


def test_counting_names_each_file(folder, call, tmp_path):
    n = len(load_tokenizer(folder).encode(TEXT))
    (tmp_path / "empty").write_text("")
    _, out, _ = call("count", folder, tmp_path / "text", tmp_path / "empty")
    size = len(TEXT.encode())
    assert out.decode().splitlines() == [f"{tmp_path / 'text'}: {n} tokens, {size} bytes, {size / n:.2f} bytes a token",
                                         f"{tmp_path / 'empty'}: 0 tokens, 0 bytes"]
    assert call("count", folder, given=b"the")[1].startswith(b"standard input: ")


def test_characters_are_tokens_when_asked(tmp_path, call):
    assert call("train", "--char", "-o", tmp_path / "c.json", given=TEXT.encode())[0] == 0
    assert isinstance(load_tokenizer(tmp_path / "c.json"), CharTokenizer)
    _, ids, _ = call("encode", tmp_path / "c.json", given="the é".encode())
    assert call("decode", tmp_path / "c.json", given=ids)[1] == "the é".encode()
    assert b"the vocabulary lacks 'x' at 0" in call("encode", tmp_path / "c.json", given=b"x")[2]


def test_a_special_token_in_a_text_is_an_error_unless_allowed(folder, call):
    status, _, err = call("encode", folder, given=b"a<|endoftext|>")
    assert status == 1 and b"has the special token '<|endoftext|>' at character 1" in err
    status, out, _ = call("encode", folder, "--allow-special", given=b"a<|endoftext|>")
    assert status == 0 and int(out.split()[-1]) == load_tokenizer(folder).special["<|endoftext|>"]


def test_byte_pairs_are_learned_on_both_sides_of_a_special_token_when_allowed(call, tmp_path):
    for name, text in (("a", TEXT), ("b", f"ab{END}{TEXT}")):
        (tmp_path / name).write_text(text)
    status, _, err = call("train", "-o", tmp_path / "v", tmp_path / "a", tmp_path / "b")
    assert status == 1 and f"{tmp_path / 'b'} has the special token '{END}' at character 2: allow it with --allow-special".encode() in err
    assert b"standard input has the special token" in call("train", "-o", tmp_path / "v", given=END.encode())[2]
    assert call("train", "-o", tmp_path / "v", "--allow-special", "--vocab", 270, tmp_path / "b")[0] == 0
    assert load_tokenizer(tmp_path / "v").merges == BPETokenizer.train(TEXT, 270).merges
    assert call("train", "--char", "-o", tmp_path / "c.json", tmp_path / "b")[0] == 0


def test_bytes_that_are_no_utf8_are_learned_from_as_they_are(call, tmp_path):
    raw = b"\xff\xfe \xff\xfe"
    assert call("train", "-o", tmp_path / "v", given=raw)[0] == 0
    assert load_tokenizer(tmp_path / "v").merges == BPETokenizer.train(raw, 1000).merges != []


def test_a_vocabulary_that_ends_early_says_so(call, tmp_path):
    assert call("train", "-o", tmp_path / "v", "--vocab", 258, given=b"ab ab")[1].endswith(b"special: <|endoftext|>\n")
    assert call("train", "-o", tmp_path / "v", "--vocab", 2000, given=b"ab ab")[1].endswith(
        b"258 tokens, 1 merges, special: <|endoftext|>; fewer than 2,000, since no pair occurs twice any more\n")


def test_files_and_options_stand_in_any_order(folder, call, tmp_path):
    text = tmp_path / "text"
    expected = call("encode", folder, text, "--allow-special")
    assert call("encode", folder, "--allow-special", text) == call("encode", "--allow-special", folder, text) == expected
    assert expected[0] == 0 and call("count", folder, text, "--allow-special", text)[1].count(b"tokens") == 2


@pytest.fixture
def letters(folder, tmp_path, call):
    assert call("train", "--char", "--end", "-o", tmp_path / "letters.json", tmp_path / "text")[0] == 0
    return tmp_path / "letters.json"


@pytest.fixture
def gpt1(tmp_path):
    GPT1Tokenizer(["<unk>", "a", "b</w>", "ab</w>"], [("a", "b</w>")]).save(tmp_path / "gpt1")
    return tmp_path / "gpt1"


def test_several_files_are_one_text_unless_each_gets_an_end(folder, letters, call, tmp_path):
    (tmp_path / "a").write_text("the th")
    (tmp_path / "b").write_text("eatre")
    for path in (folder, letters):
        tokenizer = load_tokenizer(path)
        end = tokenizer.end if path == letters else tokenizer.special["<|endoftext|>"]
        _, joined, _ = call("encode", path, tmp_path / "a", tmp_path / "b")
        assert list(map(int, joined.split())) == tokenizer.encode("the theatre")
        _, ended, _ = call("encode", path, tmp_path / "a", "--end", tmp_path / "b")
        assert list(map(int, ended.split())) == [*tokenizer.encode("the th"), end, *tokenizer.encode("eatre"), end]
    assert call("decode", letters, given=ended)[1] == b"the theatre"


def test_a_line_alone_is_standard_input_and_stands_between_files(folder, call, tmp_path):
    (tmp_path / "a").write_text("the ")
    expected = call("encode", folder, given=b"the cat the ")
    assert call("encode", folder, tmp_path / "a", "-", tmp_path / "a", given=b"cat ") == expected
    assert call("encode", folder, tmp_path / "a", "--allow-special", "-", given=b"cat the ") == expected


@pytest.mark.parametrize("header", [False, True])
def test_token_files_are_told_from_their_content_too(folder, call, tmp_path, header):
    assert call("encode", folder, tmp_path / "text", "-o", tmp_path / "tokens", *["--header"] * header)[0] == 0
    assert call("decode", folder, tmp_path / "tokens")[1] == TEXT.encode()
    assert call("decode", folder, given=(tmp_path / "tokens").read_bytes())[1] == TEXT.encode()


def test_a_token_file_without_a_zero_byte_is_read_when_it_is_said_to_be_one(folder, call, tmp_path):
    (tmp_path / "tokens").write_bytes(b"\x01\x01" * 2)  # id 257 twice
    expected = load_tokenizer(folder).decode_bytes([257, 257])
    assert call("decode", folder, tmp_path / "tokens")[0] == 1
    assert call("decode", folder, "--bin", tmp_path / "tokens")[1] == expected
    assert call("decode", folder, "--bin", given=b"\x01\x01" * 2)[1] == expected
    assert call("decode", folder, "--bin", given=b"")[:2] == (0, b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("header", [False, True])
def test_a_token_file_that_is_a_pipe_with_a_name_is_read_through(folder, call, tmp_path, header):
    corpus.write_tokens(tmp_path / "t.bin", load_tokenizer(folder).encode(TEXT), header=header)
    os.mkfifo(tmp_path / "pipe.bin")
    content = (tmp_path / "t.bin").read_bytes()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.bin").write_bytes(content))
    writer.start()
    assert call("decode", folder, tmp_path / "pipe.bin")[:2] == (0, TEXT.encode())
    writer.join()


def test_unknown_characters_are_replaced_when_asked(letters, call):
    status, out, _ = call("encode", letters, "--replace", given=b"theXY")
    assert status == 0 and list(map(int, out.split())) == load_tokenizer(letters).encode("the\ufffd\ufffd")
    assert call("count", letters, "--replace", given=b"theXY")[1].startswith(b"standard input: 5 tokens")


WORDS = st.lists(max_size=30, elements=st.sampled_from(
    [" ", "\n", "\r", "\t", "\x1c", "\u3000", "\u0301", "a", "ab", "I'll", "12", "!", "é", "北"]))


@example("a\x1cb", 0)  # GPT-1 drops what Python takes for a space
@given(WORDS.map("".join), st.integers(0, 5))
def test_the_ids_of_a_texts_parts_are_the_ids_of_the_text(text, size):
    parts = [*tokenize._parts(text.encode(), size)]
    assert b"".join(parts) == text.encode()
    tokens = [*map(chr, range(32, 127)), *(f"{chr(c)}</w>" for c in range(33, 127)), "<unk>", "ab</w>"]
    for tokenizer in (BPETokenizer.train("ab ab I'll I'll  12 12 !!\n\n\n  ab", 270), CharTokenizer.train(text or "-"),
                      GPT1Tokenizer(tokens, [("a", "b</w>")])):
        assert [i for part in parts for i in tokenizer.encode(part.decode())] == tokenizer.encode(text)


def test_a_text_is_cut_into_parts_of_the_size_that_is_asked(monkeypatch, folder, call):
    monkeypatch.setattr(tokenize, "CHUNK", 10)
    assert [len(part) for part in tokenize._parts(b"the cat " * 5, 10)] == [11, 12, 12, 5]
    status, ids, _ = call("encode", folder, given=TEXT.encode() * 3)
    assert status == 0 and list(map(int, ids.split())) == load_tokenizer(folder).encode(TEXT * 3)
    assert call("decode", folder, given=ids)[1] == TEXT.encode() * 3
    _, _, err = call("encode", folder, given=b"the " * 75 + b"<|endoftext|>")
    assert b"special token '<|endoftext|>' at character 300:" in err


def test_nothing_of_a_file_is_written_if_one_of_its_ids_is_wrong(monkeypatch, folder, call, tmp_path):
    monkeypatch.setattr(tokenize, "CHUNK", 2)
    corpus.write_tokens(tmp_path / "wrong.bin", [0, 1, 2, 262])
    (tmp_path / "right").write_text("0 1 2")
    status, out, err = call("decode", folder, tmp_path / "right", tmp_path / "wrong.bin")
    assert status == 1 and out == b'!"#' and b"wrong.bin: there is no token 262: ids run from 0 to 261" in err
    assert call("decode", folder, given=b"0 1 2 262")[:2] == (1, b"")


def test_text_of_words_comes_in_parts_with_the_spaces_between_them(monkeypatch, gpt1, letters, call):
    monkeypatch.setattr(tokenize, "CHUNK", 2)
    for path, text in ((gpt1, b"ab b ab ab b"), (letters, b"the theatre")):
        _, ids, _ = call("encode", path, given=text)
        assert len(ids.split()) >= 5 and call("decode", path, given=ids)[1] == text


def test_a_special_token_with_a_space_is_not_cut_in_two(monkeypatch, tmp_path, call):
    monkeypatch.setattr(tokenize, "CHUNK", 1)
    tokenizer = BPETokenizer.train("-", 257, special=["the end"])
    tokenizer.save(tmp_path / "v")
    assert call("encode", tmp_path / "v", "--allow-special", given=b"the end")[1] == b"256\n"


def test_encoding_to_a_file_holds_few_bytes_a_token(monkeypatch, folder, call, tmp_path):
    monkeypatch.setattr(tokenize, "CHUNK", 1 << 14)
    (tmp_path / "long").write_text(TEXT * 10_000)
    tracemalloc.start()
    assert call("encode", folder, tmp_path / "long", "-o", tmp_path / "t.bin")[0] == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    n = len(corpus.read_tokens(tmp_path / "t.bin"))
    size = (tmp_path / "long").stat().st_size
    assert peak < size + 2 * 4 * n + 100 * tokenize.CHUNK  # the text, its ids in int32 and joined, and the objects of a part


STREAMS = [
    ("tokenize encode V <&-", 1, "numgpt: standard input is closed: name a file"),
    later("tokenize decode V <&-", 1, "numgpt: standard input is closed"),
    ("tokenize encode V V/merges.txt >&-", 1, "numgpt: standard output is closed"),
    later("tokenize decode V >&-", 1, "numgpt: standard output is closed"),
    later("tokenize count V V/merges.txt >&-", 1, "numgpt: standard output is closed"),
    ("tokenize encode V -o t.bin V/merges.txt >&-", 0, ""),
    ("tokenize encode V nothing 2>&-", 1, ""),
    later("tokenize encode V nothing >&- 2>&-", 1, ""),
    ("plan >&-", 0, ""),
    ("tokenize encode V V/merges.txt >/dev/full", 1, "numgpt: No space left on device\n"),
    ("tokenize encode V big | head -c 1", 0, ""),
]


@pytest.mark.skipif(sys.platform == "win32", reason="closes streams as a shell of POSIX does")
@pytest.mark.parametrize("command, status, says", STREAMS, ids=str)
def test_closed_streams_end_in_a_sentence_or_quietly(tmp_path, command, status, says):
    BPETokenizer.train(TEXT, 262).save(tmp_path / "V")
    (tmp_path / "big").write_text(TEXT * 3000)
    root = str(tokenize.Path(tokenize.__file__).parents[2])
    ran = subprocess.run(f"set -o pipefail; {sys.executable} -m numgpt {command}", shell=True, executable="/bin/bash",
                         cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60)
    assert ran.returncode == status and ran.stderr.startswith(says) and bool(ran.stderr) == bool(says)
    assert "numgpt:" not in ran.stdout and "Traceback" not in ran.stderr


@pytest.mark.parametrize("action", ["train", "encode", "decode", "count"])
def test_help_shows_an_example_that_the_command_takes(action, folder, call, tmp_path, monkeypatch):
    status, out, _ = call(action, "--help")
    lines = out.decode().splitlines()
    assert status == 0 and max(map(len, lines)) <= 80
    examples = [line.split("|")[-1 if "echo" in line else 0] for line in lines if line.startswith(("  numgpt tok", "  echo"))]
    monkeypatch.chdir(tmp_path)
    for name in ("one.txt", "two.txt", "book.txt"):
        (tmp_path / name).write_text(TEXT)
    corpus.write_tokens("train.bin", [39, 68])
    folder.rename(tmp_path / "vocabulary")
    for example in examples:
        words = example.split("<")[0].split()
        assert words[:3] == ["numgpt", "tokenize", action] and call(*words[2:], given=b"39 68 75")[0] == 0
    assert examples


def test_which_of_several_files_is_wrong_is_said(folder, letters, call, tmp_path):
    (tmp_path / "latin1").write_bytes(b"the th\xe9")
    (tmp_path / "other").write_text("the X")
    (tmp_path / "special").write_text("a<|endoftext|>")
    text = tmp_path / "text"
    for action in ("encode", "count"):
        assert b"latin1 is not UTF-8 at byte 6" in call(action, letters, text, tmp_path / "latin1", text)[2]
        assert b"other: the vocabulary lacks 'X' at 4: encode with --replace" in call(action, letters, text, tmp_path / "other")[2]
        _, _, err = call(action, folder, text, tmp_path / "special")
        assert b"special: the text has the special token '<|endoftext|>' at character 1: allow it with --allow-special" in err
    _, _, err = call("train", "--char", "-o", tmp_path / "x.json", text, tmp_path / "latin1")
    assert b"latin1 is not UTF-8 at byte 6" in err
    (tmp_path / "ids").write_text("99999")
    assert b"ids: there is no token 99999" in call("decode", folder, tmp_path / "ids")[2]


def test_a_vocabulary_without_a_replacement_says_how_to_get_one(tmp_path, call):
    CharTokenizer.train("ab").save(tmp_path / "c.json")
    _, _, err = call("encode", tmp_path / "c.json", "--replace", given=b"x")
    assert b"what it lacks: train it with numgpt tokenize train --char" in err


@pytest.mark.parametrize("argv, given, status, says", [
    (["train", "-o", ""], b"a", 2, b"argument -o/--out: the name of a path is empty"),
    (["encode", "BPE", "-o", ""], b"a", 2, b"argument -o/--out: the name of a path is empty"),
    (["encode", "BPE", "-o", "-"], b"a", 2, b"what is written needs a name of its own"),
    (["encode", "BPE", ""], b"a", 2, b"the name of a file is empty"),
    (["encode", ""], b"a", 2, b"argument TOKENIZER: the name of a path is empty"),
    (["encode", "BPE", "-", "-"], b"a", 2, b"standard input, -, can be read once"),
    (["train", "--char", "--vocab", "300", "-o", "c.json"], b"a", 2, b"--vocab is for byte pairs"),
    (["train", "--char", "--allow-special", "-o", "c.json"], b"a", 2, b"--allow-special is for byte pairs: with --char"),
    (["train", "-o", "BPE"], b"", 1, b"train wants a text to learn from; got none, or an empty one"),
    (["train", "--char", "-o", "CHAR"], b"", 1, b"train wants a text to learn from; got an empty one"),
    (["train", "--end", "-o", "folder"], b"a", 2, b"--end is for --char: byte pairs have <|endoftext|> without it"),
    (["encode", "BPE", "--replace"], b"a", 2, b"--replace is for a vocabulary of characters"),
    (["encode", "CHAR", "--allow-special"], b"a", 2, b"letters.json has none"),
    (["count", "GPT1", "--allow-special"], b"a", 2, b"gpt1 has none"),
    (["encode", "GPT1", "--end"], b"a", 2, b"gpt1 has no token that ends a text"),
    (["decode", "BPE"], b"1" * 5000, 1, b"is no id"),
    (["decode", "BPE", "--bin"], b"123", 1, b"standard input has 3 bytes, which are no whole number of 2-byte tokens"),
    (["encode", "BPE", "--nonsense"], b"a", 2, b"unrecognized arguments: --nonsense"),
    (["train", "-o", "c.json"], b"a", 2, b"characters go into a .json file and need --char"),
    (["train", "--char", "-o", "folder"], b"a", 2, b"byte pairs go into a folder"),
    (["encode", "BPE", "--header"], b"a", 2, b"--header is for a token file: name it with --out"),
    (["decode", "BPE"], b"1 x 2", 1, b"standard input: 'x' is no id"),
    (["decode", "BPE"], b"-1", 1, b"'-1' is no id"),
    (["decode", "BPE"], b"99999", 1, b"there is no token 99999: ids run from 0 to 261"),
    (["encode", "NONE"], b"", 1, b"NONE: No such file or directory"),
    (["train", "-o", "BPE", "--vocab", "100"], b"a", 1, b"a vocabulary has 256 bytes and 1 special tokens at least"),
    (["train"], b"", 2, b"the following arguments are required: -o/--out"),
    ([], b"", 2, b"the following arguments are required: ACTION"),
])
def test_wrong_calls_are_answered_with_a_sentence(folder, letters, gpt1, call, argv, given, status, says):
    named = {"BPE": folder, "CHAR": letters, "GPT1": gpt1, "NONE": folder.parent / "NONE"}
    code, _, err = call(*(named.get(a, a) for a in argv), given=given)
    assert code == status and says in err
