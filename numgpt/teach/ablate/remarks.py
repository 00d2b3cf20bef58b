"""What an ablation's figures are, in tables, and what they say, in sentences: of each run only what it has shown."""

import textwrap

from numgpt.teach.ablate.course import LAST
from numgpt.teach.terminal import Ink

# Two losses nearer than this are called the same. With nine seeds the whole model's own comes to 2.19 to 2.29 after 300
# steps and to 2.33 to 2.49 after 150: what is little more than this may be otherwise with another seed.
SAME = 0.05
FAR = 10.0  # how much more a gradient must have faded than the whole's to be spoken of


def text(ablation, columns: int, ink: Ink) -> str:
    said, c, s = ablation.remarks(), ablation.config, ablation.settings
    head = (f"{ablation.whole.n_params:,} parameters, {c.n_layer} blocks of width {c.n_embd}, {c.n_head} heads of "
            f"{c.head_dim}; {s.steps} steps of {s.batch} x {c.n_ctx} characters, learning rate {s.lr:g}, seed {s.seed}; "
            f"{ablation.seconds:.0f} s")
    parts = [textwrap.fill(head, columns)]
    parts += [_table(head, rows, columns, ink) for head, rows in tables(ablation)]
    parts.append(textwrap.fill(_counted(ablation.counting), columns))
    for run in ablation.runs:
        own = textwrap.fill(f"{run.title}: {run.what}. {said[run.name]}", columns, subsequent_indent="  ")
        parts.append(ink.strong(run.title) + own[len(run.title):])
    return "\n\n".join(parts)


def tables(ablation) -> list[tuple[list[str], list[list[str]]]]:
    """Losses, and the gradients of the first step and of the last ones: a head and a row for each model."""
    runs = (ablation.whole, *ablation.runs)
    steps = list(ablation.whole.losses)
    losses = []
    for run in runs:
        losses.append([run.title, *(_loss(run.losses.get(step)) for step in steps)])
        if run.hidden:
            losses.append(["  its future hidden", *(_loss(run.hidden.get(step)) for step in steps)])
    digits = [[run.title, f"{run.reversed:.0%}"] for run in runs if run.reversed is not None]
    n_last = min(LAST, ablation.settings.steps)
    at_end = f"in the last {n_last} steps" if n_last > 1 else "in the last step"
    blocks = [f"block {i}" for i in range(ablation.config.n_layer)]
    return [(["held-out loss after step", *map(str, steps)], losses),
            (["gradient in the first step", *blocks], [[run.title, *map(_length, run.first)] for run in runs]),
            ([at_end, *blocks], [[run.title, *map(_length, run.last)] for run in runs]),
            *([(["digits written backwards", "right"], digits)] if digits else [])]


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.2f}"


def _length(length: float) -> str:
    return f"{length:.2g}"


def _table(head: list[str], rows: list[list[str]], columns: int, ink: Ink) -> str:
    """Closer together where the terminal is narrow."""
    lines = [head, *rows]
    first, *others = (max(len(line[i]) for line in lines if i < len(line)) for i in range(len(head)))
    gap = "  " if first + sum(others) + 2 * len(others) <= columns else " "
    shown = [f"{line[0]:{first}}" + "".join(f"{gap}{item:>{size}}" for item, size in zip(line[1:], others))
             for line in lines]
    return "\n".join([ink.faint(shown[0]), ink.value(shown[1]), *shown[2:]])


def _counted(c: dict[str, float]) -> str:
    return (f"Without a model: all characters alike {c['uniform']:.2f}; by how often each comes {c['single']:.2f}; "
            f"by the one before it {c['pairs']:.2f}.")


# -- sentences


def remark(run, a) -> str:
    """What one sees of a run, and why."""
    said = [_loss_said(run, a)]
    if not run.broke and not a.whole.broke:
        about = _mask if run.hidden else _ABOUT.get(run.name)  # of several at once, what is said of no mask still holds
        said += [about(run, a)] if about else []
        said.append(_vanished(run, a))
    return " ".join(filter(None, said))


def _loss_said(run, a) -> str:
    """The loss beside the whole's, and beside what needs no model."""
    if run.broke:
        return f"It breaks off: {run.broke}."
    if a.whole.broke:
        return (f"The whole model itself breaks off ({a.whole.broke}): there is nothing to compare with, but at a lower "
                "learning rate.")
    whole, single = a.whole.loss, a.counting["single"]
    ends = f"Its loss ends at {run.loss:.2f}"
    if run.hidden:
        return ""  # that of what it sees says nothing by itself
    if run.loss > a.counting["uniform"]:
        return f"{ends}, worse than a blind guess ({a.counting['uniform']:.2f})."
    if run.loss > max(single, whole) + SAME:
        return f"{ends}: it has not even learned how often each character comes ({single:.2f}; the whole: {whole:.2f})."
    if run.loss > single - SAME > whole:
        return (f"{ends}: it has learned how often each character comes ({single:.2f}), and nothing beyond that (the whole: "
                f"{whole:.2f}).")
    if run.loss > whole + SAME:
        return f"{ends}, {run.loss - whole:.2f} above the whole's."
    if run.loss < whole - SAME:
        return f"{ends}, {whole - run.loss:.2f} below the whole's: so short a run does not show what it is for."
    return f"{ends}, the whole's at {whole:.2f}: in the loss this run shows no difference."


def _vanished(run, a) -> str:
    """The first block's gradient at the end, if it has faded on the way there."""
    if not (run.last[-1] and a.whole.last[-1]):
        return ""  # no way on which it could fade
    ratio, whole = (one.last[0] / one.last[-1] for one in (run, a.whole))
    if not ratio < min(1, whole) / FAR:
        return ""
    size = f"{ratio:.1g} times as long as the last block's (the whole: {whole:.2g} times)" if ratio else "0"
    return f"In the last steps the first block's gradient is {size}: it fades on its way down through the blocks."


def _residual(run, a) -> str:
    mine, whole = run.looks[0]["alike"], a.whole.looks[0]["alike"]
    if mine < whole + 0.2:
        return ""
    return ("Attention takes means, and with no path past it little is left of each token by itself: before any training "
            f"the positions of a text come out of the last block with a mean cosine of {mine:.2f} between them (the whole: "
            f"{whole:.2f}).")


def _scale(run, a) -> str:
    mine, whole = run.looks[0]["focus"], a.whole.looks[0]["focus"]
    if mine < 1.3 * whole:
        return ""
    return (f"A score is a sum of D = {a.config.head_dim} products and grows like its root: before any training, a query "
            f"gives {mine:.0%} of its attention to one key (the whole: {whole:.0%}), and chance has chosen which.")


def _norm(run, a) -> str:
    mine, whole = run.looks[0]["size"], a.whole.looks[0]["size"]
    if mine < 3 * whole:
        return ""
    return ("Each block makes what it gets larger, and nothing brings it back, as LayerNorm would: at the start the numbers "
            f"after the last block are of size {mine:.3g} (the whole: {whole:.2g}), the loss is {run.losses[0]:.4g} "
            f"({a.whole.losses[0]:.2f}), and the first block's gradient {run.first[0]:.1e} long ({a.whole.first[0]:.2g}).")


def _post_norm(run, a) -> str:
    if run.loss <= a.whole.loss + SAME:
        return ""
    return ("A norm on the path itself rescales what passes at every block, and its gradient too; inside the branches, it "
            f"leaves the path alone, and the whole bears a learning rate of {a.settings.lr:g}.")


def _warmup(run, a) -> str:
    early = next((step for step in run.losses if step), None)
    if early is None or run.losses[early] < a.whole.losses[early] + SAME:
        return ""
    mended = "; by the end that is mended." if run.loss <= a.whole.loss + SAME else ", and by the end that is not mended."
    return (f"Adam's first steps move every weight by the learning rate, however small its gradient: after {early} steps "
            f"its loss is {run.losses[early]:.2f}, the whole's {a.whole.losses[early]:.2f}{mended}")


def _positions(run, a) -> str:
    said = []
    if run.loss < a.whole.loss + 3 * SAME:
        said.append("In text the mask alone tells much of the order: a position sees just the tokens before it.")
    if run.reversed is not None and run.reversed < a.whole.reversed - 0.1:
        said.append(f"Where order is all, it is lost: trained to write digits backwards, it gets {run.reversed:.0%} of the "
                    f"rows right, the whole {a.whole.reversed:.0%}.")
    return " ".join(said)


def _mask(run, a) -> str:
    """What a model looks up is what it loses when the future is hidden from it."""
    hidden, whole = list(run.hidden.values())[-1], a.whole.loss
    if hidden - run.loss <= SAME:
        return (f"With the future in sight its loss ends at {run.loss:.2f}, with the future hidden at {hidden:.2f} (the "
                f"whole: {whole:.2f}): it has not yet found out how to look the answer up.")
    found = "looks the answer up" if run.loss < hidden / 2 else "has begun to look the answer up"
    return (f"Its loss ends at {run.loss:.2f} (the whole: {whole:.2f}), and it {found}: with what comes after each position "
            f"hidden, as it is from who writes, its loss is {hidden:.2f}"
            + (", worse than a blind guess." if hidden > a.counting["uniform"] else
               ", worse than counting characters." if hidden > a.counting["single"] else "."))


_ABOUT = {"residual": _residual, "scale": _scale, "norm": _norm, "post-norm": _post_norm, "warm-up": _warmup,
          "positions": _positions}
