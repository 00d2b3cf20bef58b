"""The ledger's figures are those of the pass, and of the plan; and it fits where it is shown."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.teach.ledger.held import held
from numgpt.teach.ledger import ledger
from numgpt.teach.terminal import Ink
from numgpt.verify import hard
from numgpt.verify.passes import compute

DROPS = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
FORMS = {"pre": {}, "post": {"norm": "post"}, "no-bias": {"bias": False}, "untied": {"tied": False, "head_bias": True},
         "sinusoidal": {"positions": "sinusoidal", "activation": "relu"}, "window": {"window": 3, "n_layer": 3},
         "head-size": {"head_size": 7, "n_hidden": 5, "n_layer": 1}, "few-rows": {"n_vocab": 2000, "n_embd": 30},
         "post-few-rows": {"norm": "post", "n_vocab": 900}, "drops": DROPS,
         "post-drops": {"norm": "post", "window": 70, **DROPS}}
B, T = 2, 7


def config_of(form: str) -> GPTConfig:
    return GPTConfig(**{**dict(n_vocab=13, n_ctx=131, n_layer=2, n_head=3, n_embd=15), **FORMS[form]})


def rng_of(config):
    return np.random.default_rng((0, hard.DROPOUT)) if config.dropout_attn else None


def saved_by(config, dtype, n_tokens=T):
    model = GPT(config, seed=0, dtype=dtype)
    ids, targets = hard.batch(config, B, n_tokens, 0, every_target=True)
    return model.forward(ids, targets, rng=rng_of(config))[1], ids


def passed_by(config) -> dict[str, np.ndarray]:
    """Every tensor of the same pass, by its name in a trace."""
    ids, targets = hard.batch(config, B, T, 0, every_target=True)
    return compute(GPT(config, seed=0, dtype=np.float64), ids, targets, rng=rng_of(config))


def owners(item) -> list[np.ndarray]:
    """All arrays reached from what forward saved, a view as what it looks at."""
    if isinstance(item, np.ndarray):
        while isinstance(item.base, np.ndarray):
            item = item.base
        return [item]
    return [array for one in item for array in owners(one)] if isinstance(item, (tuple, list)) else []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype, n_tokens", [("float64", T), ("float32", 70)])  # 70: queries in two tiles
def test_each_column_adds_up_to_the_plan(form, dtype, n_tokens):
    config = config_of(form)
    books = ledger(config, batch=B, n_tokens=n_tokens, dtype=dtype)
    plan = config.plan(batch=B, n_tokens=n_tokens, dtype=dtype)
    forward, backward = sum(row.flops_forward for row in books.rows), sum(row.flops_backward for row in books.rows)
    assert books.totals["n_params"] == sum(p.size for p in books.parameters) == plan.n_params
    assert books.totals["weights"] == sum(p.bytes for p in books.parameters) == plan.weights
    assert books.totals["saved"] == sum(n for row in books.rows for n in row.kept.values()) == plan.saved
    # A quotient and a sum may each round once, here and there.
    assert books.totals["flops_forward"] == forward / (B * n_tokens) == pytest.approx(plan.flops_forward, rel=1e-15)
    both = (forward + backward) / (B * n_tokens)
    assert books.totals["flops_training"] == both == pytest.approx(plan.flops_training, rel=1e-15)
    assert [row for _, rows in books.sections() for row in rows] == list(books.rows)


@pytest.mark.parametrize("form", FORMS)
def test_every_array_that_forward_saved_is_in_the_books_once(form):
    config = config_of(form)
    for n_tokens in (T, 70):
        saved, ids = saved_by(config, np.float32, n_tokens)
        found = {id(array) for array in owners(saved) if array is not ids}
        named = [id(array) for _, _, array in held(config, saved)]
        assert len(named) == len(set(named)) and set(named) == found


@pytest.mark.parametrize("form", FORMS)
def test_what_is_kept_is_what_the_books_call_it(form):
    config = config_of(form)
    saved, ids = saved_by(config, np.float64)
    passed = passed_by(config)
    last = "norm" if config.norm == "pre" else f"blocks.{config.n_layer - 1}.norm2"
    for name, what, array in held(config, saved):
        tensor = passed[f"forward.{name}"]
        if what in ("itself", "gradient"):
            tensor = passed[f"{'forward' if what == 'itself' else 'backward'}.{name}"]
        elif what == "mask":
            tensor = passed[f"masks.{name}"]
        elif what == "xhat":
            array = array * passed[f"weights.{name}.gain"] + passed.get(f"weights.{name}.bias", 0)
        elif what == "rstd":
            assert array.shape == (B, T, 1)
            continue
        elif name == "logits":  # of a tied table it is the head's part, without the embedding's
            x, dlogits = (passed[name].reshape(B * T, -1) for name in (f"forward.{last}", "backward.logits"))
            tensor = dlogits.sum(0) if what == "bias's gradient" else dlogits.T @ x if config.tied else x.T @ dlogits
        # A sum over 14 rows taken in another order: 14 roundings of numbers below 1.
        np.testing.assert_allclose(array.reshape(tensor.shape), tensor, rtol=0, atol=14 * 2.0 ** -53)


@pytest.mark.parametrize("form", ["pre", "post-drops", "untied", "window"])
def test_sizes_are_root_mean_squares_of_the_tensors_and_their_gradients(form):
    config = config_of(form)
    books, passed = ledger(config, batch=B, n_tokens=T), passed_by(config)
    assert {f"forward.{row.name}" for row in books.rows} == {name for name in passed if name.startswith("forward.")}
    for row in books.rows:
        values, gradient = passed[f"forward.{row.name}"], passed.get(f"backward.{row.name}")
        assert row.shape == values.shape
        seen = values > -np.inf  # a score that is hidden is no number, and has no gradient
        assert row.values == pytest.approx(np.sqrt((values[seen] ** 2).mean()), rel=1e-12)
        if gradient is None:
            assert (row.name, row.gradient) in (("probabilities", None), ("loss", 1.0)) and row.back == ""
        else:
            assert row.gradient == pytest.approx(np.linalg.norm(gradient) / np.sqrt(seen.sum()), rel=1e-12) and row.back
    for p in books.parameters:
        assert p.gradient == pytest.approx(np.linalg.norm(passed[f"grads.{p.name}"]) / np.sqrt(p.size), rel=1e-12)
        assert p.values == pytest.approx(np.linalg.norm(passed[f"weights.{p.name}"]) / np.sqrt(p.size), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_axes_are_the_shape_in_letters(form):
    c = config_of(form)
    books = ledger(c, batch=B, n_tokens=T, dtype=np.float32)
    sizes = dict(B=B, T=T, C=c.n_embd, H=c.n_head, D=c.head_dim, F=c.hidden_dim, V=c.n_vocab, n_ctx=c.n_ctx)
    for row in (*books.rows, *books.parameters):
        axes = [axis.replace(" ", "*") for axis in row.axes.split(", ") if axis]
        assert tuple(eval(axis, sizes) for axis in axes) == row.shape, row.name


def test_flops_stand_with_the_tensor_that_the_product_makes():
    c = config_of("window")
    books = ledger(c, batch=B, n_tokens=T)
    N, C, width = B * T, 15, 15
    seen = [sum(min(t + 1, window) for t in range(T)) for window in (T, 3, T)]
    expected = {"logits": 2 * N * C * 13}
    for i in range(3):
        one = 2 * B * width * seen[i]
        expected |= {f"blocks.{i}.{name}": n for name, n in {
            "attention.qkv": 2 * N * C * 3 * width, "attention.scores": one, "attention.mixed": one,
            "attention.out": 2 * N * width * C, "ffn.up": 2 * N * C * 60, "ffn.down": 2 * N * 60 * C}.items()}
    assert {row.name: row.flops_forward for row in books.rows if row.flops_forward} == expected
    assert all(row.flops_backward == 2 * row.flops_forward for row in books.rows)


def test_the_usual_books_are_of_two_layers_in_the_order_of_forward():
    books = ledger()
    assert books.config == GPTConfig.preset("nano") and books.config.n_layer == 2
    assert [section for section, _ in books.sections()] == ["embedding", "blocks.0", "blocks.1", "norm", "head", "loss"]
    assert books["blocks.0.attention.qkv"].flops_forward == 8640 == 2 * 10 * 12 * 36
    assert books["blocks.1.sum1"].of == {"x": "forward.blocks.0.sum2", "a": "forward.blocks.1.attention.out"}
    with pytest.raises(KeyError, match="no tensor of the pass is called .*attention.qkv"):
        books["blocks.0.qkv"]


@pytest.mark.parametrize("form", ["pre", "post-drops", "untied"])
def test_lines_fit_the_terminal_and_no_word_of_a_formula_is_lost(form):
    books = ledger(config_of(form), batch=B, n_tokens=T)
    for columns in range(60, 201, 1 if form == "pre" else 7):
        text = books.text(columns, backward=True)
        assert max(map(len, text.splitlines())) <= columns
        assert not re.search(r"\n\n\n|[ \t]\n", text)
        names = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
        assert [name for name in names if name in {p.name for p in books.parameters}][-1] == books.parameters[-1].name
    words = " ".join(books.text(60, backward=True).split())
    for row in books.rows:
        assert row.formula in words and row.back in words and row.name.split(".", 2)[-1] in words


def test_the_numbers_of_a_column_are_printed_in_full_so_that_a_reader_can_add_them_up():
    lines = ledger().text(80).splitlines()
    start, stop = (next(i for i, line in enumerate(lines) if line.startswith(word)) for word in ("tensor ", "sums "))

    def numbers(line):
        return [0 if cell == "-" else int(cell.replace(",", "")) for cell in line.split()[-3:]]

    rows = [numbers(line) for line in lines[start + 1:stop] if re.match(r"  \S", line)]
    sections = [numbers(line) for line in lines[start + 1:stop] if re.match(r"\S", line)]
    assert len(rows) == 36 and len(sections) == 6
    assert [sum(column) for column in zip(*rows)] == [sum(column) for column in zip(*sections)] == numbers(lines[stop])


def test_where_digits_have_no_room_there_are_three_of_them():
    books = ledger(config_of("few-rows"), batch=B, n_tokens=T)
    assert "480,000" in books.text(200) and "480 k" in books.text(70)


def test_colour_changes_nothing_but_colour():
    books = ledger()
    assert re.sub(r"\x1b\[[\d;]*m", "", books.text(80, Ink(True))) == books.text(80) != books.text(80, Ink(True))


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.open = [], []

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_notebook_gets_the_same_with_its_signs_escaped():
    books = ledger(config_of("sinusoidal"), batch=B, n_tokens=T)
    page = books._repr_html_()
    cells = Cells()
    cells.feed(page)
    assert not cells.open and "h &gt; 0" in page
    assert "da * (h > 0)  with da = gradient of ffn.activation, h = ffn.up" in cells.text
    for row in books.rows:
        assert any(row.formula in text for text in cells.text)
    assert f"{books.totals['saved']:,}" in cells.text


def test_what_is_kept_is_told_with_its_bytes_the_tensor_itself_first():
    text = " ".join(ledger(config_of("post-drops"), batch=B, n_tokens=T).text(80).split())
    whole, mask = 8 * B * T * 15, B * T * 15
    assert f"with x = positions, kept = mask; keeps itself {whole:,}, mask {mask}" in text
    assert f"with x = sum2; keeps itself {whole:,}, xhat {whole:,}, rstd {8 * B * T}" in text


def test_sizes_that_make_no_pass_are_refused():
    with pytest.raises(ValueError, match="a sequence of 9 tokens does not fit into a context of 8"):
        ledger(n_tokens=9)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        ledger(batch=0)
