"""A ledger as text for a terminal, and as HTML for a notebook."""

import re
from collections.abc import Callable, Iterator, Mapping
from html import escape

from numgpt.plan import human
from numgpt.teach.paragraphs import fill
from numgpt.teach.terminal import Ink
from numgpt.verify.formulas import WORDS

SAID = {"n_params": "parameters", "weights": "their bytes", "saved": "bytes kept for backward",
        "flops_forward": "FLOPs a token, forward", "flops_training": "FLOPs a token, both ways"}
HEADS = ("values", "gradient", "kept", "forward", "backward")
INDENT = 4  # of a formula, below its tensor's name
WIDE = 100  # columns, from which on a parameter's axes have room for their letters
LEGEND = ("values and gradient are root mean squares, of a tensor's numbers and of the loss's gradient by them; kept, the "
          "bytes that forward keeps of it for backward; forward, the FLOPs of the matrix product that makes it; backward, "
          "those of the two products that its gradient goes into. Of the scores, the seen half is counted alone.")


def text(ledger, columns: int, ink: Ink, backward: bool) -> str:
    return "\n".join([*_wrapped([_opening(ledger), LEGEND], columns), "", *_tensors(ledger, columns, ink, backward), "",
                      ink.strong("words of the formulas"), *_wrapped(_words(ledger, backward), columns, INDENT), "",
                      *_parameters(ledger, columns, ink), "", *_totals(ledger, ink),
                      *(ink.bad(line) for fault in ledger.faults for line in fill(f"WRONG: {fault}", columns))])


def _opening(ledger) -> str:
    c = ledger.config
    return (f"One pass of a model of {c.n_layer} layer{'s' * (c.n_layer > 1)}: B = {ledger.batch} sequences of "
            f"T = {ledger.n_tokens} tokens, width C = {c.n_embd}, H = {c.n_head} heads of D = {c.head_dim}, "
            f"hidden F = {c.hidden_dim}, vocabulary V = {c.n_vocab}; in {ledger.dtype}.")


def _wrapped(lines, columns: int, indent: int = 0) -> Iterator[str]:
    for line in lines:
        yield from fill(line, columns, " " * indent)


# -- the tables


def _tensors(ledger, columns: int, ink: Ink, backward: bool) -> list[str]:
    """A line of numbers for each tensor, with what it is; each section begins with its sums."""
    count = _counting(ledger, columns)
    lines = []  # (indent, name, cells, what it is)
    for section, rows in ledger.sections():
        lines.append((0, section, ("", "", *map(count, _sums(rows))), ()))
        for row in rows:
            cells = (number(row.values), number(row.gradient), *map(count, _sums([row])))
            lines.append((2, short(row.name), cells, list(_told(row, backward))))
    lines.append((0, "sums", ("", "", *map(count, _sums(ledger.rows))), ()))
    return _laid_out(("tensor", *HEADS), lines, columns, ink)


def _parameters(ledger, columns: int, ink: Ink) -> list[str]:
    count = _counting(ledger, columns)
    told = [shape(p.axes, p.shape) if columns >= WIDE else f"({', '.join(map(str, p.shape))})" for p in ledger.parameters]
    lines = [(2, p.name, (number(p.values), number(p.gradient), count(p.size), count(p.bytes)), [what])
             for p, what in zip(ledger.parameters, told)]
    sums = (ledger.totals["n_params"], ledger.totals["weights"])
    lines.append((0, "sums", ("", "", *map(count, sums)), ()))
    return _laid_out(("parameter", "values", "gradient", "numbers", "bytes"), lines, columns, ink, least=max(map(len, told)))


def _sums(rows) -> tuple[int, int, int]:
    return sum(row.saved for row in rows), sum(row.flops_forward for row in rows), sum(row.flops_backward for row in rows)


def _laid_out(heads, table, columns: int, ink: Ink, least: int = 56) -> list[str]:
    """The table's lines. What a thing is stands to the right of its numbers where so many columns are left, else below;
    where not even names and numbers fit beside each other, the numbers stand below the name.
    """
    widths = [max(len(head), *(len(cells[i]) for _, _, cells, _ in table)) for i, head in enumerate(heads[1:])]
    numbers_take = sum(widths) + 2 * len(widths)
    names = max(len(heads[0]), *(indent + len(name) for indent, name, _, _ in table))
    beside = names + numbers_take <= columns
    right = columns - names - numbers_take - 2
    pad = " " * (names if beside else max(0, columns - numbers_take))
    lines = []

    def add(name: str, cells, told=(), way: Callable | None = None):
        hues = [way] * len(cells) if way else [ink.value, ink.gradient, *[str] * (len(cells) - 2)]
        numbers = "".join("  " + hue(f"{cell:>{width}}") for hue, cell, width in zip(hues, cells, widths))
        shown = way(name) if way else name
        if not beside:
            lines.append(shown)
            name = shown = ""
        first = shown + pad[len(name):] + numbers
        if right >= least:
            told = list(_wrapped(told, right))
            lines.append(first + ("  " + ink.faint(told[0]) if told else ""))
            lines.extend(" " * (columns - right) + ink.faint(line) for line in told[1:])
        else:
            lines.append(first)
            lines.extend(map(ink.faint, _wrapped(told, columns, INDENT)))

    add(heads[0], heads[1:], way=ink.strong)
    for indent, name, cells, told in table:
        add(" " * indent + name, cells, told, None if indent else ink.strong)
    return [line.rstrip() for line in lines]


def _told(row, backward: bool) -> Iterator[str]:
    keeps = f"; keeps {kept(row)}" if row.kept else ""
    yield f"{shape(row.axes, row.shape)}  {formula(row.name, row.formula, row.of)}{keeps}"
    if backward and row.back:
        yield f"gradient: {formula(row.name, row.back, row.back_of)}"


def _words(ledger, backward: bool) -> Iterator[str]:
    """What the formulas' own words mean, of those that occur, also in each other."""
    body = " ".join([row.formula for row in ledger.rows] + [row.back for row in ledger.rows if backward])
    meanings = {signature.partition("(")[0]: (signature, meaning) for signature, meaning in WORDS.items()}
    found, todo = set(), [body]
    while todo:
        for word in set(re.findall(r"\w+(?=\()", todo.pop())) & meanings.keys() - found:
            found.add(word)
            todo.append(meanings[word][1])
    yield from (f"{signature} is {meaning}" for word, (signature, meaning) in meanings.items() if word in found)


def _totals(ledger, ink: Ink) -> list[str]:
    lines = _compared(ledger)
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    shown = [f"{line[0]:{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:>{widths[2]}}" for line in lines]
    return [ink.strong(shown[0]), *shown[1:]]


def _compared(ledger) -> list[tuple[str, str, str]]:
    return [("sums", "of this pass", "of config.plan"),
            *((SAID[name], exact(total), exact(planned)) for name, (total, planned) in ledger.compared().items())]


# -- what stands in them


def short(name: str) -> str:
    """Without its block, which the section names."""
    return re.sub(r"^blocks\.\d+\.", "", name)


def shape(axes: str, numbers) -> str:
    return f"({axes}) = ({', '.join(map(str, numbers))})" if numbers else "a number"


def formula(name: str, formula: str, of: Mapping[str, str]) -> str:
    """The formula, and which tensors its letters are, but for those that are called as they are."""
    block = re.match(r"blocks\.\d+\.", name)
    block = block[0] if block else ""
    notes = []
    for letter, full in of.items():
        kind, _, rest = full.partition(".")
        own = kind == "weights" and rest.rpartition(".")[0] == name
        last = rest.rpartition(".")[2]
        if own or (letter == last and kind != "backward") or (letter == f"d{last}" and kind == "backward"):
            continue
        stands_for = "mask" if kind == "masks" else f"{'gradient of ' * (kind == 'backward')}{rest.removeprefix(block)}"
        notes.append(f"{letter} = {stands_for}")
    return formula + (f"  with {', '.join(notes)}" if notes else "")


def kept(row) -> str:
    """What is kept, each with its bytes where there are several."""
    return ", ".join(f"{what} {n:,}" if len(row.kept) > 1 else what for what, n in row.kept.items())


def number(x: float | None) -> str:
    if x is None:
        return "-"
    return f"{x:.3g}" if x == 0 or 0.001 <= x < 1000 else f"{x:.1e}"


def exact(n: float) -> str:
    return f"{n:,.0f}" if float(n).is_integer() else f"{n:,.2f}"


def _counting(ledger, columns: int) -> Callable[[int], str]:
    """How whole numbers are written: each digit, so that they can be added up; or three digits, where there is no room."""
    largest = max(*_sums(ledger.rows), ledger.totals["weights"])
    exact = len(f"{largest:,}") <= 7 + max(0, columns - 76) // 3
    return lambda n: "-" if not n else f"{n:,}" if exact else human(n, "").strip()


# -- for a notebook


def html(ledger) -> str:
    tensors = []
    for section, rows in ledger.sections():
        tensors.append(_line("th", section, "", "", "", "", *(f"{n:,}" for n in _sums(rows))))
        for row in rows:
            told = [f"<code>{escape(formula(row.name, row.formula, row.of))}</code>"]
            if row.back:
                told.append(f"gradient: <code>{escape(formula(row.name, row.back, row.back_of))}</code>")
            if row.kept:
                told.append(f"keeps {escape(kept(row))}")
            tensors.append(_line("td", escape(short(row.name)), escape(shape(row.axes, row.shape)), "<br>".join(told),
                                 number(row.values), number(row.gradient), *(f"{n:,}" for n in _sums([row]))))
    tensors.append(_line("th", "sums", "", "", "", "", *(f"{n:,}" for n in _sums(ledger.rows))))
    parameters = [_line("td", escape(p.name), escape(shape(p.axes, p.shape)), "",
                        number(p.values), number(p.gradient), f"{p.size:,}", f"{p.bytes:,}") for p in ledger.parameters]
    heads = "parameter", "shape", "", "values", "gradient", "numbers", "bytes"
    first, *totals = _compared(ledger)
    faults = "".join(f"<p><strong>WRONG: {escape(fault)}</strong></p>" for fault in ledger.faults)
    words = "".join(f"<li><code>{escape(word)}</code></li>" for word in _words(ledger, True))
    return (f"<p>{escape(_opening(ledger))} {escape(LEGEND)}</p>"
            f"<table>{_line('th', 'tensor', 'shape', 'formula', *HEADS)}{''.join(tensors)}</table><ul>{words}</ul>"
            f"<table>{_line('th', *heads)}{''.join(parameters)}</table>"
            f"<table>{_line('th', *first)}{''.join(_line('td', *line) for line in totals)}</table>{faults}")


def _line(tag: str, *cells: str) -> str:
    sides = ["left"] * 3 + ["right"] * (len(cells) - 3)
    return "<tr>" + "".join(f'<{tag} style="text-align:{side}">{cell}</{tag}>' for cell, side in zip(cells, sides)) + "</tr>"
