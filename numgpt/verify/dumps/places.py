"""The names of a trace and the axes of each, and what others call the same things.

Axes are named by letters, so that a layout can be told from a shape: ("B", "T", "H D") is two axes and one that holds
two, head after head. The sizes of the letters come from a config; those of B, T and S from what was dumped.
"""

import re
from difflib import get_close_matches
from functools import lru_cache

from numgpt.config import GPTConfig
from numgpt.formats import huggingface
from numgpt.plan import shapes

LINEARS = {"attention.qkv": ("C", "3 H D"), "attention.out": ("H D", "C"), "ffn.up": ("C", "F"), "ffn.down": ("F", "C"),
           "head": ("C", "V")}
PIECES = "qkv"
_HEADS, _SCORES, _STREAM = ("B", "H", "T", "D"), ("B", "H", "T", "K"), ("B", "T", "C")
INSIDE = {"norm1": _STREAM, "attention.qkv": ("B", "T", "3 H D"), "attention.q": _HEADS, "attention.k": _HEADS,
          "attention.v": _HEADS, "attention.scores": _SCORES, "attention.probabilities": _SCORES, "attention.kept": _SCORES,
          "attention.mixed": ("B", "T", "H D"), "attention.out": _STREAM, "attention.dropped": _STREAM, "sum1": _STREAM,
          "norm2": _STREAM, "ffn.up": ("B", "T", "F"), "ffn.activation": ("B", "T", "F"), "ffn.down": _STREAM,
          "ffn.dropped": _STREAM, "sum2": _STREAM}
OUTSIDE = {"embedding": _STREAM, "positions": _STREAM, "dropout": _STREAM, "norm": _STREAM, "logits": ("B", "T", "V"),
           "probabilities": ("B", "T", "V"), "loss": ()}
MASKED = ("dropout", "attention.kept", "attention.dropped", "ffn.dropped")
STEP = re.compile(r"steps\.([1-9]\d*)\.(?:(loss|norm)|(grads|m|v|weights)\.(.+))", re.ASCII)
DECODE = re.compile(r"decode\.(\d+)\.(?:(logits)|blocks\.(\d+)\.([kv]))", re.ASCII)
BLOCK = re.compile(r"(?<=blocks\.)\d+|(?<=steps\.)\d+|(?<=decode\.)\d+", re.ASCII)


def sizes(config: GPTConfig) -> dict[str, int]:
    c = config
    return {"V": c.n_vocab, "C": c.n_embd, "H": c.n_head, "D": c.head_dim, "F": c.hidden_dim, "N": c.n_ctx, "3": 3}


@lru_cache(maxsize=8)
def params(config: GPTConfig) -> dict[str, tuple[str, ...]]:
    """The axes of each parameter."""
    return {name: _param_axes(name) for name, _ in shapes(config)}


def _param_axes(name: str) -> tuple[str, ...]:
    layer, what = name.rsplit(".", 1)
    if what == "table":
        return ("V" if layer == "embedding" else "N", "C")
    if what == "gain" or "norm" in layer:
        return ("C",)
    axes = LINEARS[layer.split(".", 2)[2] if layer.startswith("blocks.") else layer]
    return axes if what == "weight" else axes[1:]


@lru_cache(maxsize=8)
def activations(config: GPTConfig) -> dict[str, tuple[str, ...]]:
    """The axes of what forward makes, in the order of a trace by kinds."""
    inside = {f"blocks.{i}.{name}": axes for i in range(config.n_layer) for name, axes in INSIDE.items()}
    outside = {name: axes for name, axes in OUTSIDE.items() if name != "norm" or config.norm == "pre"}
    return {**outside, **inside}


def axes_of(name: str, config: GPTConfig) -> tuple[str, ...] | None:
    """The axes of a name of a trace; None if it is none."""
    kind, _, rest = name.partition(".")
    if kind in ("weights", "grads"):
        return params(config).get(rest)
    if kind == "inputs":
        return ("B", "T") if rest in ("ids", "targets") else None
    if kind == "forward":
        return activations(config).get(rest)
    if kind == "backward":
        return None if rest in ("loss", "probabilities") else activations(config).get(rest)
    if kind == "masks":
        masked = rest in MASKED or rest.startswith("blocks.") and rest.split(".", 2)[-1] in MASKED[1:]
        return activations(config).get(rest) if masked else None
    if name == "clip.norm":
        return ()
    if step := STEP.fullmatch(name):
        return () if step[2] else params(config).get(step[4])
    if decode := DECODE.fullmatch(name):
        if decode[2]:
            return ("B", "V")
        return ("B", "H", "S", "D") if f"blocks.{decode[3]}.norm1.gain" in params(config) else None
    return None


@lru_cache(maxsize=8)
def names(config: GPTConfig) -> tuple[str, ...]:
    """The names of a trace, of its first layer, step and token alone."""
    kept, made = ([name for name in table if not name.startswith("blocks.") or name.startswith("blocks.0.")]
                  for table in (params(config), activations(config)))
    pieces = [f"blocks.0.attention.{piece}.{what}" for piece in PIECES for what in ("weight", "bias")]
    found = [f"{kind}.{name}" for kinds, ends in ((("forward", "backward", "masks"), made), (("weights", "grads"), kept + pieces))
             for kind in kinds for name in ends]
    found += ["inputs.ids", "inputs.targets", "clip.norm", "steps.1.loss", "steps.1.norm", "decode.0.logits", "decode.0.blocks.0.k",
              "decode.0.blocks.0.v", *(f"steps.1.{kind}.{name}" for kind in ("grads", "m", "v", "weights") for name in kept + pieces)]
    return tuple(name for name in found if axes_read(name, config) is not None)


def known(name: str, config: GPTConfig) -> bool:
    """Whether this is a name of a trace, or a form of one, in which * stands for what is between two dots."""
    if "*" not in name:
        return axes_read(name, config) is not None
    first = BLOCK.sub("0", name).replace("steps.0.", "steps.1.")
    form = re.compile("[^.]+".join(map(re.escape, first.split("*"))))
    return any(map(form.fullmatch, names(config)))


def elsewhere(name: str, config: GPTConfig) -> bool:
    """Whether another model's trace has a name that this one's has not: of a layer beyond, or of a head that is tied here."""
    if known(name, config):
        return False
    most = config.change(n_layer=1, norm="pre", tied=False, head_bias=True, bias=True, positions="learned")
    return known(re.sub(r"(?<=blocks\.)(?:0|[1-9]\d*)(?=\.)", "0", name), most)


def nearest(name: str, config: GPTConfig) -> str | None:
    """The name of a trace that comes nearest, in the layer and step that were meant; None if those are not there."""
    if elsewhere(name, config):
        return None
    form = BLOCK.sub("0", name)
    if len(form) > 200:
        return None
    kinds = [one for one in names(config) if form.startswith("step") or not STEP.fullmatch(one) or STEP.fullmatch(one)[2]]
    ends = {}  # what comes after the kind, for who leaves that out
    for one in kinds:
        ends.setdefault(one.split(".", 1)[1], one)
    found = [ends[form]] if form in ends else get_close_matches(form, kinds, n=1) or [
        ends[one] for one in get_close_matches(form, ends, n=1, cutoff=0.75)]
    if not found:
        return None
    same = found[0]
    for part, first in (("blocks", "0"), ("steps", "1")):
        number = re.search(rf"(?<={part}\.)\d+", name, re.ASCII)
        if number and len(number[0]) < 6:
            same = same.replace(f"{part}.{first}.", f"{part}.{int(number[0])}.")
    return same if axes_read(same, config) is not None else None


# -- what others call them: both are cut into words, and words that mean the same become one

WORDS = {"w": "weight", "g": "weight", "gain": "weight", "gamma": "weight", "kernel": "weight", "table": "weight",
         "b": "bias", "beta": "bias", "blocks": "h", "block": "h", "layers": "h", "layer": "h", "attention": "attn",
         "ln": "norm", "layernorm": "norm", "mlp": "ffn", "ff": "ffn", "gradient": "grad", "gradients": "grad", "grads": "grad"}
SKIPPED = {"transformer", "module", "orig", "mod", "self", "model", "params", "parameters", "param", "state", "dict"}
QKV = {"q": ("q", "q proj", "query", "query proj", "w q", "wq", "to q", "c q", "q lin"),
       "k": ("k", "k proj", "key", "key proj", "w k", "wk", "to k", "c k", "k lin"),
       "v": ("v", "v proj", "value", "value proj", "w v", "wv", "to v", "c v", "v lin")}
LAYERS = {"attention.out": ("attn o proj", "attn out proj", "attn proj", "attn wo", "attn o", "attn dense"),
          "ffn.up": ("ffn fc", "ffn fc 1", "ffn up proj", "ffn 0"), "ffn.down": ("ffn proj", "ffn fc 2", "ffn down proj", "ffn 2"),
          "embedding": ("tok emb", "token embedding", "embed tokens", "wte", "embedding"),
          "positions": ("pos emb", "position embedding", "wpe"),
          "head": ("lm head", "unembed")}
BATCH = {"ids": "inputs.ids", "input ids": "inputs.ids", "tokens": "inputs.ids", "idx": "inputs.ids", "targets": "inputs.targets",
         "labels": "inputs.targets", "inputs": "inputs.ids"}
NORMS = {"grad norm", "total norm", "clip norm", "global norm", "total grad norm", "global grad norm"}


def words(name: str) -> list[str]:
    """blocks.0.norm1.gain and h.0.ln_1.weight are both h 0 norm 1 weight."""
    found = re.findall(r"[a-z]+|\d+", name.lower(), re.ASCII)
    found = [WORDS.get(word, str(int(word)) if word.isdigit() and len(word) < 9 else word) for word in found]
    return [word for word in found if word not in SKIPPED] if len(found) > 1 else found


@lru_cache(maxsize=8)
def spellings(config: GPTConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Words to the name of a parameter (or of a piece, attention.q.weight), and words to the name of an activation."""
    names, made = {}, {}

    def add(table, key, ours):
        table.setdefault(" ".join(words(key)), ours)

    for ours in params(config):
        layer, what = ours.rsplit(".", 1)
        add(names, ours, ours)
        for kind in ("gpt2", "openai-gpt"):
            try:
                add(names, huggingface.their_name(ours, kind, ""), ours)
            except KeyError:  # what that kind does not have
                continue
        block, inner = (layer.split(".", 2)[:2], layer.split(".", 2)[2]) if layer.startswith("blocks.") else ([], layer)
        for other in LAYERS.get(inner, ()):
            add(names, " ".join((*block, other, what)), ours)
            if what == "table":
                add(names, other, ours)
        if inner == "attention.qkv":
            for piece, others in QKV.items():
                for other in others:
                    for attn in ("attn ", ""):
                        add(names, " ".join((*block, attn + other, what)), f"{'.'.join(block)}.attention.{piece}.{what}")
                        if what == "weight" and attn:
                            add(names, " ".join((*block, attn + other)), f"{'.'.join(block)}.attention.{piece}.weight")
                add(names, " ".join((*block, "attn", "w" + piece if what == "weight" else "b" + piece)),
                    f"{'.'.join(block)}.attention.{piece}.{what}")
    if config.tied:  # a second name of the table, which is then to hold the same
        for other in (huggingface.HEAD, "head.weight", *(f"{one}.weight" for one in LAYERS["head"])):
            add(names, other, "embedding.table")
    for ours in activations(config):
        add(made, ours, ours)
        if ours.startswith("blocks."):
            _, i, inner = ours.split(".", 2)
            theirs = {one.rsplit(".", 1)[0]: other.rsplit(".", 1)[0] for one, other in huggingface.INSIDE.items()}.get(inner)
            if theirs:
                add(made, f"h {i} {theirs}", ours)
    add(made, "ln f", "norm")
    add(made, "lm head", "logits")
    return names, made


def meant(name: str, n_axes: int, config: GPTConfig) -> tuple[str | None, str]:
    """What a tensor of another's is, and the name after it: "grads", "norm.gain" of d_ln_f.

    "bare" is a parameter's name with nothing to tell what of it; None is what means nothing.
    """
    plain = name.replace("/", ".").replace(":", ".")
    if axes_of(plain, config) is not None:
        kind, _, rest = plain.partition(".")
        return kind, rest
    if step := STEP.fullmatch(plain):
        found = f"{step[1]}.{step[3]}.{_param(words(step[4]), config)}" if step[4] else ""
        return ("steps", found) if axes_read(f"steps.{found}", config) is not None else (None, plain)
    found = words(plain)
    if n_axes == 0 and " ".join(found) in NORMS:
        return "clip", "norm"
    hint = None
    if len(found) > 1 and found[0] in ("forward", "backward", "weights", "activations"):
        hint = {"activations": "forward"}.get(found[0], found[0])
        found = found[1:]
    if len(found) > 1 and (found[0] == "d" or "grad" in found):
        found = [word for i, word in enumerate(found) if word != "grad" and (word != "d" or i)]
        hint = "backward" if hint == "forward" else "grads"
    elif len(found) == 1 and found[0] == "dlogits":
        found, hint = ["logits"], "backward"
    key = " ".join(found)
    if hint is None and key in BATCH:
        return "inputs", BATCH[key].partition(".")[2]
    param, made = _param(found, config), spellings(config)[1].get(key)
    if made and (hint in ("forward", "backward") or param is None or n_axes > 2 and hint != "weights"):
        kind = "backward" if hint in ("grads", "backward") else "forward"
        return (kind, made) if axes_of(f"{kind}.{made}", config) is not None else (None, plain)
    if param and hint in (None, "weights", "grads"):
        return hint or "bare", param
    return None, plain


def _param(found: list[str], config: GPTConfig) -> str | None:
    return spellings(config)[0].get(" ".join(found))


def piece_of(name: str, config: GPTConfig) -> tuple[str, str] | None:
    """grads.blocks.0.attention.q.weight is the piece "q" of grads.blocks.0.attention.qkv.weight."""
    found = re.fullmatch(r"(.+\.attention\.)([qkv])(\.(?:weight|bias))", name, re.ASCII)
    if not found or axes_of(f"{found[1]}qkv{found[3]}", config) is None:
        return None
    return f"{found[1]}qkv{found[3]}", found[2]


def axes_read(name: str, config: GPTConfig) -> tuple[str, ...] | None:
    """The axes of a name of a trace or of a piece of one."""
    if piece_of(name, config):
        return ("C", "H D") if name.endswith("weight") else ("H D",)
    return axes_of(name, config)
