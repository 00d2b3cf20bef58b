"""What is shown of attention is what the model computes."""

import io
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from numgpt import GPT, BPETokenizer, CharTokenizer, GPTConfig, huggingface
from numgpt.cli import main
from numgpt.layers.attention import TILE
from numgpt.teach.look import Habit, look
from numgpt.teach.look.page import FROM, SHADES, fitted, shade, wide
from numgpt.teach.terminal import Ink
from numgpt.verify import cases
from numgpt.verify.passes import compute

LETTERS = "\n abcdefghijklmnopqrstuvwxyz<&\""
TEXT = "the cat sat\non a mat"
FORMS = {"pre": {}, "post": {"norm": "post"}, "window": {"window": 3, "n_layer": 3},
         "head-size": {"head_size": 7, "dropout_attn": 0.5}}
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def model_of(form="pre", n_ctx=24):
    config = GPTConfig(**{**dict(n_vocab=len(LETTERS), n_ctx=n_ctx, n_layer=2, n_head=3, n_embd=15), **FORMS[form]})
    model = cases.order_one(GPT(config, dtype=np.float64), np.random.default_rng(1))
    for block in model.body.blocks:
        block.attention.qkv.weight.value *= 2  # so that every shade comes
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return CharTokenizer(LETTERS)


def softmaxed(model, ids) -> list[np.ndarray]:
    """The probabilities of each layer (H, T, T), by the formula, from the queries and keys that pass."""
    c, T = model.config, len(ids)
    passed = compute(model, np.array([ids]), np.array([ids]))
    found = []
    for i in range(c.n_layer):
        q, k = (passed[f"forward.blocks.{i}.attention.{part}"][0] for part in "qk")
        ahead = np.arange(T) - np.arange(T)[:, None]
        seen = (ahead <= 0) & (ahead > -(c.window_of(i) or T))
        e = np.where(seen, np.exp(c.scale(i) * np.einsum("htd,hsd->hts", q, k)), 0)
        found.append(e / e.sum(-1, keepdims=True))
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T", [1, 20, TILE + 6])  # in one tile of queries, and in two
def test_the_shares_are_the_softmax_of_what_passes_and_nothing_looks_ahead(form, T):
    model = model_of(form, n_ctx=TILE + 6)
    ids = np.random.default_rng(2).integers(0, len(LETTERS), T)
    seen = look(model, ids)
    assert len(seen.p) == model.config.n_layer
    for i, (p, expected) in enumerate(zip(seen.p, softmaxed(model, ids))):
        # A score of 40 is off by as many roundings as it has terms, and exp makes a relative error of it.
        np.testing.assert_allclose(p, expected, rtol=40 * 15 * 2.0 ** -52, atol=1e-300)
        np.testing.assert_allclose(p.sum(-1), 1, rtol=T * 2.0 ** -52)
        assert not np.triu(p, 1).any()
        window = model.config.window_of(i)
        assert window is None or not np.tril(p, -window).any()


def test_a_model_that_recomputes_its_blocks_is_looked_at_as_one_that_does_not():
    model = model_of("post")
    twin = GPT(model.config, dtype=np.float64, recompute=True)
    twin.values = model.values
    assert all(np.array_equal(a, b) for a, b in zip(look(model, [3, 1, 4]).p, look(twin, [3, 1, 4]).p))


def test_a_shade_is_that_of_the_largest_bound_that_is_reached():
    assert [shade(x) for x in (0, 0.0099, 0.01, 0.029, 0.03, 0.3, 0.4999, 0.5, 0.9, 1)] == [*"  ..:**#@@"]
    assert len(SHADES) == len(FROM) + 1 == len(set(SHADES)) and sorted(FROM) == list(FROM)


def expected(share: float) -> str:
    return SHADES[sum(share >= bound for bound in FROM)]


def parsed(text: str, T: int) -> dict[int, list[str]]:
    """The cells of each head, row by row, as they are printed; one character of those of two columns."""
    found = {}
    for part in re.split(r"\n\n(?= +head )", text)[1:]:
        titles, _, top, *rows = part.split("\n")
        places = [(match.start(), int(match[1])) for match in re.finditer(r"head (\d+)", titles)]
        cell = 2 if len(places) == 1 and len(top) >= places[0][0] + 2 * T - 1 else 1
        for place, head in places:
            found[head] = [(row.ljust(200)[place:place + cell * T])[::cell] for row in rows[:T]]
            if cell == 2:
                assert all(row.ljust(200)[place:place + 2 * T][1::2] == one for row, one in zip(rows, found[head]))
    return found


@pytest.mark.parametrize("form, layer", [("pre", 1), ("window", 1), ("post", 0)])
@pytest.mark.parametrize("columns", [60, 100])
def test_every_character_shown_is_that_of_its_share(form, layer, columns, tokenizer):
    model, ids = model_of(form), tokenizer.encode(TEXT)
    shares, T = softmaxed(model, ids)[layer], len(ids)
    view = look(model, TEXT, tokenizer).view(layer=layer)
    shown = parsed(view.text(columns), T)
    assert shown == {head: ["".join(map(expected, row)) for row in shares[head]] for head in range(3)}
    assert parsed(COLOUR.sub("", view.text(columns, Ink(True))), T) == shown
    if form == "pre":
        assert {*"".join("".join(rows) for rows in shown.values())} == {*SHADES}  # so that none is untried
    alone = look(model, TEXT, tokenizer).view(layer=layer, head=2).text(columns)
    assert parsed(alone, T) == {2: shown[2]}


def test_rows_and_columns_have_their_tokens_beside_them(tokenizer):
    lines = look(model_of(), TEXT, tokenizer).view(head=0).text(60).splitlines()
    top = next(i for i, line in enumerate(lines) if line.strip() == "head 0") + 1
    assert lines[top].split() == ["0", "5", "10", "15"] and lines[top + 1].split() == [*"the·cat·sat", "\\no", *"n·a·mat"]
    shown = TEXT.replace(" ", "·").replace("\n", "N")
    assert [line.replace("\\n", "N").split()[:2] for line in lines[top + 2:]] == [[str(t), c] for t, c in enumerate(shown)]


@pytest.mark.parametrize("form, layer", [("pre", 0), ("window", 1)])
def test_at_a_position_each_token_stands_above_the_shade_of_its_share(form, layer, tokenizer):
    model, ids, at = model_of(form), tokenizer.encode(TEXT), 14
    shares = softmaxed(model, ids)[layer][1, at]
    seen = look(model, TEXT, tokenizer)
    text = seen.view(layer=layer, head=1, at=at).text(60)
    title, *lines, most = text.split("\n\n")[-1].split("\n")
    if form == "window":
        lines.insert(1, "")  # the first line has nothing that is looked at, and no line of shades below
    first, below, second, below2 = lines
    assert title == f"layer {layer}, head 1: position 14, ·, looks at"
    assert first == "the·cat·sat\\n" and second == "on·a·mat"
    characters = [expected(share) for share in shares]
    assert below.ljust(13) == "".join(characters[:12]) + characters[11]  # a new line is shown in two columns
    assert below2.ljust(8) == "".join(characters[12:])
    best = [t for t in sorted(range(15), key=lambda t: -shares[t])[:5] if shares[t] >= 0.01]
    assert most == "most: " + ", ".join(f"{t} {seen.tokens[t]} {shares[t]:.0%}" for t in best)
    assert seen.view(layer=layer - model.config.n_layer, head=-2, at=at - len(TEXT)).text(60) == text  # counted from the end
    colour = seen.view(layer=layer, head=1, at=at).text(60, Ink(True)).split("\n")
    assert [COLOUR.sub("", line) for line in colour[-4:]] == [title, first, second, most]  # no line of shades below
    for t, c in enumerate("the·cat·sat"):
        level = SHADES.index(characters[t]) / 9
        assert Ink(True).shade(c, level) in colour[-3]


def test_a_token_of_several_columns_has_its_shade_below_all_of_them():
    seen = look(model_of(), [29, 4, 17, 4, 23])
    title, first, below, most = seen.view(head=0, at=4).text(60).split("\n\n")[1].split("\n")
    assert first == "29" "4" "17" "4" "23"
    assert below.ljust(8) == "".join(expected(share) * len(token) for share, token in zip(seen.p[1][0, 4], seen.tokens))


@pytest.mark.parametrize("columns", [60, 61, 80, 113, 200])
@pytest.mark.parametrize("text", ["t", TEXT, "a<b&" * 6, "z" * 90])
def test_no_line_is_longer_than_the_terminal(columns, text, tokenizer):
    seen = look(model_of("window", n_ctx=90), text, tokenizer)
    for shown in (seen.text(columns), seen.view(layer=0, at=0).text(columns), seen.view(head=1).text(columns)):
        assert max(map(wide, shown.split("\n"))) <= columns
    cut = len(text) > columns - 10
    assert (f"of the {len(text)} tokens" in " ".join(seen.view().text(columns).split())) == cut


def test_a_text_longer_than_the_context_is_shown_as_far_as_it_goes_and_that_is_said(tokenizer):
    model = model_of(n_ctx=9)
    seen = look(model, TEXT, tokenizer)
    assert seen.tokens == tuple("the·cat·s") and seen.left_out == 11
    assert "The text has 20 tokens and the model's context 9: these are the first 9." in seen.text(100)
    assert "The text has 20 tokens" in seen._repr_html_()
    whole = look(model, TEXT[:9], tokenizer)
    assert "The text has" not in whole.text(100) and all(np.array_equal(a, b) for a, b in zip(seen.p, whole.p))


def test_habits_are_means_over_the_positions_that_have_another_before_them():
    p = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.5, 0.25, 0], [0, 0, 1, 0]])
    assert Habit.of(p) == Habit(None, None, entropy=2.5 / 3, previous=pytest.approx(2 / 3), first=0.25, itself=0.25)
    assert Habit.of(np.ones((1, 1))) == Habit(None, None, 0.0, 0.0, 1.0, 1.0)


def test_the_habits_of_every_head_are_told_in_a_line_and_so_are_those_of_an_even_look(tokenizer):
    model = model_of("window")
    seen = look(model, TEXT, tokenizer)
    rows = [line.split() for line in seen.text(80).split("\n\n")[1].split("\n")]
    assert rows[0] == ["layer", "head", "entropy", "previous", "first", "itself"]
    assert [row[:2] for row in rows[1:10]] == [[str(i), str(h)] for i in range(3) for h in range(3)]
    for (i, h, entropy, *shares) in rows[1:10]:
        p = softmaxed(model, tokenizer.encode(TEXT))[int(i)][int(h)]
        bits = np.mean([-sum(x * np.log2(x) for x in row if x) for row in p[1:]])
        assert entropy == f"{bits:.2f}"
        assert shares == [f"{np.mean(one):.0%}" for one in (np.diag(p, -1), p[1:, 0], np.diag(p)[1:])]
    assert rows[10][0] == "evenly" and rows[10][1] == f"{np.mean(np.log2(np.arange(2, 21))):.2f}"
    assert rows[11][:4] == ["evenly", "of", "3", f"{(1 + 18 * np.log2(3)) / 19:.2f}"]


def test_tokens_are_shown_with_nothing_that_moves_the_cursor():
    bpe = BPETokenizer.train("é é a\tb\n日 e\u0301 a a", 258)
    ids = bpe.encode("é a\tb\n日\x1be\u0301")
    model = GPT(GPTConfig(bpe.n_vocab, 32, 1, 1, 4))
    tokens = look(model, ids, bpe).tokens
    assert all(token.isprintable() and token for token in tokens) and "·" in "".join(tokens)
    assert {"\\t", "\\n", "\\x1b"} <= set(tokens) and any(token.startswith("\\x") and token != "\\x1b" for token in tokens)
    characters = CharTokenizer("a日\u0301\ud800", end=True)
    assert look(model, [0, 1, 2, 3, 4], characters).tokens == ("a", "日", "\\u0301", "\\ud800", "<4>")
    assert look(model, [7, 0]).tokens == ("7", "0")


def test_a_token_has_its_columns_whatever_it_is():
    assert wide("日a") == 3 and [fitted(text, 3) for text in ("a", "abcd", "日本", "日a")] == ["a  ", "ab…", "日…", "日a"]
    assert fitted("日", 1, more="") == " "
    model = GPT(GPTConfig(257, 40, 1, 2, 4))
    seen = look(model, [0, 1, 2] * 13, CharTokenizer("日a本"))
    words = BPETokenizer.train("日本日本日本日本日本 " * 3, 290)
    long = look(GPT(GPTConfig(words.n_vocab, 40, 1, 2, 4)), words.encode("日本日本日本日本日本 " * 7), words)
    assert max(map(wide, long.tokens)) > 18
    for shown in (seen.text(60), seen.view(at=-1).text(60), long.text(60), long.view(at=-1).text(60)):
        assert max(map(wide, shown.split("\n"))) <= 60


class Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.titles, self.grounds = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)
        found = dict(attrs)
        if "title" in found:
            self.titles.append(found["title"])
            self.grounds.append(found["style"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_notebook_gets_each_share_as_a_ground_and_each_token_as_text(tokenizer):
    model, text = model_of(), '<b&"i'
    p = softmaxed(model, tokenizer.encode(text))[1]
    seen = look(model, text, tokenizer)
    page = Page(seen._repr_html_())
    assert "2 &" in page.text and "0 <" in page.text and "evenly" in page.text
    cells = [(t, k, p[h, t, k]) for h in range(3) for t in range(5) for k in range(t + 1)]
    assert page.titles == [f"{text[t]} looks at {text[k]}: {share:.1%}" for t, k, share in cells]
    assert page.grounds == [f"background:rgba(30,100,220,{share:.3f})" for *_, share in cells]
    one = Page(seen.view(head=0, at=3)._repr_html_())
    assert one.titles == [f"{t}: {share:.1%}" for t, share in enumerate(p[0, 3])] and one.text[1:] == [*text]
    long = look(model_of(n_ctx=70), "ab" * 35, tokenizer).view(head=0)._repr_html_()
    assert "The first 64 of 70 tokens." in long and long.count("looks at") == 64 * 65 // 2


@pytest.mark.parametrize("wrong, sentence", [
    (dict(layer=2), "there is no layer 2: the model has 2 layers, counted from 0"), (dict(layer=-3), "there is no layer -3"),
    (dict(head=3), "there is no head 3: a layer has 3 heads"), (dict(at=20), "no position 20: the text has 20 tokens")])
def test_what_there_is_not_is_answered_with_what_there_is(wrong, sentence, tokenizer):
    with pytest.raises(ValueError, match=sentence):
        look(model_of(), TEXT, tokenizer).view(**wrong)


def test_a_text_wants_a_tokenizer_and_ids_want_one_axis():
    with pytest.raises(TypeError, match="a text wants a tokenizer"):
        look(model_of(), TEXT)
    for ids in ([], [[1, 2]]):
        with pytest.raises(ValueError, match="a text of one token or more can be looked at; got ids of shape"):
            look(model_of(), ids)


# -- the command


@pytest.fixture(scope="module")
def desk(tmp_path_factory, tokenizer):
    """A run's folder, as numgpt train leaves it, and one of Hugging Face's."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "run" / "tokenizer").mkdir(parents=True)
    model_of().save(folder / "run" / "best.safetensors")
    tokenizer.save(folder / "run" / "tokenizer" / "characters.json")
    bpe = BPETokenizer.train("the cat sat on the mat", 262)
    huggingface.save(GPT(GPTConfig(bpe.n_vocab, 16, 1, 2, 8)), folder / "hf")
    bpe.save(folder / "hf")
    return folder


@pytest.fixture
def call(desk, monkeypatch, capsys):
    def run(model, *words, given=b""):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        monkeypatch.setenv("COLUMNS", "80")
        try:
            status = main(["attention", str(desk / model), *map(str, words)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()
    return run


def test_the_command_prints_what_the_library_shows(call, tokenizer):
    seen = look(model_of(), TEXT, tokenizer)
    assert call("run", "--text", TEXT) == (0, seen.text(80) + "\n", "")
    assert call("run", "--text", "-", "--layer", 0, given=TEXT.encode()) == (0, f"{seen.view(layer=0).text(80)}\n", "")
    at = call("run/best.safetensors", "--text", TEXT, "--at", -1, "--head", 1)
    assert at == (0, f"{seen.view(at=19, head=1).text(80)}\n", "")
    status, out, err = call("hf", "--text", "the cat")
    assert (status, err) == (0, "") and re.findall(r"^\d (\S+) +@", out, re.M)[0] == "the"
    status, out, err = call("run", "--text", TEXT * 2, "--layer", 1)
    assert out.startswith("The text has 40 tokens and the model's context 24: these are the first 24.\n\nLayer 1")


@pytest.mark.parametrize("words, sentence", [
    (("run", "--text", ""), "the text is empty"), (("run", "--text", "-"), "standard input is empty"),
    (("run", "--text", "É"), "the text: the vocabulary lacks 'É'"), (("none", "--text", "a"), "there is no model"),
    (("run", "--text", "a", "--layer", 7), "there is no layer 7: the model has 2 layers, counted from 0"),
    (("hf", "--text", "<|endoftext|>"), "allow it with --allow-special")])
def test_what_cannot_be_shown_is_answered_with_a_sentence(call, words, sentence):
    status, out, err = call(*words)
    assert status == 1 and out == "" and err.startswith("numgpt: ") and sentence in err and err.count("\n") == 1


def test_without_matplotlib_the_way_to_it_is_said(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = call("run", "--text", "a", "--out", tmp_path / "a.png")
    assert status == 1 and "drawing takes matplotlib: pip install 'numgpt[plot]'" in err


@pytest.mark.verify
def test_the_picture_has_each_head_s_shares_and_the_tokens(call, tmp_path, monkeypatch, tokenizer):
    import matplotlib.pyplot as plt
    monkeypatch.setattr(plt, "close", lambda figure: None)
    status, out, err = call("run", "--text", TEXT, "--layer", 0, "--out", tmp_path / "a.b.png")
    assert (status, err) == (0, "") and out.endswith("a.b.png\n")
    assert (tmp_path / "a.b.png").read_bytes().startswith(b"\x89PNG")
    seen = look(model_of(), TEXT, tokenizer)
    panels = [ax for ax in plt.gcf().axes if ax.get_title().startswith("head")]
    assert [ax.get_title() for ax in panels] == ["head 0", "head 1", "head 2"]
    for ax, p in zip(panels, seen.p[0]):
        assert np.array_equal(ax.images[0].get_array(), p) and ax.images[0].get_clim() == (0, 1)
        assert tuple(label.get_text() for label in ax.get_yticklabels()) == seen.tokens
    assert call("run", "--text", TEXT, "--out", tmp_path / "a.xyz")[2].startswith("numgpt: ")
