"""The course of exercises: what is given fails, the solution passes, and nothing in between gets through."""

import functools
import inspect
import re
import time
from types import ModuleType

import numpy as np
import pytest

from numgpt import layers as L
from numgpt.cli import main
from numgpt.gradcheck.report import WRONG, Finding, Report, Worst
from numgpt.teach.exercises import in_order, judge, named
from numgpt.teach.exercises.course import ORDER
from numgpt.teach.exercises.hints import kind, steps
from numgpt.teach.exercises.judge import OTHERWISE, PRINTED, judge_apart
from numgpt.verify import mutants
from numgpt.verify.mutants import CATALOGUE

ALL = pytest.mark.parametrize("exercise", in_order(), ids=lambda exercise: exercise.name)
MENDED = [exercise for exercise in in_order() if exercise.mistakes]
KINDS = {  # what the first hint says of the file as it is given
    "linear": "weight: nothing arrives at it",
    "bias": r"bias \(scaled by 0.0714286 = 1/\(B T\)\).* Right: x, weight",
    "gelu": "x: .* term .* nearly right, off by 4 %",
    "dropout": r"x \(scaled by 7/10 = 1 - p\)",
    "feed-forward": "down: .* something else stands where it belongs. Right: x, up",
    "residual": "x: .* A term of the formula is missing.* Right: weight",
    "layer-norm": "bias: nothing arrives at it",
    "norm-review": r"x \(in each row a multiple of x - mean\(x\) .* the variance's part\).* Right: gain, bias",
    "softmax": "x: .* A term of the formula is missing",
    "cross-entropy": r"logits \(scaled by 5/7 = counted / N\)",
    "embedding": r"table \(only rows .* whose id is repeated in ids: a token that occurs twice adds twice\)",
    "scores": r"q \(scaled by 2.23607 = sqrt\(D\) = 1/scale\).* Wrong too: k\.",
    "attention": "v: nothing arrives at it: no line makes it yet",
    "heads": "z: the numbers are right, and each stands in another's place: .* a reshape .* Right: weight",
    "tied": "table: .* A term of the formula is missing",
    "accumulation": "uneven pieces: .* Right: even pieces",
    "clip": r"too long \(scaled by 1/3\): the direction .* is not\. One factor is off\. Wrong .* Right: short enough",
    "adamw": r"weight at step 1 \(scaled by 3.16228\): the direction is right and the length is not",
}


@functools.cache
def judged(exercise, text):
    return judge(exercise, text, exercise.file)


def changed(exercise, *edits) -> str:
    """The solution, written otherwise."""
    text = exercise.solution
    for line, becomes in edits:
        assert text.count(line) == 1, line
        text = text.replace(line, becomes)
    return text


@ALL
def test_the_given_file_fails_with_a_hint_at_what_is_wrong_and_the_solution_passes(exercise):
    verdict = judged(exercise, exercise.given)
    assert not verdict.passed and not verdict.problem and "wrong" in verdict.report
    assert re.match(KINDS[exercise.name], verdict.hints[0]) and OTHERWISE not in verdict.hints[0], verdict.hints[0]
    assert len(verdict.hints) >= 3  # what kind, where, which term
    solved = judged(exercise, exercise.solution)
    assert solved.passed and "wrong" not in solved.report and not solved.hints and not solved.printed


class Trivial:
    """A module in which every class is the solution's with another backward, and every function another function."""

    def __init__(self, exercise, way):
        self.own, self.way = exercise.module, way

    def __getattr__(self, name):
        item = getattr(self.own, name)
        if not inspect.isclass(item):
            return lambda first, *rest: self.way(first, first)
        if hasattr(item, "step"):
            return type(name, (item,), {"step": lambda layer, grads, lr: [np.subtract(w, self.way(g, g), out=w)
                                                                          for w, g in zip(layer.params, grads)]})

        def backward(layer, dy, saved):
            kept = {key: value.copy() for key, value in vars(layer).items() if isinstance(value, np.ndarray)}
            right = item.backward(layer, dy, saved)
            for key, value in kept.items():
                getattr(layer, key)[...] = value
                if key[0] == "d" and key[1:] in kept:
                    getattr(layer, key)[...] += self.way(value, dy)
            if isinstance(right, tuple):
                return tuple(self.way(d, dy) for d in right)
            return None if right is None else self.way(right, dy)

        return type(name, (item,), {"backward": backward})


def zeros(like, dy):
    return [0 * g for g in like] if isinstance(like, list) else np.zeros_like(like)


def passed_through(like, dy):
    if isinstance(like, list):
        return like
    return np.resize(dy, np.shape(like)) if np.shape(dy) != np.shape(like) else dy * 1.0


@pytest.mark.parametrize("way", [zeros, passed_through])
@ALL
def test_no_gradient_and_the_gradient_handed_on_both_fail(exercise, way):
    made = Trivial(exercise, way)
    assert not all(report.ok for report in exercise.module.checks(made))


def layers_of(exercise) -> list[type]:
    return [item for item in vars(exercise.module).values()
            if inspect.isclass(item) and item.__module__ == exercise.module.__name__ and hasattr(item, "forward")]


@pytest.mark.parametrize("exercise", [*filter(layers_of, in_order())], ids=lambda exercise: exercise.name)
def test_a_forward_that_was_made_easy_fails(exercise):
    """Of zeros the gradient is zero, and a backward of zeros right."""
    easy = ModuleType("easy")
    for item in layers_of(exercise):
        def forward(self, *inputs, item=item, **options):
            return 0 * item.forward(self, *inputs, **options)[0], inputs

        def backward(self, dy, saved):
            return tuple(np.zeros_like(x) if x.dtype.kind == "f" else None for x in saved)

        forward.__signature__ = inspect.signature(item.forward)
        setattr(easy, item.__name__, type(item.__name__, (item,), {"forward": forward, "backward": backward}))
    report = next(iter(exercise.module.checks(easy)))
    assert not report.ok and "it computes something else than it did when it was given to you" in str(report)


@pytest.mark.parametrize("name, edits", [
    ("linear", [("x.T @ dy", 'np.einsum("ni,nj->ij", x, dy)'), ("dy.sum(0)", "np.ones(len(dy)) @ dy"),
                ("dx = dy @ self.weight.T", "dx = np.array([self.weight @ row for row in dy])")]),
    ("gelu", [("1 + 3 * 0.044715 * x * x", "1 + 0.134145 * x ** 2")]),
    ("dropout", [("return dy * kept / (1 - self.p)", "return np.where(kept, dy / (1 - self.p), 0.0)")]),
    ("layer-norm", [("dxhat.mean(-1, keepdims=True)", "dxhat.sum(-1, keepdims=True) / dy.shape[-1]"),
                    ("dx = rstd * (", "dx = 1 / (1 / rstd) * (")]),
    ("softmax", [("return y * (dy - (dy * y).sum(-1, keepdims=True))",
                  "return y * dy - y * np.einsum('...s,...s->...', y, dy)[..., None]")]),
    ("embedding", [("np.add.at(self.dtable, ids, dy)",
                    "self.dtable += np.einsum('btv,btc->vc', np.eye(len(self.table))[ids], dy)")]),
    ("attention", [("dv = p.swapaxes(-1, -2) @ dy", 'dv = np.einsum("bhts,bhtd->bhsd", p, dy)'),
                   ("dq = scale * dscores @ k", "dq = np.matmul(dscores, k) * scale")]),
    ("heads", [("dmerged.reshape(B, T, H, D).transpose(0, 2, 1, 3)",
                "np.stack([dmerged[..., h * D:h * D + D] for h in range(H)], 1)")]),
    ("clip", [("np.sqrt(sum((g * g).sum() for g in grads))",
               "np.linalg.norm(np.concatenate([g.ravel() for g in grads]).astype(np.float32))")]),
    ("clip", [("min(1, longest / (norm + 1e-6))\n", "min(1, longest / norm)\n")]),
    ("accumulation", [("gradient(weight, x, targets) * (targets != -100).sum() / count",
                       "(gradient(weight, x, targets) * (np.sum(targets >= 0) / count)).astype(np.float32)")]),
    ("adamw", [("w *= 1 - lr * self.weight_decay", "w -= lr * self.weight_decay * w"),
               ("w -= lr * mhat / (np.sqrt(vhat) + self.eps)",
                                                            "w[...] = w - mhat * lr / (vhat ** 0.5 + self.eps)")]),
])
def test_a_solution_that_is_written_otherwise_passes_too(name, edits):
    """Steps and clipping in single precision as well: 1e-6 of the largest is allowed there."""
    verdict = judged(named(name), changed(named(name), *edits))
    assert verdict.passed, verdict


def squeezed(text: str) -> str:
    return re.sub(r"self\.|\s", "", text)


@ALL
def test_hints_do_not_say_the_solution(exercise):
    hints = (*exercise.hints.values(), judged(exercise, exercise.given).hints)
    said = squeezed(" ".join(hint for several in hints for hint in several))
    for line in exercise.difference:
        if line.startswith("+ "):
            made = squeezed(re.split(r"(?:^|\s)[-+*]?= |return ", line)[-1]).rstrip("()")
            assert len(made) < 4 or made not in said, line


@ALL
def test_there_are_hints_on_whatever_can_be_wrong(exercise):
    checked = {f.name for report in exercise.module.checks(exercise.module) for f in report.gradients}
    assert checked and checked <= set(exercise.hints)


@ALL
def test_the_given_file_is_a_file_by_itself_and_shows_no_mark_of_the_course(exercise):
    assert exercise.given.startswith(f"# numgpt exercise {exercise.name}: {exercise.number} of {len(ORDER)}\n")
    assert set(re.findall(r"^(?:from|import) (\S+)", exercise.given, re.M)) <= {"numpy", "math"}
    for text in (exercise.given, exercise.solution):
        assert not re.search(r"#[-+]|course's own|HINTS|numgpt\.", text)
    others = re.findall(r"exercise ([a-z-]+)", exercise.given.partition("\n\n")[2])
    assert set(others) <= set(ORDER) and all(named(other).number < exercise.number for other in others)
    assert max(map(len, exercise.given.splitlines())) <= 125


def test_mistakes_are_those_of_the_catalogue_each_in_one_exercise():
    slugs = [slug for exercise in in_order() for slug in exercise.mistakes]
    assert len(set(slugs)) == len(slugs) >= 15 and set(slugs) <= set(CATALOGUE)
    assert all((exercise.module.TASK == "mend") == bool(exercise.mistakes) for exercise in in_order())


@pytest.mark.parametrize("edits, says", [
    ([("x.T @ dy", "x.T @ dy)")], "linear.py, line {}: unmatched ')', which is not Python\n    self.dweight += x.T @ dy)"),
    ([("x.T @ dy", "x @ dy")], "linear.py, line {}, in backward: ValueError: matmul"),
    ([("x.T @ dy", "x.T @ dz")],
     "linear.py, line {}, in backward: NameError: name 'dz' is not defined\n    self.dweight += x.T @ dz"),
    ([("x.T @ dy", "exit(3)")], "linear.py, line {}, in backward: SystemExit: 3"),
    ([("class Linear:", "class Lineal:")],
     "linear.py has no Linear any more, which is to be checked: numgpt exercise start linear --force gives it anew"),
    ([("def backward(self, dy, saved):", "def backwards(self, dy, saved):")],
     "linear.py: there is no Linear.backward any more: it has to take (dy, saved)"),
    ([("def backward(self, dy, saved):\n        x = saved", "def backward(self, dy):\n        x = self.x")],
     "linear.py: Linear.backward has to take (dy, saved); it takes (dy)"),
    ([("@ self.weight + self.bias, x", "@ self.weight + self.bias")],
     "linear.py: forward must return two things, y and what is saved for backward; it returned ndarray"),
    ([("def __init__(self, weight, bias)", "def __init__(self, weight)")],
     "linear.py could not be checked: Linear.__init__() takes 2 positional arguments but 3 were given"),
])
def test_what_cannot_be_checked_is_told_by_its_line(edits, says, tmp_path):
    text, file = changed(named("linear"), *edits), tmp_path / "linear.py"
    file.write_text(text)
    verdict = judge(named("linear"), text, str(file))
    number = next((i for i, line in enumerate(text.splitlines(), 1) if edits[0][1] in line), 0)
    assert not verdict.passed and verdict.problem.startswith(says.format(number)), verdict.problem


@pytest.mark.parametrize("edits, says", [
    ([("self.dweight += x.T @ dy", "self.dweight = x.T @ dy")],
     "gradients of parameters are added, not set: .* write grad \\+= "),
    ([("dx = dy @ self.weight.T", "dx = dy @ self.weight.T; x *= 2")], "backward only reads saved: backward wrote to saved"),
    ([("np.zeros_like(weight), np.zeros_like(bias)", "np.zeros_like(weight), None"), ("self.dbias += dy.sum(0)", "pass")],
     "bias: "),
    ([("return dx", "return None")], "x: nothing arrives at it"),
    ([("return dx", "return dx.T")], "x: the gradient has shape \\(5, 7\\), the array \\(7, 5\\)"),
    ([("@ self.weight + self.bias, x", "@ self.weight, x"), ("self.dbias += dy.sum(0)", "pass")],
     "forward: it computes something else than it did when it was given to you: only backward is to be changed"),
])
def test_what_breaks_the_contract_is_told_as_that(edits, says):
    verdict = judged(named("linear"), changed(named("linear"), *edits))
    assert not verdict.passed and re.match(says, verdict.hints[0]), (verdict.problem, verdict.hints)


def test_pieces_that_are_put_together_again_do_not_fit():
    """As one batch their gradient would be right; but it was cut because there is no room for it."""
    whole = ("    for x, targets in pieces:\n", "    for x, targets in [[np.concatenate(part) for part in zip(*pieces)]]:\n")
    verdict = judged(named("accumulation"), changed(named("accumulation"), whole))
    assert not verdict.passed and verdict.problem.endswith(
        ", in gradient: MemoryError: 8 rows at once do not fit, 7 do: one piece at a time"), verdict


def test_what_a_file_prints_is_shown_up_to_a_length():
    verdict = judge(named("softmax"), named("softmax").solution + "print('round ' * 200)\n" * 3, "softmax.py")
    assert verdict.passed and len(verdict.printed) == PRINTED and verdict.printed.startswith("round " * 200 + "\nround ")


def test_a_thread_that_the_file_began_is_not_waited_for(tmp_path):
    file, begun = tmp_path / "softmax.py", time.monotonic()
    file.write_text(named("softmax").solution
                    + "import threading, time\nthreading.Thread(target=time.sleep, args=(15,)).start()\n")
    assert judge_apart(named("softmax"), file).passed and time.monotonic() - begun < 10


@pytest.mark.parametrize("edits", [
    [("weight, self.bias = weight, bias", "weight, self.kept = weight, lambda: bias"), ("self.bias, x", "self.kept(), x"),
     ("self.dweight, self.dbias = np.zeros_like(weight), np.zeros_like(bias)", "self.dweight = np.zeros_like(weight)"),
     ("self.dbias += dy.sum(0)", "pass")],
    [("self.dweight, self.dbias = ", "self.dweight, self.other = "), ("self.dbias += dy", "self.other += dy")],
], ids=["the parameter is gone", "its gradient is gone"])
def test_a_parameter_that_cannot_be_checked_any_more_is_told(edits):
    """What is not found is not checked, and would pass."""
    verdict = judged(named("linear"), changed(named("linear"), *edits))
    assert verdict.hints[0].startswith("bias: self.bias and self.dbias are to be checked: leave both as given. Right: x, w")


def test_a_file_that_never_ends_is_ended_and_told_by_its_line(tmp_path):
    file = tmp_path / "gelu.py"
    file.write_text(changed(named("gelu"), ("x, t = saved", "x, t = saved\n        while True: print('round')")))
    verdict = judge_apart(named("gelu"), file, 0.5)
    number = file.read_text().splitlines().index("        while True: print('round')") + 1
    assert verdict.problem.startswith("gelu.py did not end within 0.5 s: is there a loop that goes on for ever?")
    assert f"line {number}, in backward\n    while True: print('round')" in verdict.problem


def test_a_file_that_ends_python_is_told(tmp_path):
    file = tmp_path / "gelu.py"
    file.write_text("import os\nos._exit(7)\n")
    verdict = judge_apart(named("gelu"), file)
    assert verdict.problem == "gelu.py ended Python itself, with status 7, before it could be checked"


def run(capsys, *argv) -> tuple[int, str]:
    status = main(["exercise", *map(str, argv)])
    return status, capsys.readouterr().out


def test_a_learner_goes_from_start_to_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "start", "cross-entropy")[1].startswith("cross_entropy.py: exercise 10 of 18, cross-entropy: the ")
    file, exercise = tmp_path / "cross_entropy.py", named("cross-entropy")
    assert file.read_text() == exercise.given
    assert run(capsys, "start", "cross-entropy")[0] == 0  # nothing has been written yet that could be lost

    status, out = run(capsys, "check", "cross-entropy")
    assert status == 1 and re.search(r"^logits +\(7, 11\) +complex .* wrong$", out, re.M)
    assert "hint 1 of 3: logits (scaled by 5/7 = counted / N)" in out and "hint 2 of" not in out
    assert out.endswith("the next one: numgpt exercise check cross-entropy --hint 2\n")
    out = run(capsys, "check", "cross-entropy", "--hint", 9)[1]
    assert "hint 3 of 3: forward divides by the number of targets that count" in out
    assert out.endswith("there are no more; the solution: numgpt exercise check cross-entropy --solution\n")
    assert "counts.sum()\n" not in out.replace(exercise.given, "")

    file.write_text(file.read_text().replace("/ len(p)", "/ counts.sum()") + "print('here', 2)\n")
    assert main(["exercise", "start", "cross-entropy"]) == 1
    assert "work in it that would be lost: check it, move it, or say --force" in capsys.readouterr().err
    status, out = run(capsys, "check", "cross-entropy")
    assert status == 0 and "it printed:\n  here 2\n" in out
    assert "\npassed: " in out and out.endswith(
        "next: numgpt exercise start embedding  (11 of 18: an embedding, and tokens that occur twice)\n")

    run(capsys, "start", "bias")
    out = run(capsys, "list")[1]
    assert re.search("^ 2  bias +begun +mend", out, re.M) and re.search("^10  cross-entropy +done +mend", out, re.M)
    assert re.search("^ 1  linear +- +write", out, re.M)
    assert out.endswith("done: 1 of 18; next: numgpt exercise start linear\n")
    assert run(capsys, "start", "cross-entropy", "--force")[0] == 0 and file.read_text() == exercise.given


def test_a_file_under_another_name_says_itself_which_exercise_it_is(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text(named("scores").given)
    status, out = run(capsys, "check", mine)
    assert status == 1 and f"numgpt exercise check {mine} --hint 2" in out and "exercise 12 of 18, scores" in out
    mine.write_text("\n")
    with pytest.raises(SystemExit) as stop:
        main(["exercise", "check", str(mine)])
    assert stop.value.code == 2 and "does not say which exercise it is" in capsys.readouterr().err


def test_the_solution_and_the_key_are_printed_when_they_are_asked_for(tmp_path, capsys):
    assert run(capsys, "check", "softmax", "--folder", tmp_path, "--solution") == (0, named("softmax").solution)
    status, out = run(capsys, "key")
    assert status == 0 and re.findall("^ ?\\d+  (.*?):", out, re.M) == list(ORDER)
    for exercise in MENDED:
        assert all(f"    {slug}: {CATALOGUE[slug].story}; it breaks, in " in out for slug in exercise.mistakes)
    assert "      - self.dbias += dy.mean((0, 1))\n      + self.dbias += dy.sum((0, 1))\n" in run(capsys, "key", "bias")[1]


@pytest.mark.parametrize("argv, says", [
    (["check", "lineer"], "there is no exercise 'lineer': linear?"),
    (["check", "linear", "--folder", "."], "there is no linear.py to check: numgpt exercise start linear writes it"),
    (["check", "linear", "--hint", "0"], "hints are counted from 1; got 0"),
    (["start", "nonsense"], "there is no exercise 'nonsense'; numgpt exercise list prints all"),
    (["check", "gone.py"], "there is no file gone.py"),
    ([], "the following arguments are required: ACTION"),
])
def test_wrong_calls_exit_2_with_a_sentence(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["exercise", *argv])
    assert stop.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize("name, edits, says", [
    ("adamw", [("            if w.ndim > 1:\n                w *= 1 - lr * self.weight_decay\n", ""),
               ("b2 = self.betas", "b2 = self.betas; grads = [grads[0] + self.weight_decay * self.params[0], *grads[1:]]")],
     "weight at step 1 with decay"),
    ("adamw", [("if w.ndim > 1:", "if True:")], "bias at step 1 with decay"),
    ("adamw", [("np.sqrt(vhat) + self.eps", "np.sqrt(vhat + self.eps)")], "gain at step 1"),
    ("layer-norm", [("dxhat.mean(-1, keepdims=True)", "0")],
     "x (in each row a constant is missing or added: the mean's part)"),
    ("attention", [("dv = p.swapaxes(-1, -2) @ dy", "dv = p @ dy")], "v"),
    ("attention", [("dq = scale * dscores @ k", "dq = dscores @ k")], "q (scaled by 2.23607 = sqrt(D) = 1/scale)"),
    ("attention", [("return dq, dk, dv", "return dk, dq, dv")], "q"),
    ("linear", [("self.dweight += x.T @ dy", "self.dweight += (dy.T @ x).reshape(5, 3)")], "weight"),
])
def test_other_mistakes_than_the_planted_one_are_caught_with_hints_of_their_own(name, edits, says):
    """What a learner writes instead: the hints are those on what is wrong now."""
    verdict = judged(named(name), changed(named(name), *edits))
    wrong = says.partition(" (")[0]
    assert not verdict.passed and verdict.hints[0].startswith(f"{says}: ")
    assert tuple(verdict.hints[1:]) == named(name).hints[wrong]


def test_hints_at_a_planted_mistake_say_so_when_it_is_another_one():
    verdict = judged(named("cross-entropy"), changed(named("cross-entropy"), (" * counts[:, None]", "")))
    assert verdict.hints[0].startswith("logits (only rows 1, 6 of 7: those where targets is -100): ")
    assert verdict.hints[0].endswith(OTHERWISE)


PLAIN = [("mhat = m / (1 - b1 ** self.t)", "mhat = m"), ("vhat = v / (1 - b2 ** self.t)", "vhat = v")]
THROUGH = [("w *= 1 - lr * self.weight_decay", "pass"),
           ("            m[...]", "            g = g + self.weight_decay * w * (w.ndim > 1)\n            m[...]")]
AFTER = [("            if w.ndim > 1:\n                w *= 1 - lr * self.weight_decay\n", ""),
         ("self.eps)\n", "self.eps)\n            if w.ndim > 1:\n                w *= 1 - lr * self.weight_decay\n")]


@pytest.mark.parametrize("name, edits, otherwise", [
    ("adamw", PLAIN, False), ("adamw", THROUGH, False), ("adamw", PLAIN + THROUGH, False),  # each alone, written otherwise
    ("adamw", [("w *= 1 - lr * self", "w *= 1 - self")], True),
    ("adamw", AFTER, True),
    ("adamw", PLAIN + [("w -= lr * mhat", "w += lr * mhat")], True),
    ("bias", [("dbias += dy.sum(", "dbias += dy.mean("), ("dy @ self.weight.T", "-dy @ self.weight.T")], False),
    # above, the planted mistake is there, and another elsewhere; below, the hints say which line makes x
    ("bias", [("dy @ self.weight.T", "-dy @ self.weight.T")], False),
    ("bias", [("self.dbias += dy.sum((0, 1))", "self.dbias += 2 * dy.sum((0, 1))")], True),
])
def test_hints_say_that_they_speak_of_the_planted_mistake_where_another_is(name, edits, otherwise):
    verdict = judged(named(name), changed(named(name), *edits))
    assert not verdict.passed and (OTHERWISE in verdict.hints[0]) == otherwise, verdict


@pytest.mark.parametrize("edits, says", [
    ([("w -= lr * mhat", "w = w - lr * mhat")],
     "not in place: step leaves weight, bias, gain as before. The arrays in params are themselves to be changed"),
    ([("w *= 1 - lr", "w = w * (1 - lr"), ("self.weight_decay\n            w", "self.weight_decay)\n            w")],
     "not in place: step leaves weight as before"),
    ([("m[...] =", "m =")], "not in place: self.m is still 0 after a step. m[...] = ... writes into the array"),
    ([("v[...] =", "v =")], "not in place: self.v is still 0 after a step"),
])
def test_a_name_that_was_bound_to_a_new_array_is_told_as_that(edits, says):
    verdict = judged(named("adamw"), changed(named("adamw"), *edits))
    assert not verdict.passed and verdict.hints[0].startswith(says) and len(verdict.hints) == 1, verdict


def test_moments_that_are_kept_elsewhere_pass():
    edits = [("m[...] = b1 * m + (1 - b1) * g", "m = self.kept[id(w)] = b1 * self.kept.get(id(w), 0) + (1 - b1) * g"),
             ("        self.t = 0", "        self.t, self.kept = 0, {}")]
    assert judged(named("adamw"), changed(named("adamw"), *edits)).passed


def found(error: float, *looks_like: str) -> Report:
    return Report("Layer", [Finding("x", WRONG, method="complex", error=error, worst=Worst("x", 1.0, 2.0, 0.0),
                                    looks_like=[*looks_like])])


@pytest.mark.parametrize("error, says", [(0.0962, "10 %"), (0.0351, "4 %"), (0.00149, "0.1 %"), (3.4e-5, "0.003 %"),
                                         (2e-9, "less than 0.001 %")])
def test_an_error_that_is_small_is_told_as_people_tell_shares(error, says):
    assert f" It is nearly right, off by {says} of the largest number" in steps(found(error), {})[0]


def test_a_factor_is_looked_for_in_forward_only_where_there_is_a_forward():
    """A step is held to a reference, and has none."""
    finding = found(0.5, "scaled by 2").findings[0]
    assert "One factor is off: one of forward's that backward forgot" in kind(finding)
    finding.method = "reference"
    assert kind(finding).endswith("the length is not. One factor is off.")


def rng():
    return np.random.default_rng(5)


class OneMask:
    """Draws as numgpt's dropout does, in single precision."""

    def random(self, shape):
        return rng().random(shape, np.float32)


TWINS = {  # exercise: the class in it, and numgpt's own layer of which the planted mistake is known
    "bias": ("Linear", lambda: L.Linear(5, 3), rng().standard_normal((2, 7, 5))),
    "gelu": ("GELU", L.GELUTanh, 2 * rng().standard_normal((3, 7))),
    "dropout": ("Dropout", lambda: L.Dropout(0.3), rng().standard_normal((5, 7))),
    "norm-review": ("LayerNorm", lambda: L.LayerNorm(5), rng().standard_normal((2, 7, 5))),
    "softmax": ("Softmax", L.Softmax, rng().standard_normal((3, 7))),
    "embedding": ("Embedding", lambda: L.Embedding(11, 3), np.array([[1, 4, 4, 9], [4, 1, 0, 2]])),
    "cross-entropy": ("CrossEntropy", L.SoftmaxCrossEntropy, rng().standard_normal((4, 11)), np.array([3, -100, 7, 3])),
}


@pytest.mark.parametrize("mistaken", [True, False], ids=["with the mistake", "mended"])
@pytest.mark.parametrize("name", TWINS)
def test_the_planted_mistake_is_the_one_of_the_catalogue_in_numgpts_own_layer(name, mistaken):
    """Where numgpt has a layer of the same kind: the same numbers, with the mistake and without, to a few roundings."""
    kind, make, *inputs = TWINS[name]
    own, made, exercise = make(), {}, named(name)
    for param in own.params():
        param.value[...] = rng().standard_normal(param.shape)
    exec(exercise.given if mistaken else exercise.solution, made)
    learners = made[kind](*(0.3,) if name == "dropout" else (param.value.copy() for param in own.params()))
    draws, own_draws = ({"rng": OneMask()}, {"rng": rng()}) if name == "dropout" else ({}, {})
    with mutants.apply(*exercise.mistakes if mistaken else ()):
        (own_y, own_saved), (y, saved) = own.forward(*inputs, **own_draws), learners.forward(*inputs, **draws)
        dy = np.asarray(np.random.default_rng(8).standard_normal(np.shape(y)))
        wanted, got = own.backward(dy, own_saved), learners.backward(dy, saved)
    assert np.max(abs(y - own_y)) <= 1e-12 * np.max(abs(own_y))
    pairs = [(got, wanted)] if wanted is not None else []
    pairs += [(getattr(learners, f"d{name}"), param.grad) for name, param in own.named_params()]
    for mine, theirs in pairs:
        assert abs(mine - theirs).max() <= 1e-12 * abs(theirs).max()


@pytest.mark.parametrize("name, line, instead", [
    ("linear", "self.dbias += dy.sum(0)", "self.dbias += dy.mean(0) * 7"),
    ("cross-entropy", "counts[:, None] / counts.sum()", "counts[:, None] / 5"),
    ("attention", "dk = scale *", "dk = 5 ** -0.5 *"),
    ("clip", "return [factor * g for g in grads]", "for g in grads: g *= factor\n    return grads"),
])
def test_what_is_right_for_one_size_alone_or_writes_over_what_it_was_given_fails(name, line, instead):
    exercise = named(name)
    start, found, rest = exercise.solution.rpartition(line)
    assert found
    assert judge(exercise, exercise.solution, exercise.file).passed
    assert not judge(exercise, start + instead + rest, exercise.file).passed


def test_a_file_of_somebody_s_own_that_has_an_exercise_s_name_is_not_run(tmp_path, capsys):
    (tmp_path / "softmax.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert main(["exercise", "list", "--folder", str(tmp_path)]) == 0
    assert re.search(r"^ 9  softmax +-  ", capsys.readouterr().out, re.M) and not (tmp_path / "ran").exists()
