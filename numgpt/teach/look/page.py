"""Attention as shaded text for a terminal, as HTML for a notebook, and as a picture.

A share is shown as one of ten characters, so that a pipe has it too; a terminal with colours shades the ground as well.
"""

import textwrap
import unicodedata
from bisect import bisect_right
from html import escape
from pathlib import Path

import numpy as np

from numgpt.files import FormatError
from numgpt.teach.terminal import Ink

SPACE = "·"
SHADES = " .:-=+*#%@"
FROM = (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # the share from which each shade but the first is shown
LABEL = 12  # columns of a token beside its row
GAP = 3  # columns between two heads
BEST = 5  # tokens named of what a position looks at
HTML_TOKENS = 64


def shade(share: float) -> str:
    return SHADES[_level(share)]


def _level(share: float) -> int:
    return bisect_right(FROM, share)


def legend(columns: int, ink: Ink) -> list[str]:
    parts = ["shares: blank below 1%", *(f"{c} {share:.0%}" for c, share in zip(SHADES[1:], FROM))]
    parts[-1] += " or more"
    return [ink.faint(line) for line in _filled(parts, "  ", columns)]


def _filled(parts: list[str], between: str, columns: int) -> list[str]:
    """The parts in lines, none of them broken."""
    lines = parts[:1]
    for part in parts[1:]:
        if wide(longer := lines[-1] + between + part) < columns:  # one is left for a comma
            lines[-1] = longer
        else:
            lines[-1] += between.rstrip()
            lines.append(part)
    return lines


# -- all heads


def habits(look, columns: int, ink: Ink) -> str:
    heads = ("layer", "head", "entropy", "previous", "first", "itself")
    T = len(look.tokens)
    told = (f"How each head looks back over {T:,} token{'s' * (T > 1)}, on average: the entropy of its shares in bits (0 is "
            "one token alone, 3 is as much as 8 evenly), and what goes to the previous token, to the text's first and to "
            "the token itself. Evenly is what it would be of a head that looks at all that it sees alike.")
    lines = [*textwrap.wrap(told, columns), "", ink.strong("  ".join(f"{head:>8}" for head in heads))]
    for layer, head, h in _rows(look):
        shares = [ink.shade(f"{share:8.0%}", _level(share) / 9) for share in (h.previous, h.first, h.itself)]
        lines.append("  ".join([f"{layer:>8}", f"{head:>8}", f"{h.entropy:8.2f}", *shares]))
    return "\n".join(lines)


def _rows(look):
    """(layer, head, habit) of all heads, and of such as would look evenly."""
    yield from ((str(h.layer), str(h.head), h) for h in look.habits())
    yield from (("evenly", "" if window is None else f"of {window}", h) for window, h in look.even().items())


def left_out(look) -> str:
    """The sentence of a text that is longer than the context, or nothing."""
    T = len(look.tokens)
    whole = f"The text has {T + look.left_out:,} tokens and the model's context {T:,}: these are the first {T:,}."
    return whole if look.left_out else ""


# -- heads, token by token


def matrices(view, columns: int, ink: Ink) -> str:
    """Rows are the tokens that look, columns those that are looked at, several heads side by side if they fit."""
    tokens, p = view.look.tokens, view.look.p[view.layer]
    T = len(tokens)
    number = len(str(T - 1))
    label = number + 1 + min(LABEL, max(map(wide, tokens)))
    room = columns - label - 2
    n = min(T, room)
    title = len(f"head {len(p) - 1}")
    beside = {cell: min(len(view.heads), (room + GAP) // (max(n * cell, title) + GAP)) for cell in (1, 2)}
    cell = 2 if beside[2] == beside[1] else 1  # squares, where they do not make the whole longer
    told = f"Layer {view.layer}: each row is a token that looks, each column one that it looks at."
    if n < T:
        told += f" There is room for {n} of the {T} tokens; how one position sees all of them is shown with at (--at N)."
    lines = [*textwrap.wrap(told, columns), *legend(columns, ink), ""]
    block = max(n * cell, title)
    for start in range(0, len(view.heads), beside[cell]):
        heads = view.heads[start:start + beside[cell]]

        def line(left: str, parts: list[tuple[str, str]]) -> str:
            """parts: what is printed, and what it is on the screen."""
            filled = [shown + " " * (block - wide(plain)) for plain, shown in parts]
            return (left + "  " + (" " * GAP).join(filled)).rstrip()

        blank = " " * label
        lines.append(line(blank, [(title, ink.strong(title)) for title in (f"head {h}" for h in heads)]))
        lines += [line(blank, [(text, ink.faint(text))] * len(heads)) for text in (_ruler(n, cell), _tops(tokens[:n], cell))]
        for t in range(n):
            left = ink.faint(f"{t:>{number}}") + " " + fitted(tokens[t], label - number - 1)
            lines.append(line(left, [(" " * n * cell, _cells(p[h, t, :n], t, cell, ink)) for h in heads]))
        lines.append("")
    return "\n".join(lines[:-1])


def _cells(shares, t: int, cell: int, ink: Ink) -> str:
    """A row: behind the token itself, nothing is seen, and nothing shaded."""
    seen = "".join(ink.shade(shade(share) * cell, _level(share) / 9) for share in shares[:t + 1])
    return seen + " " * cell * (len(shares) - t - 1)


def _ruler(n: int, cell: int) -> str:
    """The number of every tenth column, or every fifth, above it."""
    line = [" "] * (n * cell)
    for i in range(0, n, 10 // cell):
        if i * cell + len(str(i)) <= len(line):
            line[i * cell:i * cell + len(str(i))] = str(i)
    return "".join(line)


def _tops(tokens, cell: int) -> str:
    """Each token above its column; of one that does not fit its first sign, which the space before a word is not."""
    tops = (token if wide(token) <= cell else (token.lstrip(SPACE) or SPACE)[0] for token in tokens)
    return "".join(fitted(top, cell, more="") for top in tops)


# -- the text as one position sees it


def from_one(view, columns: int, ink: Ink) -> str:
    look, at = view.look, view.at
    lines = legend(columns, ink)
    for head in view.heads:
        p = view.look.p[view.layer][head, at]
        title = f"layer {view.layer}, head {head}: position {at}, {fitted(look.tokens[at], LABEL).rstrip()}, looks at"
        lines += ["", *map(ink.strong, textwrap.wrap(title, columns))]
        text, shades = "", ""
        for t, token in enumerate(look.tokens):
            token = fitted(token, columns).rstrip() if wide(token) > columns else token
            if wide(shades) + wide(token) > columns:
                lines += _line(text, shades, ink)
                text, shades = "", ""
            mark = shade(p[t]) * wide(token)
            text += ink.shade(token, _level(p[t]) / 9) if t <= at else ink.faint(token)
            shades += mark
            if token.endswith("\\n"):
                lines += _line(text, shades, ink)
                text, shades = "", ""
        lines += _line(text, shades, ink)
        best = sorted(range(at + 1), key=lambda t: -p[t])[:BEST]
        most = [f"{t} {fitted(look.tokens[t], LABEL).rstrip()} {p[t]:.0%}" for t in best if p[t] >= FROM[0]]
        lines += _filled([f"most: {most[0]}", *most[1:]] if most else [], ", ", columns)
    return "\n".join(lines)


def _line(text: str, shades: str, ink: Ink) -> list[str]:
    """A line of the text; where no ground can be shaded, with a line of shades below."""
    if not shades:
        return []
    return [text] if ink.on else [text, shades.rstrip()] if shades.strip() else [text]


# -- tokens in columns


def wide(text: str) -> int:
    """Columns that a terminal gives a text: two to the signs of East Asia and to pictures."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fitted(text: str, columns: int, more: str = "…") -> str:
    """A text in exactly so many columns: what is too long is cut, and more says so."""
    if wide(text) > columns:
        while text and wide(text) + len(more) > columns:
            text = text[:-1]
        text += more
    return text + " " * (columns - wide(text))


# -- for a notebook


def habits_html(look) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("layer", "head", "entropy, bits", "previous", "first", "itself"))
    body = ""
    for layer, n, h in _rows(look):
        shares = "".join(f"<td {_ground(share)}>{share:.0%}</td>" for share in (h.previous, h.first, h.itself))
        body += f"<tr><td>{layer}</td><td>{n}</td><td>{h.entropy:.2f}</td>{shares}</tr>"
    return f"<p>{escape(left_out(look))}</p><table><tr>{head}</tr>{body}</table>"


def matrices_html(view) -> str:
    tokens, n = view.look.tokens, min(len(view.look.tokens), HTML_TOKENS)
    pages = [] if n == len(tokens) else [f"<p>The first {n} of {len(tokens)} tokens.</p>"]
    top = "".join(f'<th style="writing-mode:vertical-rl">{escape(token)}</th>' for token in tokens[:n])
    for head in view.heads:
        rows = []
        for t, shares in enumerate(view.look.p[view.layer][head, :n, :n]):
            cells = "".join(f'<td {_ground(share)} title="{escape(f"{tokens[t]} looks at {tokens[k]}: {share:.1%}")}"></td>'
                            for k, share in enumerate(shares[:t + 1]))
            rows.append(f"<tr><th>{t} {escape(tokens[t])}</th>{cells}</tr>")
        pages.append(f"<p>layer {view.layer}, head {head}</p><table><tr><th></th>{top}</tr>{''.join(rows)}</table>")
    return "".join(pages)


def from_one_html(view) -> str:
    tokens, pages = view.look.tokens, []
    for head in view.heads:
        p = view.look.p[view.layer][head, view.at]
        spans = ""
        for t, token in enumerate(tokens):
            spans += f'<span {_ground(p[t])} title="{t}: {p[t]:.1%}">{escape(token)}</span>' + "<br>" * token.endswith("\\n")
        title = f"layer {view.layer}, head {head}: position {view.at}, {tokens[view.at]}, looks at"
        pages.append(f"<p>{escape(title)}</p><p><code>{spans}</code></p>")
    return "".join(pages)


def _ground(share: float) -> str:
    return f'style="background:rgba(30,100,220,{share:.3f})"'


# -- as a picture


def picture(view, plt, path) -> None:
    """The heads as squares, side by side, with their tokens where these can be read."""
    tokens, heads = view.look.tokens, view.heads
    across = int(np.ceil(np.sqrt(len(heads))))
    down = -(-len(heads) // across)
    shown = range(len(tokens)) if len(tokens) <= 48 else range(0, len(tokens), -(-len(tokens) // 24))
    figure, axes = plt.subplots(down, across, figsize=(1 + 4 * across, 0.6 + 4 * down), layout="constrained", squeeze=False)
    for ax, head in zip(axes.flat, heads):
        image = ax.imshow(view.look.p[view.layer][head], cmap="Blues", vmin=0, vmax=1)
        ax.set_title(f"head {head}")
        # a dollar sign would begin a formula
        names = [tokens[t].replace("$", r"\$") for t in shown]
        ax.set_xticks(shown, names, rotation=90, fontsize=7)
        ax.set_yticks(shown, names, fontsize=7)
    for ax in axes.flat[len(heads):]:
        ax.set_axis_off()
    figure.suptitle(f"layer {view.layer}: rows look at columns")
    figure.colorbar(image, ax=axes, shrink=0.6)
    try:
        figure.savefig(path, dpi=150, format=Path(path).suffix[1:] or "png")
    except ValueError as error:  # an ending that matplotlib does not know
        raise FormatError(f"{path}: {error}") from None
    finally:
        plt.close(figure)
