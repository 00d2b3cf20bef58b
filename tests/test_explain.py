"""Every number that an explanation prints, computed once more: from the layer, from the lines, from forward alone."""

import functools
import inspect
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from numgpt import layers as L
from numgpt.cli import main
from numgpt.cli.explain import PAGES
from numgpt.config import GPTConfig
from numgpt.teach.ledger import ledger
from numgpt.layers.param import Layer, Param
from numgpt.teach.explain import adam
from numgpt.teach.derivation import Derivation, execute, scope
from numgpt.teach.explain.examples import EXAMPLES, Sizes, make
from numgpt.teach.explain import explain, find, names
from numgpt.teach.explain.figures import lines
from numgpt.teach.terminal import Ink
from numgpt.teach.explain.worked import shapes_of
from numgpt.training.optim import AdamW
from numgpt.verify import mutants
from families import each
from test_cases import SISTERS

NUMBER = r"-?(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|inf|nan)"
WIDTH = 120


page = functools.cache(explain)  # for those who change nothing


# -- a reader of the page


def arrays(text: str) -> list[tuple[str, list[list[str]]]]:
    """(name and shape, rows of numbers) of each array on a page; ... stands for what was cut."""
    found = []
    for line in text.splitlines():
        if not (match := re.match(r"^      (.*?)\s*\|(.*)$", line)):
            continue
        label, row = match[1], re.sub(r"^\[[\d, ]+\] ", "", match[2].strip()).split()
        below = label == "" or label.startswith("(")
        if below:
            found[-1] = (f"{found[-1][0]} {label}".rstrip(), [*found[-1][1], *([row] if row else [])])
        else:
            found.append((label, [row]))
    return found


def same(rows: list[list[str]], value) -> bool:
    """Whether the rows are that array, as far as their digits go."""
    value = np.asarray(value)
    lines = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    if ["..."] in rows:
        cut = rows.index(["..."])
        if len(lines) <= len(rows):
            return False
        lines = np.concatenate([lines[:cut], lines[-(len(rows) - cut - 1):]])
        rows = [row for row in rows if row != ["..."]]
    if len(lines) != len(rows):
        return False
    for row, line in zip(rows, lines.tolist()):
        if "..." in row:
            cut = row.index("...")
            if len(line) <= len(row):
                return False
            line, row = [*line[:cut], *line[len(line) - (len(row) - cut - 1):]], [word for word in row if word != "..."]
        if len(row) != len(line) or not all(map(as_printed, row, line)):
            return False
    return True


def as_printed(word: str, number: float) -> bool:
    """Half of the last digit, and a little for the dtype's own."""
    if not re.fullmatch(NUMBER, word):
        return False
    printed = float(word)
    if not math.isfinite(printed):
        return printed == number
    digits, _, power = word.partition("e")
    last = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(printed - number) <= 0.5001 * last + 1e-12


def body(text: str) -> str:
    """The lines with arrays."""
    return text.partition("With numbers")[2].partition("Every gradient, measured")[0]


def axes(text: str) -> dict[str, int]:
    """B = 1, T = 2, C = 3"""
    line = text.partition("With numbers\n")[2].partition(";")[0]
    return {letter: int(n) for letter, n in re.findall(r"(\w+) = (\d+)", line)}


class Recomputed:
    """An example's layer by itself, and what its derivation's lines give, with eval for what a page calls an array."""

    def __init__(self, name: str, **options):
        sizes = Sizes.of(*(options.get("shape") or EXAMPLES[name][2]))
        self.example = make(name, sizes, options.get("seed", 0), options.get("dtype", np.float64))
        self.layer = layer = self.example.layer
        self.names = scope(layer) | dict(self.example.names) | self.example.inputs
        self.y, self.saved = layer.forward(*self.example.inputs.values(), **self.example.fresh_options())

    def backward(self, dy):
        self.layer.zero_grad()
        result = self.layer.backward(dy, self.saved)
        results = result if isinstance(result, tuple) else (result,)
        grads = {name: d for name, d in zip(self.example.inputs, results) if d is not None}
        return grads | {name: param.grad.copy() for name, param in self.layer.named_params() if not param.frozen}

    def value(self, label: str, code: str = ""):
        params = {name: param.value for name, param in self.layer.named_params()}
        if label in params:
            return params[label]
        if label in ("dq", "dk", "dv") and label not in self.names:  # what attention's backward returns, unnamed
            return self.names["attention"].backward(self.names["dz"])["qkv".index(label[1])]
        if label.endswith("(...)"):  # the call as its line has it
            start = code.index(label[:-4])
            label = next(code[start:end] for end in range(start, len(code) + 1)
                         if code[start:end].endswith(")") and code[start:end].count("(") == code[start:end].count(")"))
        return eval(label, dict(self.names))


# -- all numbers


# As it comes every page is in the plain suite; of sisters, and of whole blocks but one, the other numbers wait.
WAYS = {"as it comes": {}, "other numbers in another shape": {"seed": 3, "shape": (2, 3, 4)},
        "float32": {"dtype": np.float32, "shape": (1, 1, 2)}}


@pytest.mark.parametrize("name, options", [
    pytest.param(name, options, id=f"{name}-{way}", marks=[pytest.mark.verify] if options and name in SISTERS - {"pre-norm-block"} else [])
    for name in EXAMPLES for way, options in WAYS.items()])
def test_every_array_is_what_the_printed_lines_give_when_they_are_run_again(name, options):
    explanation = page(name, **options)
    text = explanation.text(WIDTH)
    printed = iter(arrays(body(text)))
    again, sizes = Recomputed(name, **options), axes(text)

    def check(shown, code=""):
        label, rows = next(printed)
        assert label == shown.label
        if shown.name != f"d{Derivation.of(again.layer).output}":
            value = again.value(shown.name, code)
            assert same(rows, value), (label, rows, value)
        else:
            again.names[shown.name] = shown.value
            assert same(rows, shown.value)
        assert np.shape(shown.value) == shape_of(shown.shape, sizes), label

    for chapter in explanation.chapters:
        for shown in chapter.opening:
            check(shown)
        for step in chapter.steps:
            for prose in (step.code, *step.undoes):
                assert " ".join(prose.split()) in " ".join(text.split())
            exec(step.code, again.names)
            for shown in step.shown:
                check(shown, " ".join(step.code.split()))
    assert next(printed, None) is None


def shape_of(letters: str, sizes: dict[str, int]) -> tuple[int, ...]:
    parts = [one for one in letters.strip("()").replace(" ", "").split(",") if one]
    return tuple(eval(one, {**sizes, "n_out": 2}) for one in parts)


@pytest.mark.parametrize("name", EXAMPLES)
def test_output_and_gradients_on_the_page_are_the_layer_s_own(name):
    explanation = page(name, seed=1)
    again = Recomputed(name, seed=1)
    printed = {label.partition(" ")[0]: rows for label, rows in arrays(body(explanation.text(WIDTH)))}
    output = Derivation.of(again.layer).output
    dy = next(shown.value for shown in explanation.shown() if shown.name == f"d{output}")
    assert same(printed[output], again.y)
    gradients = again.backward(dy)
    assert gradients
    for name_, gradient in gradients.items():
        assert f"d{name_}" in printed or "." in name_ or name_ not in again.names, name_
        if f"d{name_}" in printed:
            assert same(printed[f"d{name_}"], gradient), name_


def test_the_two_parts_of_a_tied_gradient_are_what_head_and_embedding_add():
    shown = {one.name: one.value for one in explain("weight-tying").shown()}
    again = Recomputed("weight-tying")
    saved_embedding, saved_head = again.saved
    again.layer.zero_grad()
    dx = again.layer.head.backward(1.0, saved_head)
    assert np.abs(shown["dtable_head"] - again.layer.table.grad).max() < 1e-15
    again.layer.zero_grad()
    again.layer.embedding.backward(dx, saved_embedding)
    assert np.abs(shown["dtable_embedding"] - again.layer.table.grad).max() < 1e-15
    assert np.abs(shown["dtable_head"]).min() > 0 and np.abs(shown["dtable_embedding"]).max() > 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_measured_gradient_is_measured_again_from_forward_alone(name):
    explanation = page(name)
    again = Recomputed(name)
    dy = next(one.value for one in explanation.shown() if one.name == f"d{Derivation.of(again.layer).output}")
    gradients = again.backward(dy)
    table = explanation.text(WIDTH).partition("Every gradient, measured\n")[2].partition("\n\n")[0]
    whose, seen, counts = None, {}, {}
    for line in table.splitlines()[1:]:
        if not line.startswith("    "):
            whose = line.split()[0].removeprefix("d")
            assert whose in gradients
            more = re.search(r"the largest (\d+) of (\d+)", line)
            counts[whose] = (int(more[1]), int(more[2])) if more else (gradients[whose].size,) * 2
            continue
        index = tuple(map(int, re.findall(r"\d+", line.partition("]")[0])))
        backward, difference, exact, apart = line.partition("]")[2].split()
        f = along(again, whose, index, dy)
        slope, twice = ((f(h) - f(-h)).real / (2 * h) for h in (1e-5, 2e-5))
        assert as_printed(backward, gradients[whose][index])
        assert as_printed(exact, f(1e-30j).imag / 1e-30)
        third = abs(twice - slope)  # three times what the third derivative makes of slope; beside it are roundings / h
        assert abs(float(difference) - slope) < third + 1e-8
        assert float(apart) <= 1e-13
        seen.setdefault(whose, []).append(index)
    assert counts == {name: (len(seen[name]), gradient.size) for name, gradient in gradients.items()}
    for whose, indices in seen.items():
        largest = sorted(np.abs(gradients[whose]).ravel())[-len(indices):]
        assert np.allclose(sorted(abs(gradients[whose][index]) for index in indices), largest)
    count = sum(gradient.size for gradient in gradients.values())
    assert f"{count} gradient{'s' * (count > 1)} measured" in " ".join(explanation.verdicts)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_distances_in_the_closing_sentences_are_those_that_are_seen(name):
    explanation, again = page(name), Recomputed(name)
    derivation, output = Derivation.of(again.layer), Derivation.of(again.layer).output
    dy = next(one.value for one in explanation.shown() if one.name == f"d{output}")
    gradients = again.backward(dy)
    again.names = scope(again.layer) | make(name, Sizes.of(*EXAMPLES[name][2])).names | again.example.inputs
    execute(derivation.forward, again.names)
    again.names[f"d{output}"] = dy
    again.layer.zero_grad()
    execute(derivation.backward, again.names)
    parts = {name: param.grad for name, param in again.layer.named_params()}
    drawn = {f"d{name}": (again.names.get(f"d{name}", parts.get(name)), gradient) for name, gradient in gradients.items()}
    drawn[output] = again.names[output], again.y
    first, *rest = explanation.verdicts
    said = re.search("what the layer gave, (.*): (.*)", first)
    apart = max(np.abs(a - b).max() for a, b in (drawn[one] for one in said[1].split(", ")))
    assert said[2] == (f"no further apart than {apart:.0e}." if apart else "to the bit.")
    farthest = max(abs(m.farthest.backward - m.farthest.exact) for m in explanation.measured)
    assert (f"from a complex step than {farthest:.0e}" if farthest else "each is its complex step to the bit") in rest[0]
    off = max(abs(entry.difference - entry.exact) for m in explanation.measured for entry in m.shown)
    where = "here" if all(m.size == len(m.shown) for m in explanation.measured) else "in those shown"
    assert not off or f"subtracts two nearly equal numbers, and is off by up to {off:.0e} {where}." in rest[0]


def along(again: Recomputed, whose: str, index, dy):
    """dy . forward, with one number moved by so much."""
    def f(step):
        twin = again.layer.astype(np.complex128)
        inputs = {name: x.astype(complex) if x.dtype.kind == "f" else x for name, x in again.example.inputs.items()}
        params = dict(twin.named_params())
        (inputs[whose] if whose in inputs else params[whose].value)[index] += step
        return complex((dy * twin.forward(*inputs.values(), **again.example.fresh_options())[0]).sum())
    return f


def test_adamw_is_recomputed_from_its_paper_and_from_the_optimizer():
    explanation = explain("adamw", seed=2)
    found = arrays(body(explanation.text(WIDTH)))
    printed, given = iter(found), {}
    for name in ("w", "lr", "b1", "b2", "eps", "weight_decay", "m", "v"):
        label, rows = next(printed)
        assert label.split()[0] == name
        given[name] = np.array(rows, float) if name in "wmv" else float(rows[0][0])
    assert not given["m"].any() and not given["v"].any()

    gradients = [[np.array(rows, float) for label, rows in found if label == f"g {axes_}"] for axes_ in ("(T, C)", "(C,)")]
    w = {"weight": given["w"], "bias": np.array(next(rows for label, rows in found if label == "w (C,)")[0], float)}

    class Model(Layer):
        values, grads = np.concatenate([given["w"].ravel(), w["bias"]]), np.zeros(9)

    model = Model()
    model.weight = Param(model.values[:6].reshape(2, 3), model.grads[:6].reshape(2, 3))
    model.bias = Param(model.values[6:], model.grads[6:])
    optimizer = AdamW(model, betas=(given["b1"], given["b2"]), eps=given["eps"], weight_decay=given["weight_decay"])
    m, v = ({"weight": given[name], "bias": np.zeros(3)} for name in "mv")
    decay = {"weight": given["weight_decay"], "bias": 0.0}
    for t in (1, 2):
        model.grads[...] = np.concatenate([one[t - 1].ravel() for one in gradients])
        before = model.values.copy()
        optimizer.step(given["lr"])
        if t == 1:
            before[:6] *= 1 - given["lr"] * given["weight_decay"]
            off = np.abs(np.abs(model.values - before) - given["lr"]).max()
            assert f"each number by lr, to within {off:.0e};" in explanation.verdicts[-1] and off < 1e-8
        for which, axes_, shape, part in (("weight", "(T, C)", (2, 3), slice(6)), ("bias", "(C,)", (3,), slice(6, 9))):
            label, rows = next(printed)
            if which == "weight":
                assert (label, rows) == ("t", [[str(t)]])
            else:
                assert label == "w (C,)" and same(rows, w["bias"])
            g = np.array(next(printed)[1], float).reshape(shape)
            m[which] = given["b1"] * m[which] + (1 - given["b1"]) * g
            v[which] = given["b2"] * v[which] + (1 - given["b2"]) * g ** 2
            mhat, vhat = m[which] / (1 - given["b1"] ** t), v[which] / (1 - given["b2"] ** t)
            less = w[which] - given["lr"] * decay[which] * w[which]
            w[which] = less - given["lr"] * mhat / (np.sqrt(vhat) + given["eps"])
            shrunk = [("w", less)] if which == "weight" else []
            own = {name: getattr(optimizer, of)[part].reshape(shape) for name, of in zip("mvw", ("m", "v", "values"))}
            for name, value in (("m", m[which]), ("v", v[which]), ("mhat", mhat), ("vhat", vhat), *shrunk, ("w", w[which]),
                                *own.items()):
                label, rows = next(printed)
                assert label == f"{name} {axes_}" and same(rows, value), (label, which)
    assert next(printed, None) is None


# -- what is wrong is noticed


@pytest.mark.parametrize("name, kind, line, drifted, said", [
    ("layernorm", L.LayerNorm, "gain * xhat + bias", "gain * xhat - bias", "another y than LayerNorm does: they are 2 "),
    ("layernorm", L.LayerNorm, "dxhat = dy * gain", "dxhat = dy", "give another dx than"),
    ("linear", L.Linear, "dbias = rows(dy)", "dbias = rows(dy) / len(dy)", "give another dbias than Linear"),
    ("block", L.PreNormBlock, "dn = dy + norm2", "dn = norm2", "give another dx than PreNormBlock"),
    ("feed-forward", L.FeedForward, "dh = activation.backward(da)", "dh = da", "give another dx"),
    ("adamw", AdamW, "(1 - b2) * g * g", "b2 * g * g", "give another v than AdamW does"),
])
def test_a_docstring_that_has_drifted_from_its_code_is_noticed(monkeypatch, capsys, name, kind, line, drifted, said):
    assert kind.__doc__.count(line) == 1
    monkeypatch.setattr(kind, "__doc__", kind.__doc__.replace(line, drifted))
    assert main(["explain", name]) == 1
    assert said in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("line, drifted, said", [
    ("y = gain * xhat + bias", "y = gain * xhut + bias", "WRONG: the line y = gain * xhut + bias cannot be run: NameError"),
    ("y = gain * xhat + bias", "y = = gain", "has a line that is no Python: y = = gain"),
    ("Saved     xhat", "Kept      xhat", "the docstring of LayerNorm has no Saved")])
def test_a_docstring_that_does_not_run_is_a_failure_with_a_sentence(monkeypatch, capsys, line, drifted, said):
    monkeypatch.setattr(L.LayerNorm, "__doc__", L.LayerNorm.__doc__.replace(line, drifted))
    assert main(["explain", "layernorm"]) == 1
    assert said in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("slug, name", [
    ("ln-no-xhat", "layernorm"), ("ln-eps", "layernorm"), ("ce-count", "softmax-cross-entropy"), ("w-last-row", "linear"),
    ("gelu-no-3", "gelu-tanh"), ("residual-dropped", "block"), ("softmax-axis", "attention"),
    ("qkv-order", "self-attention"),
    ("emb-duplicates", "embedding"), ("pos-mean", "learned-positions"), ("tie-emb-only", "weight-tying"),
    ("dropout-no-scale", "dropout"), ("b-mean", "feed-forward"), ("adam-no-correction", "adamw"),
    ("adam-decay-vectors", "adamw")])
def test_a_mistake_in_the_code_ends_the_command_with_1(slug, name, capsys):
    with mutants.apply(slug):
        assert main(["explain", name]) == 1
    assert "WRONG: " in capsys.readouterr().out


def test_a_mistake_that_shows_at_other_sizes_alone_is_found_too(monkeypatch):
    forward = L.LayerNorm.forward

    def of_three(self, x):
        return forward(self, x.reshape(-1, 3).reshape(x.shape))

    monkeypatch.setattr(L.LayerNorm, "forward", of_three)
    monkeypatch.setattr("numgpt.teach.explain.shapes_of", shapes_of.__wrapped__)
    assert explain("layernorm").faults == ["at sizes that are all different, LayerNorm cannot be run: ValueError: "
                                           "cannot reshape array of size 455 into shape (3)"]


def table_of(explanation, array) -> list[str]:
    """The lines of one gradient in the table."""
    lines = explanation.text(WIDTH).partition("Every gradient, measured\n")[2].splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:1] == [f"d{array.name}"])
    return lines[first + 1:first + 1 + len(array.shown)]


def test_a_gradient_that_is_wrong_by_its_forward_alone_is_said_with_its_numbers():
    with mutants.apply("b-mean"):  # no line of FeedForward's docstring gives the bias's gradient
        explanation = explain("feed-forward")
    assert not explanation.ok and explanation.verdicts == []
    assert all(line.endswith(" !") == entry.wrong for array in explanation.measured
               for line, entry in zip(table_of(explanation, array), array.shown, strict=True))
    said = r"dup\.bias\[\d\] is \S+ by backward, and \S+ by complex step"
    assert any(re.match(said, fault) for fault in explanation.faults)


@pytest.mark.parametrize("slug", ["heads-merged-wrong", "scale-by-width"])
def test_a_mistake_about_heads_is_noticed_at_the_usual_shape_in_every_form(slug):
    """Where forward has it too, backward is forward's own: then only the lines of that layer's docstring are against it."""
    for form in mutants.forms(slug):
        forward = any(edit.where.endswith(".forward") for edit in form.edits)
        where = "attention" if all("CausalAttention" in edit.where for edit in form.edits) else "self-attention"
        for name in (where,) if forward else (where, "self-attention", "block", "post-norm-block"):
            with mutants.apply(form):
                assert explain(name).faults, (form.story, name)


def test_a_bias_s_gradient_of_one_sequence_alone_is_noticed_at_the_usual_shape(monkeypatch):
    backward = L.LayerNorm.backward

    def of_the_first_alone(self, dy, saved):
        before = self.bias.grad.copy()
        dx = backward(self, dy, saved)
        self.bias.grad[...] = before + dy[0].sum(0)
        return dx

    monkeypatch.setattr(L.LayerNorm, "backward", of_the_first_alone)
    assert any(fault.startswith("dbias[") for fault in explain("layernorm").faults)


@pytest.mark.parametrize("seed", range(5))
def test_the_ids_of_an_embedding_s_example_repeat_within_a_sequence_and_from_one_to_the_next(seed):
    first, second = make("embedding", Sizes.of(*EXAMPLES["embedding"][2]), seed).inputs["ids"].tolist()
    assert len(set(first)) < len(first) and set(first) & set(second)


@pytest.mark.parametrize("shape", [(1, 3, 8), (2, 4, 16)])
@pytest.mark.parametrize("name", ["feed-forward", "self-attention", "pre-norm-block"])
def test_a_column_that_backward_leaves_out_is_noticed_in_arrays_of_any_size_and_shown_first(name, shape, monkeypatch):
    backward = L.Linear.backward

    def without_the_last_column(self, dy, saved):
        before = self.weight.grad[:, -1].copy()
        dx = backward(self, dy, saved)
        self.weight.grad[:, -1] = before
        return dx

    monkeypatch.setattr(L.Linear, "backward", without_the_last_column)
    explanation = explain(name, shape=shape)
    text = explanation.text(WIDTH)
    wrong = [m for m in explanation.measured if m.wrong]
    assert {m.name.rpartition(".")[2] for m in wrong} == {"weight"} and len(wrong) == 2 * (1 + (name == "pre-norm-block"))
    for m in wrong:
        rows, columns = m.shape
        assert f"  d{m.name}  {rows} of {rows * columns} wrong, the farthest first" in text
        assert all(entry.wrong and entry.backward == 0 and entry.index[1] == columns - 1 for entry in m.shown)
        farthest = sorted((abs(entry.exact) for entry in m.shown), reverse=True)
        assert [abs(entry.exact) for entry in m.shown] == farthest and m.farthest.apart == farthest[0]
        assert any(f"d{m.name}{list(m.farthest.index)} is 0 by backward" in fault
                   and f"{rows} of its {rows * columns} entries are wrong" in fault for fault in explanation.faults)


# -- the page


@pytest.mark.parametrize("value, rows", [
    ([0.5, -1.0], [" 0.5  -1.0"]), ([[1.0, 2.0], [3.0, 40.0]], [" 1   2", " 3  40"]), ([1 / 3, -1e-6], ["0.3333  0.0000"]),
    ([2e-5, -1e-9], [" 2.00e-05  -1.00e-09"]), ([True, False], ["1  0"]), (1e-5, ["1e-05"]),
    ([-np.inf, 0.25], ["-inf  0.25"]),
    ([[[1, 2]], [[3, 4]]], ["[0] 1  2", "[1] 3  4"]), (np.arange(12), ["  0    1    2    3  ...   11"]),
    (np.arange(20)[:, None], [*(f"{i:2}" for i in range(10)), "...", "19"]), (np.zeros((0, 3)), ["empty"])])
def test_numbers_are_as_short_as_they_can_be_and_zero_has_no_sign(value, rows):
    assert lines(np.array(value), 28) == rows


def test_every_layer_can_be_explained_and_by_any_of_its_names():
    layers = {item for item in vars(L).values() if isinstance(item, type) and issubclass(item, Layer) and item is not Layer}
    assert layers <= {kind for kind, _, _ in EXAMPLES.values()}
    assert {find(kind.__name__) for kind in layers} == set(EXAMPLES) - {"weight-tying"}
    assert find("LayerNorm") == find("layer-norm") == "layernorm" and find("Block") == "pre-norm-block"
    assert {"block", "adamw", "softmax-cross-entropy", "weight-tying"} <= set(names())


def test_no_line_is_longer_than_the_terminal_is_wide():
    def fits(name, width):
        for shape in (None, (2, 9, 14)) if name in ("learned-positions", "attention") else (None,):  # whose rows are cut
            lines = (page(name) if shape is None else page(name, shape=shape)).text(width).splitlines()
            assert max(map(len, lines)) <= width
            assert all(line == line.rstrip() for line in lines)

    each([(name, width) for name in names() for width in (40, 50, 60, 120)], fits)


def test_at_120_columns_the_docstring_stands_as_it_is_written():
    for kind, name in ((L.LayerNorm, "layernorm"), (L.SelfAttention, "self-attention"), (AdamW, "adamw")):
        assert inspect.getdoc(kind) in explain(name).text(WIDTH)


def test_letters_of_axes_come_from_sizes_that_are_all_different():
    shapes = {one.name: one.shape for one in explain("self-attention", shape=(1, 4, 4)).shown()}  # T = C = 4, H = D = 2
    assert shapes["x"] == "(B, T, C)" and shapes["q"] == "(B, H, T, D)" and shapes["qkv.weight"] == "(C, 3*H*D)"
    assert shapes["dqkv"] == "(B, T, 3, H, D)" and shapes["out.backward(dy)"] == "(B, T, H*D)"


def test_colour_is_for_terminals(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    pages = {}
    streams = ("pipe", io.StringIO(), ""), ("terminal", Terminal(), ""), ("no colour", Terminal(), "1")
    for name, stream, no_colour in streams:
        monkeypatch.setenv("NO_COLOR", no_colour)
        monkeypatch.setattr("sys.stdout", stream)
        assert main(["explain", "layernorm"]) == 0
        pages[name] = stream.getvalue()
    assert "\x1b[33m" in pages["terminal"] and "\x1b" not in pages["pipe"] + pages["no colour"]
    assert re.sub("\x1b\\[[0-9]*m", "", pages["terminal"]) == pages["pipe"] == pages["no colour"]


def test_a_notebook_shows_the_same_in_colour():
    explanation = explain("layernorm")
    shown = explanation._repr_html_()
    plain = re.sub("<[^>]*>", "", shown).replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
    assert plain == explanation.text(100) and "\x1b" not in shown
    assert '<span style="color:#b07400">' in shown and '<span style="font-weight:bold">LayerNorm</span>' in shown
    assert str(explanation).startswith("LayerNorm\nNormalise each position's C channels")


def test_a_seed_gives_other_numbers_and_the_same_seed_the_same():
    first, again, other = (str(explain("linear", seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_in_float32_numbers_are_float32_and_the_distances_show_it():
    explanation = explain("layernorm", dtype=np.float32)
    assert explanation.ok and "float32" in explanation.example
    assert all(one.value.dtype == np.float32 for one in explanation.shown() if isinstance(one.value, np.ndarray))
    assert 1e-9 < max(array.farthest.apart for array in explanation.measured) < 1e-5
    assert "measured in float64" in explanation.verdicts[-1]


def test_the_page_of_a_layer_made_of_layers_names_theirs():
    assert page("block").verdicts[-1] == "Its parts have pages of their own: layernorm, self-attention, feed-forward."
    assert not any("parts" in sentence for sentence in page("linear").verdicts)
    assert page("attention").verdicts[-1].endswith(": softmax.")  # its dropout drops nothing here


def test_heads_are_two_where_the_channels_split_into_them():
    assert [Sizes.of(1, 2, C).H for C in (1, 2, 3, 4, 6)] == [1, 1, 1, 2, 2]
    assert "[1]" in explain("attention", shape=(1, 2, 4)).text(80)


def test_the_names_are_listed_with_a_sentence_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["explain"]) == 0
    out = capsys.readouterr().out
    listed = {line.split()[0]: line.partition(" ")[2].strip() for line in out.splitlines() if not line.startswith(" ")}
    assert set(listed) == {*names(), *PAGES} and all(listed.values())
    assert listed["embedding"] == "Look up each token's row." and max(map(len, out.splitlines())) <= 60


def test_gpt_is_a_page_of_its_own_listed_printed_and_suggested(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "90")
    assert main(["explain", "GPT", "--seed", "3", "--shape", "1,3,4", "--float32"]) == 0
    config = GPTConfig.preset("nano", n_ctx=3, n_embd=4, n_head=2)
    assert capsys.readouterr().out == f"{ledger(config, batch=1, n_tokens=3, seed=3, dtype=np.float32)}\n"
    for arguments, says in ((["gppt"], "there is no explanation of 'gppt': gpt?"),
                            (["gpt", "--shape", "0,3,4"], "at least 1; got 0")):
        with pytest.raises(SystemExit):
            main(["explain", *arguments])
        assert says in capsys.readouterr().err


def test_gpt_ends_with_1_and_says_so_where_its_sums_are_not_the_plan_s(monkeypatch, capsys):
    plan = GPTConfig.plan
    assert main(["explain", "gpt"]) == 0 and "WRONG" not in capsys.readouterr().out
    for field, more, said in (("saved", 8, r"bytes kept for backward: ([\d,]+) in this pass, but ([\d,]+) in config.plan"),
                              ("flops_forward", 0.1, r"FLOPs a token, forward: ([\d,.]+) in this pass, but ([\d,.]+) in")):
        monkeypatch.setattr(GPTConfig, "plan", lambda self, **k: (
            p := plan(self, **k), replace(p, **{field: getattr(p, field) + more}))[1])
        assert main(["explain", "gpt"]) == 1
        out = " ".join(capsys.readouterr().out.split())
        mine, planned = (float(n.replace(",", "")) for n in re.search(f"WRONG: {said}", out).groups())
        assert planned - mine == pytest.approx(more, abs=0.01) and out.count("WRONG") == 1
        assert "WRONG: " in ledger()._repr_html_()


@pytest.mark.parametrize("argv, said", [
    (["layernrm"], "there is no explanation of 'layernrm': layernorm?"), (["gelutan"], "'gelutan': gelu-tanh?"),
    (["zzz"], "numgpt explain lists all names"),
    (["linear", "--shape", "1,2"], "a shape is three whole numbers, B,T,C, such as 1,2,3; got 1,2"),
    (["linear", "--shape", "1,0,3"], "a size of at least 1 on each axis; got T = 0"),
    (["linear", "--shape", "9,99,999"], "choose at most 32 tokens, 32 channels, and 1024 numbers in all; got 9 x 99 x 999"),
    (["linear", "--seed", "-1"], "a seed is a whole number from 0 on"), (["--float32"], "of what? name a layer")])
def test_what_cannot_be_explained_is_refused_with_a_sentence(argv, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(["explain", *argv])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_the_equations_of_adamw_are_all_of_its_docstring():
    codes = [line.code for line in adam.equations()]
    assert codes == [line.partition("  ")[0] for line in inspect.getdoc(AdamW).splitlines()[2:]] and len(codes) == 6


def test_an_explanation_leaves_the_layer_s_class_and_the_page_s_reader_as_they_were():
    layer = L.LayerNorm(3)
    execute(Derivation.of(layer).forward, scope(layer) | {"x": np.ones((1, 3))})
    assert not layer.gain.grad.any() and same([["1", "..."]], np.array([1.0, 2.0])) is False
    assert Ink(True).strong("a") not in str(explain("relu"))
