"""Byte pairs: all texts and bytes come back, merges are those of the definition, files are whole or refused."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from numgpt.files import FormatError
from numgpt.text import BPETokenizer
from numgpt.text.merging import learn, merge
from families import each

END = "<|endoftext|>"
FILES = ["merges.txt", "tokenizer_config.json", "vocab.json"]
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates too
ENGLISH = ("The rain it raineth every day; it's the rain's way, and they'll say: 'the rain, the rain!'\n\n"
           "  In 1999 it rained 42 days, naïve café-goers said.\t北京 下雨 了 — so it did...   Then it rained. ") * 3


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(ENGLISH, 340)


# -- there and back


@given(text=TEXT)
@example(text="\ud83d\ude00 \udc80 the rain\ud800")  # a pair in two halves stays in two halves
@example(text="")
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text), errors="surrogatepass") == text


@given(data=st.binary(max_size=40))
@example(data=b"the \xed\xa0\x80 rain \xff\xc3")  # what would be a surrogate, what is never UTF-8, half a character
def test_all_bytes_come_back(tokenizer, data):
    ids = tokenizer.encode(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.encode(bytearray(data)) == tokenizer.encode(memoryview(data)) == ids
    assert tokenizer.encode(data) == ids  # nothing that was remembered on the way changes it


@given(text=st.text(max_size=40))
def test_a_text_and_its_utf8_have_the_same_ids(tokenizer, text):
    assert tokenizer.encode(text) == tokenizer.encode(text.encode())


def test_bytes_that_are_no_utf8_leave_the_merges_around_them_alone(tokenizer):
    rain = tokenizer.encode(" rain")
    assert len(rain) == 1
    assert tokenizer.encode(b" rain rain \xff rain") == rain + rain + [*tokenizer.encode(b" \xff"), *rain]


def test_the_first_256_ids_are_the_bytes_in_gpt2s_order(tokenizer):
    order = [*range(33, 127), *range(161, 173), *range(174, 256), *range(0, 33), *range(127, 161), 173]
    assert sorted(order) == list(range(256))
    assert [tokenizer.decode_bytes([i]) for i in range(256)] == [bytes([byte]) for byte in order]
    bare = BPETokenizer.train("-", 257)
    assert [bare.encode(bytes([byte])) for byte in order] == [[i] for i in range(256)]
    assert bare.encode("Hello") == [39, 68, 75, 75, 78] and bare.encode(" \n") == [220, 198]  # as in GPT-2


def test_no_text_is_no_ids_and_a_character_is_its_bytes(tokenizer):
    assert tokenizer.encode("") == tokenizer.encode(b"") == tokenizer.encode_batch([]) == []
    assert tokenizer.decode([]) == "" and tokenizer.decode_bytes([]) == b""
    assert tokenizer.encode("!") == [0] and tokenizer.decode([0]) == "!"
    assert [tokenizer.decode_bytes([i]) for i in tokenizer.encode("\U0001f600")] == [b"\xf0", b"\x9f", b"\x98", b"\x80"]


def test_half_a_character_is_replaced_unless_asked_otherwise(tokenizer):
    half = tokenizer.encode("\U0001f600")[:2]
    assert tokenizer.decode(half) == "\ufffd" and tokenizer.decode(half, errors="ignore") == ""
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(half, errors="strict")


def test_a_batch_is_its_texts_one_by_one(tokenizer):
    texts = ["the rain", "", b"\xff rain", f"rain{END}"]
    assert tokenizer.encode_batch(texts, "all") == [tokenizer.encode(text, "all") for text in texts]
    with pytest.raises(ValueError, match="special token"):
        tokenizer.encode_batch(texts)


def test_numpy_ids_of_any_width_are_decoded(tokenizer):
    ids = tokenizer.encode(ENGLISH)
    for dtype in (np.uint16, np.int32, np.int64):
        assert tokenizer.decode(np.array(ids, dtype)) == ENGLISH
    assert tokenizer.decode(iter(ids)) == ENGLISH


@pytest.mark.parametrize("ids, says", [
    ([0, 340], "there is no token 340: ids run from 0 to 339"),
    ([-1], "there is no token -1: ids run from 0 to 339"),
    (np.array([65535], np.uint16), "there is no token 65535"),
    ([10**30], "there is no token 10{30}"),
])
def test_an_id_out_of_range_is_named(tokenizer, ids, says):
    assert tokenizer.n_vocab == 340
    for decode in (tokenizer.decode, tokenizer.decode_bytes):
        with pytest.raises(ValueError, match=says):
            decode(ids)


@pytest.mark.parametrize("text, says", [(None, "NoneType"), (3, "int"), (["a"], "list"), (Path("a"), "Path")])
def test_what_is_no_text_is_not_encoded(tokenizer, text, says):
    with pytest.raises(TypeError, match=f"encode wants text or bytes; got .*{says}"):
        tokenizer.encode(text)


@pytest.mark.parametrize("ids, says", [
    (3, "decode wants a row of ids; got 3"), (None, "row of ids; got None"), ("12", "row of ids; got '12'"), (b"a", "row of ids; got b'a'"),
    (np.array(3), r"row of ids; got array\(3\)"), ([True], "an id is a whole number; got True"), (["a"], "an id is a whole number; got 'a'"),
    ([1.7], "got 1.7"), ([[1, 2]], "got .1, 2."), (np.array([[1, 2]]), "got array"), (np.array([True]), "got np.True_")])
def test_what_is_no_row_of_ids_is_not_decoded(tokenizer, ids, says):
    for decode in (tokenizer.decode, tokenizer.decode_bytes):
        with pytest.raises(TypeError, match=says):
            decode(ids)


@pytest.mark.parametrize("texts", ["the rain", b"the rain", bytearray(b"the rain")])
def test_one_text_is_no_batch(tokenizer, texts):
    with pytest.raises(TypeError, match="encode_batch wants several texts; got one, .*the rain"):
        tokenizer.encode_batch(texts)


@pytest.mark.verify
def test_a_word_of_100000_letters_is_encoded():
    letters = random.Random(1)
    word = "".join(letters.choices("abc", k=100_000))
    tokenizer = BPETokenizer.train(" ".join(word[i:i + 20] for i in range(0, 4000, 20)), 300)
    ids = tokenizer.encode(word)
    assert len(ids) < 60_000 and tokenizer.decode(ids) == word
    run = tokenizer.encode("a" * 100_000)
    assert tokenizer.decode(run) == "a" * 100_000


# -- merging and learning, against the definition


def merged_naively(word, merges):
    """Find the lowest rank, the leftmost such pair; merge it alone; look again."""
    word = list(word)
    while True:
        there = [(merges[pair][0], i) for i, pair in enumerate(zip(word, word[1:])) if pair in merges]
        if not there:
            return word
        _, i = min(there)
        word[i:i + 2] = [merges[word[i], word[i + 1]][1]]


def learned_naively(words, spelled, n_vocab, min_count=2):
    """Count all pairs, merge the most frequent everywhere, and count again."""
    words, spelled, learned = [(list(word), n) for word, n in words.items()], list(spelled), []
    while len(spelled) < n_vocab:
        count = Counter()
        for word, n in words:
            for pair in zip(word, word[1:]):
                count[pair] += n
        if not count:
            break
        pair = min(count, key=lambda pair: (-count[pair], pair))
        if count[pair] < min_count:
            break
        token = spelled[pair[0]] + spelled[pair[1]]
        if token not in spelled:
            spelled.append(token)
        learned.append(pair)
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == pair:
                    word[i:i + 2] = [spelled.index(token)]
                i += 1
    return learned, spelled


@st.composite
def ranked_merges(draw):
    """Pairs of what is there so far, each made into a new id, or into an old one now and then."""
    merges, n = {}, draw(st.integers(1, 3))
    for rank in range(draw(st.integers(0, 12))):
        pair = draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        if pair not in merges:
            merges[pair] = rank, n
            n += 1
    ranks = draw(st.permutations(range(len(merges))))  # in any order: a merge may come before those of its parts
    return {pair: (ranks[i], new) for i, (pair, (_, new)) in enumerate(merges.items())}


@given(st.lists(st.integers(0, 2), max_size=30), ranked_merges())
@example([0] * 7, {(0, 0): (0, 1)})
@example([0] * 8, {(0, 0): (1, 1), (1, 0): (0, 2)})
def test_merging_takes_the_lowest_rank_and_the_leftmost_of_it_each_time(word, merges):
    before = list(word)
    assert merge(word, merges) == merged_naively(word, merges)
    assert word == before


def test_corrected_counts_learn_what_counting_again_learns():
    def learns(seed):
        chance = random.Random(seed)
        letters = "ab" if seed % 2 else "abcd"
        words = {}
        for _ in range(chance.randint(1, 12)):
            runs = "".join(chance.choice(letters) * chance.choice((1, 1, 2, 3, 5)) for _ in range(chance.randint(1, 6)))
            words[tuple(letters.index(c) for c in runs)] = chance.randint(1, 4)
        for n_vocab, min_count in ((10, 2), (60, 2), (60, 5), (60, 1)):
            spelled = [c.encode() for c in letters]
            learned, grown = learned_naively(words, spelled, n_vocab, min_count)
            assert learn(words, spelled, n_vocab, min_count) == learned
            assert spelled == grown

    each(range(40), learns)


def test_runs_of_one_letter_are_learned_as_by_counting_again():
    def learns(n):
        words = {(0,) * n: 2, (0,) * (n // 2): 1, (1, *(0,) * n, 1): 1}
        spelled = [b"a", b"b"]
        learned, grown = learned_naively(words, spelled, 40)
        assert learn(words, spelled, 40) == learned and spelled == grown

    each(range(1, 34), learns)


def test_a_pair_that_spells_a_token_that_is_there_becomes_that_token():
    words, spelled = {(0, 1, 3): 3, (2, 3): 1}, [b"a", b"b", b"ab", b"c"]
    assert learn(words, spelled, 5) == learned_naively(words, [b"a", b"b", b"ab", b"c"], 5)[0] == [(0, 1), (2, 3)]
    assert spelled == [b"a", b"b", b"ab", b"c", b"abc"]


def made(tokenizer):
    return [(tokenizer.tokens[a] + b"+" + tokenizer.tokens[b]).decode() for a, b in tokenizer.merges]


@pytest.mark.parametrize("text, merges", [
    # l+o 3, o+w 3, w+e 1, e+r 1: of those with 3 the smaller first id, l = 75 before o = 78. Then lo+w 3; no 2 is left.
    ("low\nlow\nlower", ["l+o", "lo+w"]),
    # a+b 4, b+a 2, b+b 2. Then b+ab 2, ab+b 2: b = 65 before ab = 256.
    ("bab\nbab\nabb\nabb", ["a+b", "b+ab", "ab+b"]),
    # b+b 4, a+b 2, a+c 2, b+a 2: b+b. Then of a+c, a+bb, bb+a the smaller first id, and then the smaller second.
    ("ac\nac\nabb\nabb\nbba\nbba", ["b+b", "a+c", "a+bb", "bb+a"]),
    # a+a 3 in aaaa (overlaps count) and 2 in aaa: 5. Then aa+aa 1, aa+a 1: none twice.
    ("aaaa\naaa", ["a+a"]),
    # x+y 2, y+z 2: x first. Then xy+z 2.
    ("xyz\nxyz", ["x+y", "xy+z"]),
    # each pair once: nothing to merge
    ("abc", []),
])
def test_merges_are_those_worked_out_by_hand(text, merges):
    assert made(BPETokenizer.train(text, 300)) == merges


def test_min_count_is_where_merging_stops():
    assert made(BPETokenizer.train("low\nlow\nlower", 300, min_count=3)) == ["l+o", "lo+w"]
    assert made(BPETokenizer.train("low\nlow\nlower", 300, min_count=4)) == []
    assert made(BPETokenizer.train("abc", 300, min_count=1)) == ["a+b", "ab+c"]


def test_encoding_applies_merges_in_the_order_of_training():
    tokenizer = BPETokenizer.train("low\nlow\nlower", 300)
    assert tokenizer.tokens[256:] == [b"lo", b"low", END.encode()]
    assert tokenizer.encode("lower\nlo") == [257, 68, 81, 198, 256] and tokenizer.encode("owl") == [78, 86, 75]
    assert tokenizer.n_vocab == 259 and tokenizer.special == {END: 258}


# -- training


def test_training_stops_at_the_size_that_was_asked_for():
    for n_vocab in (257, 258, 300):
        assert BPETokenizer.train(ENGLISH, n_vocab).n_vocab == n_vocab
    assert BPETokenizer.train(ENGLISH, 300, special=()).n_vocab == 300
    larger, smaller = (BPETokenizer.train(ENGLISH, n_vocab, special=()) for n_vocab in (330, 300))
    assert larger.merges[:44] == smaller.merges and larger.tokens[:300] == smaller.tokens


def test_special_tokens_come_after_the_merges_in_the_order_given():
    tokenizer = BPETokenizer.train(ENGLISH, 300, special=("<b>", "<a>"))
    assert tokenizer.special == {"<b>": 298, "<a>": 299} and tokenizer.decode([299, 298]) == "<a><b>"


@pytest.mark.parametrize("n_vocab, special, says", [
    (256, (END,), "256 bytes and 1 special tokens at least; got n_vocab 256"),
    (257, ("<a>", "<b>"), "256 bytes and 2 special tokens at least; got n_vocab 257"),
    (0, (), "got n_vocab 0"), (-1, (), "got n_vocab -1"),
])
def test_a_vocabulary_too_small_for_its_bytes_is_refused(n_vocab, special, says):
    with pytest.raises(ValueError, match=says):
        BPETokenizer.train("text", n_vocab, special=special)


def test_files_are_trained_on_as_their_text_is(tmp_path):
    tmp_path.joinpath("all").write_bytes(ENGLISH.encode())
    lines = ENGLISH.encode().split(b"\n\n")
    for i, line in enumerate(lines):
        tmp_path.joinpath(str(i)).write_bytes(line)
    whole = BPETokenizer.train(ENGLISH, 320)
    assert BPETokenizer.train(tmp_path / "all", 320).merges == whole.merges
    assert BPETokenizer.train([tmp_path / "all"], 320).merges == whole.merges
    parts = [tmp_path / str(i) for i in range(len(lines))]
    assert BPETokenizer.train(iter(parts), 320).merges == BPETokenizer.train(parts[::-1], 320).merges
    (tmp_path / "a").write_bytes(b"ab ab")
    (tmp_path / "b").write_bytes(b"cd cd")
    assert made(BPETokenizer.train([tmp_path / "a", tmp_path / "b"], 300)) == ["a+b", "c+d"]  # no word spans two


@pytest.mark.parametrize("text, says", [
    (["abc"], "train wants one text, .*; got .'abc'.: join several texts into one, or write Path"), (("abc", "d"), "got .'abc', 'd'"),
    ([b"abc"], "got .b'abc'"), (3, "got 3"), (None, "got None"), ([None], "got .None.")])
def test_what_is_neither_a_text_nor_files_is_not_trained_on(text, says):
    with pytest.raises(TypeError, match=says):
        BPETokenizer.train(text, 300)


@pytest.mark.parametrize("n_vocab", [300.0, "300", None])
def test_a_vocabulary_has_a_whole_number_of_tokens(n_vocab):
    with pytest.raises(TypeError, match="n_vocab must be a whole number; got "):
        BPETokenizer.train("abc", n_vocab)


@pytest.mark.parametrize("kind", [Path, bytes, bytearray, memoryview])
def test_bytes_that_are_no_utf8_are_trained_on_as_they_are(tmp_path, kind):
    raw = b"\xff\xfe \xff\xfe \xff\xfe"
    (tmp_path / "raw").write_bytes(raw)
    tokenizer = BPETokenizer.train(tmp_path / "raw" if kind is Path else kind(raw), 300)
    assert [tokenizer.tokens[a] + tokenizer.tokens[b] for a, b in tokenizer.merges] == [b"\xff\xfe", b" \xff\xfe"]
    assert tokenizer.encode(b"\xff\xfe \xff\xfe") == [256, 257]


def test_lone_surrogates_are_trained_on_as_the_bytes_they_would_be():
    tokenizer = BPETokenizer.train("\ud800 \ud800", 300)
    ids = tokenizer.encode("\ud800")
    assert len(ids) == 1 and tokenizer.decode_bytes(ids) == b"\xed\xa0\x80"


@pytest.mark.parametrize("text", ["", b"", [], "empty", END])
def test_there_is_nothing_to_learn_from_an_empty_text(tmp_path, text):
    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="train wants a text to learn from; got none, or an empty one"):
        BPETokenizer.train([tmp_path / "empty"] * 2 if text == "empty" else text, 300, allowed_special="all")


def test_the_letters_of_a_files_name_are_not_learned_in_silence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(ENGLISH)
    with pytest.raises(ValueError, match="'book.txt' is the name of a file: write Path.* for its letters"):
        BPETokenizer.train("book.txt", 300)
    assert BPETokenizer.train(Path("book.txt"), 300).merges == BPETokenizer.train(ENGLISH, 300).merges
    assert BPETokenizer.train(b"book.txt", 300).merges == BPETokenizer.train("nobook.txt", 300).merges == []


@pytest.mark.parametrize("kind", [str, str.encode, Path])
def test_a_special_token_in_what_is_trained_on_is_an_error_unless_it_separates_texts(tmp_path, kind):
    def given(text):
        if kind is not Path:
            return kind(text)
        (tmp_path / "text").write_text(text)
        return tmp_path / "text"
    where = tmp_path / "text" if kind is Path else "the text"
    with pytest.raises(ValueError, match=re.escape(f"{where} has the special token {END!r} at character 2: allow it with allowed_special")):
        BPETokenizer.train(given(f"ab{END}ab"), 300)
    for allowed in ("all", END, [END]):
        assert made(BPETokenizer.train(given(f"ab{END}ab{END}{END}"), 300, allowed_special=allowed)) == ["a+b"]
        assert made(BPETokenizer.train(given(f"x {END} x{END} x"), 300, allowed_special=allowed)) == [" +x"]
    assert "e+n" in made(BPETokenizer.train(given(END * 2), 300, special=()))  # without the token they are letters
    with pytest.raises(ValueError, match="'<pad>' is no special token here"):
        BPETokenizer.train(given("ab"), 300, allowed_special=["<pad>"])


# -- special tokens


def test_a_special_token_in_a_text_is_an_error_that_names_it_and_its_place(tokenizer):
    with pytest.raises(ValueError, match=re.escape(f"the text has the special token {END!r} at character 8: allow it")):
        tokenizer.encode(f"naïve 北京{END}")
    assert tokenizer.special[END] not in tokenizer.encode("<|endoftext|") + tokenizer.encode("|endoftext|>")


def test_a_special_token_is_its_id_where_it_is_allowed(tokenizer):
    end = tokenizer.special[END]
    rain = tokenizer.encode("rain")
    for allowed in ("all", {END}, [END], (END,)):
        assert tokenizer.encode(f"rain{END}{END}rain", allowed) == [*rain, end, end, *rain]
        assert tokenizer.encode(f"rain{END}".encode(), allowed) == [*rain, end]
    assert tokenizer.decode([end]) == END and tokenizer.decode_bytes([end]) == END.encode()


def test_the_first_that_is_not_allowed_is_named():
    tokenizer = BPETokenizer.train("-", 258, special=("<a>", "<b>"))
    assert tokenizer.encode("<a>!", {"<a>"}) == [256, 0]
    with pytest.raises(ValueError, match="the special token '<b>' at character 4"):
        tokenizer.encode("<a>!<b><b>", {"<a>"})


def test_of_special_tokens_that_begin_alike_the_longest_is_meant():
    for special in (("<e>", "<e>>", "<e>>>"), ("<e>>>", "<e>>", "<e>")):
        tokenizer = BPETokenizer.train("-", 259, special=special)
        assert tokenizer.encode("<e>>><e><e>>", "all") == [tokenizer.special[name] for name in ("<e>>>", "<e>", "<e>>")]
        with pytest.raises(ValueError, match="'<e>>' at character 0"):  # and not a shorter one that is allowed
            tokenizer.encode("<e>>", {"<e>"})


def test_names_of_special_tokens_are_no_patterns():
    tokenizer = BPETokenizer.train("-", 258, special=(".*", "[a]"))
    assert tokenizer.encode("a.*[a]", "all") == [64, 256, 257]


def test_an_unknown_special_token_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"'<pad>' is no special token here; there are <\|endoftext\|>"):
        tokenizer.encode("rain", {END, "<pad>"})
    with pytest.raises(ValueError, match="'<pad>' is no special token here; there are none"):
        BPETokenizer.train("-", 256, special=()).encode("rain", ["<pad>"])


@pytest.mark.parametrize("allowed", [None, 3, b"all", [None], [END, 3]])
def test_what_is_no_name_of_a_special_token_is_not_allowed(tokenizer, allowed):
    for special in (tokenizer, BPETokenizer.train("-", 256, special=())):
        with pytest.raises(TypeError, match='allowed_special wants names of special tokens, or "all"; got '):
            special.encode("rain", allowed)


def test_without_special_tokens_every_text_is_text():
    tokenizer = BPETokenizer.train("-", 256, special=())
    for allowed in ((), "all"):
        assert tokenizer.decode(tokenizer.encode(END, allowed)) == END


# -- files


def same(a, b):
    return (a.tokens, a.merges, a.special) == (b.tokens, b.merges, b.special) and a.encode(ENGLISH) == b.encode(ENGLISH)


def test_a_tokenizer_comes_back_from_its_folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == FILES
    assert same(BPETokenizer.load(tmp_path / "new" / "folder"), tokenizer)
    assert same(BPETokenizer.load(str(tmp_path / "new" / "folder")), tokenizer)


@pytest.mark.parametrize("special", [(), ("<b>", "<a>"), ("with a space", "né", "東京")])
def test_any_special_tokens_come_back(tmp_path, special):
    tokenizer = BPETokenizer.train(ENGLISH, 300, special=special)
    tokenizer.save(tmp_path)
    assert same(BPETokenizer.load(tmp_path), tokenizer)


def test_openais_names_are_read_as_well(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    with pytest.raises(FormatError, match="has neither tokenizer.json nor vocab.json and merges.txt nor encoder.json and vocab.bpe"):
        BPETokenizer.load(tmp_path)  # half of each
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert same(BPETokenizer.load(tmp_path), tokenizer)


def test_merges_alone_make_the_vocabulary(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert same(BPETokenizer.load(tmp_path / "merges.txt"), tokenizer)


def test_a_file_is_written_as_gpt2_writes_it(tmp_path):
    BPETokenizer.train(" é é", 300, special=()).save(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes().decode() == "#version: 0.2\nÃ ©\nĠ Ã©\n"
    written = (tmp_path / "vocab.json").read_bytes().decode()
    vocabulary = json.loads(written)
    assert written.startswith('{"!": 0, "\\"": 1, "#": 2, ') and written.endswith(', "Ã©": 256, "ĠÃ©": 257}')
    assert vocabulary["Ā"] == 188 and vocabulary["Ġ"] == 220 and len(vocabulary) == 258


@pytest.mark.parametrize("lines, merges", [
    ("#version: 0.2\na b\n# #\nab #", ["a+b", "#+#", "ab+#"]),
    ("a b\n# #\n## ##\n", ["a+b", "#+#", "##+##"]),  # no comment
    ("# #\na b\n", ["#+#", "a+b"]),  # a merge, in the first line too
    ("#version: 0.2\r\na b\r\nab c\r\n", ["a+b", "ab+c"]),
    ("#version: 0.2\n# v\n#v ersion\n", None),  # further down it is no comment
    ("#version: 0.2\na b\n#version: 0.2\n", None),
    ("a b\nb c\na bc\n", ["a+b", "b+c", "a+bc"]),
    ("a b\nb c\nab c\na bc\nabc d\n", ["a+b", "b+c", "ab+c", "a+bc", "abc+d"]),  # two ways to one token
])
def test_only_a_first_line_is_a_comment(tmp_path, lines, merges):
    path = tmp_path / "merges.txt"
    path.write_bytes(lines.encode())
    if merges is None:
        with pytest.raises(FormatError, match="has a part that no merge before it makes"):
            BPETokenizer.load(path)
    else:
        tokenizer = BPETokenizer.load(path)
        assert made(tokenizer) == merges
        assert tokenizer.special == {END: 256 + len({name.replace("+", "") for name in merges})}
        tokenizer.save(tmp_path / "again")
        assert same(BPETokenizer.load(tmp_path / "again"), tokenizer)


def test_a_vocabulary_may_give_its_ids_in_any_order(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "vocab.json"
    ids = json.loads(path.read_bytes().decode())
    names = ["<pad>", END, *sorted(set(ids) - {END}, reverse=True)]  # special tokens first
    new = {name: i for i, name in enumerate(names)}
    path.write_text(json.dumps({name: new[name] for name in sorted(names)}))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    other = BPETokenizer.load(tmp_path)
    assert other.special == {"<pad>": 0, END: 1} and other.n_vocab == tokenizer.n_vocab + 1
    there = {tokenizer.tokens.index(token): i for i, token in enumerate(other.tokens) if i}
    text = ENGLISH + END + ENGLISH
    assert other.encode(text, "all") == [there[i] for i in tokenizer.encode(text, "all")]
    assert other.decode(other.encode(text, "all")) == text
    other.save(tmp_path)
    assert same(BPETokenizer.load(tmp_path), other)


def damaged_vocabulary(change):
    return lambda ids, lines: (json.dumps(change(ids)), lines)


def without(ids, name):
    return {other: i - (i > ids[name]) for other, i in ids.items() if other != name}


@pytest.mark.parametrize("damage, says", [
    (damaged_vocabulary(lambda ids: without(ids, "Ġrain")), "line 5 makes 'Ġrain', which is not in the .*: they belong to different"),
    (damaged_vocabulary(lambda ids: without(ids, "a")), "has no 'a', which is the byte 97: a vocabulary of byte pairs has all 256"),
    (damaged_vocabulary(lambda ids: {**without(ids, "a"), "<pad>": len(ids) - 1}), "has no 'a', which is the byte 97: "),
    (damaged_vocabulary(lambda ids: without(without(ids, "a"), "Ġ")), "has no 'Ġ', which is the byte 32 .1 more are lacking.: "),
    (damaged_vocabulary(lambda ids: {}), "has no 'Ā', which is the byte 0 .255 more are lacking.: "),
    (damaged_vocabulary(lambda ids: {**ids, "a": 3}), """'\\$' and 'a' both have id 3"""),
    (damaged_vocabulary(lambda ids: {**ids, END: 340}), "no token has id 339: the ids of 340 tokens must run from 0 to 339"),
    (damaged_vocabulary(lambda ids: {**ids, "!": -1}), "an id is a whole number from 0 on; that of '!' is -1"),
    (damaged_vocabulary(lambda ids: {name: i + 1 for name, i in ids.items()}), "no token has id 0"),
    (damaged_vocabulary(lambda ids: {name: float(i) for name, i in ids.items()}), "that of '!' is 0.0"),
    (damaged_vocabulary(lambda ids: {**ids, "!": 0.0}), "that of '!' is 0.0"),
    (damaged_vocabulary(lambda ids: {**ids, '"': True}), "is True"),
    (damaged_vocabulary(lambda ids: {**ids, "!": None}), "that of '!' is None"),
    (damaged_vocabulary(lambda ids: {**ids, "!": "0"}), "that of '!' is '0'"),
    (damaged_vocabulary(lambda ids: {**ids, "!": [0]}), "that of '!' is "),
    (damaged_vocabulary(lambda ids: {"model": {"vocab": ids}}), "that of 'model' is {"),
    (damaged_vocabulary(lambda ids: {**ids, "": len(ids)}), "has a token without a name, 340"),
    (damaged_vocabulary(lambda ids: {**ids, "<pad>": len(ids)}), "no merge makes '<pad>': .* cut short or .*; a special token must be named"),
    (damaged_vocabulary(lambda ids: {**ids, "né": len(ids), "xx": len(ids) + 1}), "no merge makes 'né' .nor 1 more.: "),
    (lambda ids, lines: (json.dumps(ids), "".join(lines.splitlines(True)[:-3])), "no merge makes .* .nor 2 more.: .* cut short"),
    (lambda ids, lines: (json.dumps(ids), lines + lines.splitlines()[7] + "\n"), "line 85 repeats line 8, '"),
    (damaged_vocabulary(lambda ids: {**ids, "\ud800": len(ids)}), "half of a surrogate pair"),
    (damaged_vocabulary(list), "must hold a JSON object; it holds list"),
    (damaged_vocabulary(lambda ids: None), "must hold a JSON object"),
    (lambda ids, lines: (json.dumps(ids)[:-1] + ', "a": 64}', lines), "'a' is there twice"),
    (lambda ids, lines: (json.dumps(ids)[:-9], lines), "is not JSON"),
    (lambda ids, lines: ("", lines), "is not JSON"),
    (lambda ids, lines: (json.dumps(ids)[:-1] + ', "b\udcff": 340}', lines), "is not JSON"),
    (lambda ids, lines: (json.dumps(ids), lines + "a b c\n"), "line 85: a merge is two tokens with a .*; got 'a b c'"),
    (lambda ids, lines: (json.dumps(ids), lines + "ab\n"), "line 85: a merge is two tokens .* got 'ab'"),
    (lambda ids, lines: (json.dumps(ids), lines + "a\tb\n"), "line 85: a merge is two tokens"),
    (lambda ids, lines: (json.dumps(ids), lines + "a  b\n"), "line 85: a merge is two tokens"),
    (lambda ids, lines: (json.dumps(ids), lines + "a \n"), "line 85: a merge is two tokens"),
    (lambda ids, lines: (json.dumps(ids), lines + " \n"), "line 85: a merge is two tokens"),
    (lambda ids, lines: (json.dumps(ids), lines + "a \u5317\n"), "line 85: a .* got 'a \u5317'"),
    (lambda ids, lines: (json.dumps(ids), lines + "a\x00 b\n"), "line 85: a "),
    (lambda ids, lines: (json.dumps(ids), lines + "q q\n"), "line 85 makes 'qq', which is not in the vocabulary of"),
    (lambda ids, lines: (json.dumps({**ids, "qqq": 340}), lines + "qq q\n"), "line 85 has a part 'qq', which is not"),
    (lambda ids, lines: (json.dumps(ids), "\ufeff" + lines), "line 1: a "),
    (lambda ids, lines: (json.dumps(ids), lines + "a \udcff\n"), "merges.txt is no file of merges: it is not UTF-8"),
    (lambda ids, lines: (json.dumps(ids), "\udcff\udcfe#\0"), "is not UTF-8 at byte 0"),  # UTF-16
])
def test_a_damaged_file_is_refused_in_a_sentence(tokenizer, tmp_path, damage, says):
    tokenizer.save(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_bytes().decode())
    lines = (tmp_path / "merges.txt").read_bytes().decode()
    assert lines.count("\n") == 84
    (tmp_path / "tokenizer_config.json").unlink()
    for name, content in zip(("vocab.json", "merges.txt"), damage(ids, lines)):
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(FormatError, match=says) as error:
        BPETokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("lines, says", [
    ("a b\nabc d\n", "line 2 has a part that no merge before it makes, 'abc'"),
    ("ab c\na b\n", "line 1 has a part that no merge before it makes, 'ab'"),  # too early
    ("#version: 0.2\na b\n\nb c\na b\n", "line 5 repeats line 2, 'a b': a pair is merged once"),
    ("a b\n\nc d e\n", "line 3: a merge is two tokens"),
    ("", "merges.txt has no merges in it"), ("\n\n", "has no merges in it"), ("#version: 0.2\n", "has no merges in it"),
    ("".join(f"{END[:i]} {END[i]}\n" for i in range(1, len(END))), "merges.txt: its merges make '<.endoftext.>' of a text's letters"),
    ('{"a": 0}', "has a part that no merge before it makes|a merge is two tokens"),
])
def test_merges_alone_are_refused_where_a_part_is_unknown(tmp_path, lines, says):
    (tmp_path / "merges.txt").write_text(lines)
    with pytest.raises(FormatError, match=says):
        BPETokenizer.load(tmp_path / "merges.txt")


def test_what_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "none")
    with pytest.raises(FormatError, match="has neither"):
        BPETokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        BPETokenizer.train(tmp_path / "none", 300)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tokenizer, tmp_path, monkeypatch):
    old = BPETokenizer.train("old old", 300)
    old.save(tmp_path)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert same(BPETokenizer.load(tmp_path), old)


# -- other people's tokenizers on the same merges


def real_text():
    from pydoc_data.topics import topics
    return "\n".join(topics.values())


@pytest.fixture(scope="module")
def trained():
    return BPETokenizer.train(real_text() + ENGLISH * 3, 3000)


def random_strings(n):
    """Over all of Unicode but lone surrogates, a half of it near to hand: words, digits, spaces, quotes, runs."""
    chance = random.Random(7)
    near = ["'s", "'ll", " ", "  ", "\n", "the", " object", "is", "1", "23", "é", "ß", "北", "😀", "\xa0", "\x1c", "aaaa"]

    def letter():
        if chance.random() < 0.5:
            return chance.choice(near)
        c = chance.randrange(chance.choice((0x80, 0x3000, 0xD800, 0x110000)))
        return chr(c) if not 0xD800 <= c < 0xE000 else "-"

    return ["".join(letter() for _ in range(chance.randrange(40))) for _ in range(n)]


def texts():
    text = real_text()
    return [*random_strings(20_000), text, *text.split("\n\n")]


def tokenizers_bpe(tokenizer, folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    tokenizer.save(folder)
    theirs = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return theirs


@pytest.mark.verify
def test_ids_are_those_of_tiktoken(trained):
    import tiktoken
    theirs = tiktoken.Encoding(
        "same", pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks=trained.ids, special_tokens=trained.special)
    for text in texts():
        assert trained.encode(text) == theirs.encode_ordinary(text)
    text = f"one{END}two{END}"
    assert trained.encode(text, "all") == theirs.encode(text, allowed_special="all")


@pytest.mark.verify
def test_ids_are_those_of_tokenizers(trained, tmp_path):
    theirs = tokenizers_bpe(trained, tmp_path)
    several = texts()
    for text, encoding in zip(several, theirs.encode_batch(several)):
        assert trained.encode(text) == encoding.ids


@pytest.mark.verify
@pytest.mark.parametrize("n_vocab, min_count", [(3000, 2), (40_000, 2), (40_000, 20)])  # 40,000: till none is left
@pytest.mark.parametrize("text", ["real", "runs", "unicode"])
def test_merges_are_those_that_tokenizers_trains(tmp_path, text, n_vocab, min_count):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    chance = random.Random(3)
    text = {"real": real_text, "unicode": lambda: "".join(random_strings(2000)),
            "runs": lambda: " ".join("".join(chance.choice("ab") * chance.randint(1, 9) for _ in range(8))
                                     for _ in range(500))}[text]()
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Their ids begin with the special tokens, which changes no comparison between pairs.
    theirs.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=n_vocab, min_frequency=min_count, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    (tmp_path / "theirs").mkdir()
    theirs.model.save(str(tmp_path / "theirs"))
    ours = BPETokenizer.train(text, n_vocab, min_count=min_count)
    ours.save(tmp_path / "ours")
    assert ((tmp_path / "ours" / "merges.txt").read_bytes().split(b"\n")[1:]
            == (tmp_path / "theirs" / "merges.txt").read_bytes().split(b"\n")[1:])
    loaded = BPETokenizer.load(tmp_path / "theirs")
    assert loaded.special == {END: 0} and loaded.n_vocab == ours.n_vocab
    sample = text[:20_000]
    assert loaded.encode(sample) == theirs.encode(sample).ids == [i + 1 for i in ours.encode(sample)]


@pytest.mark.verify
def test_transformers_reads_our_files_and_gives_the_same_ids(trained, tmp_path):
    from transformers import GPT2Tokenizer
    trained.save(tmp_path)
    theirs = GPT2Tokenizer.from_pretrained(str(tmp_path))
    assert len(theirs) == trained.n_vocab and theirs.eos_token_id == trained.special[END]
    for text in [*random_strings(2000), real_text()]:
        assert theirs(text)["input_ids"] == trained.encode(text)
    text = f"one{END}two"
    assert theirs(text)["input_ids"] == trained.encode(text, "all")


@pytest.mark.parametrize("special", ["<|end|>", ("x", "x"), ("",), ("\ud800",), (3,)])
def test_names_that_would_not_come_back_from_a_file_are_refused_before_training(special):
    with pytest.raises(ValueError, match="special must be a list of different names"):
        BPETokenizer.train("abc abc", 300, special=special)


def test_a_special_token_written_like_another_token_is_refused():
    with pytest.raises(ValueError, match="the special token 'Ġab' is written like token 257"):
        BPETokenizer.train(" ab ab ab", 300, special=("Ġab",))


def test_one_special_token_may_be_allowed_by_its_name_alone():
    tokenizer = BPETokenizer.train("-", 257)
    assert tokenizer.encode("<|endoftext|>", "<|endoftext|>") == [256]
    with pytest.raises(TypeError):
        tokenizer.decode([1.7])
