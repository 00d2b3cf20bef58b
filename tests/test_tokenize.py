"""numgpt tokenize, as it is called."""

import io
import struct
from types import SimpleNamespace

import pytest

from numgpt.cli import main
from numgpt.text import BPETokenizer, CharTokenizer, load_tokenizer

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


def test_files_and_options_stand_in_any_order(folder, call, tmp_path):
    text = tmp_path / "text"
    expected = call("encode", folder, text, "--allow-special")
    assert call("encode", folder, "--allow-special", text) == call("encode", "--allow-special", folder, text) == expected
    assert expected[0] == 0 and call("count", folder, text, "--allow-special", text)[1].count(b"tokens") == 2


@pytest.mark.parametrize("argv, given, status, says", [
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
def test_wrong_calls_are_answered_with_a_sentence(folder, call, argv, given, status, says):
    code, _, err = call(*(folder if a == "BPE" else folder.parent / a if a == "NONE" else a for a in argv), given=given)
    assert code == status and says in err
