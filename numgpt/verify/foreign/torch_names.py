"""Which modules and parameters of a torch model have names of ours: those we know, and those a caller gives."""

import re
from dataclasses import dataclass, field

from numgpt.verify.foreign import THEIR_PARAMETERS, checked
from numgpt.verify.names import TENSORS, is_ours, listed, renamed, targets_of

# Modules of transformers' GPT-2 and GPT-1, of nanoGPT and of both versions of minGPT, and what may stand before them all.
KNOWN = {"wte": "embedding", "tokens_embed": "embedding", "tok_emb": "embedding",
         "wpe": "positions", "positions_embed": "positions", "pos_emb": "positions",
         "drop": "dropout", "ln_f": "norm", "lm_head": "head", "head": "head",
         **{f"{blocks}.*.{theirs}": f"blocks.*.{ours}" for blocks in ("h", "blocks") for theirs, ours in {
             "ln_1": "norm1", "ln1": "norm1", "ln_2": "norm2", "ln2": "norm2",
             "attn": "attention", "attn.c_attn": "attention.qkv",
             "attn.c_proj": "attention.out", "attn.proj": "attention.out",
             "attn.query": "attention.q", "attn.key": "attention.k", "attn.value": "attention.v",
             "attn.attn_dropout": "attention.kept", "attn.attn_drop": "attention.kept",
             "attn.resid_dropout": "attention.dropped", "attn.resid_drop": "attention.dropped",
             "mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down", "mlp.dropout": "ffn.dropped",
             "mlp.0": "ffn.up", "mlp.2": "ffn.down", "mlp.3": "ffn.dropped"}.items()}}
PREFIX = re.compile(r"((transformer|model|module)\.)+")
# What else a module may be called: it has parameters, or several outputs, but puts out no tensor of that name.
MODULES = ("head", "blocks.*.attention")
TABLES = ("embedding", "positions")
MAIN, SHIFT = ("weight", "w", "W", "gamma", "scale", "gain", "g", "table"), ("bias", "b", "beta", "shift")
HEADS = ("n_head", "num_heads", "n_heads", "num_attention_heads", "nhead", "heads")


@dataclass
class Named:
    """Which modules and parameters have names of ours."""

    layers: dict = field(default_factory=dict)    # module: its names, more than one if it stands in several places
    explicit: dict = field(default_factory=dict)  # module: its own name, if the caller spoke of it
    params: dict = field(default_factory=dict)    # our name: the parameter, and whether it is turned
    heads: dict = field(default_factory=dict)     # "blocks.i.attention": its number of heads, where the module says it


def named_in(module, names, linear) -> Named:
    """What the caller names, and what is left of the names that we know; linear: the class whose weights are (out, in)."""
    modules = {name: one for name, one in module.named_modules(remove_duplicate=False) if name}
    theirs = dict(module.named_parameters(remove_duplicate=False))
    given = targets_of({**modules, **theirs}, names, f"a module or parameter of {type(module).__name__}")
    found = dict(given)
    for name in (*modules, *theirs):
        bare = name[PREFIX.match(name).end():] if PREFIX.match(name) else name
        if name not in given and (ours := renamed(bare, KNOWN)) and ours not in given.values():
            found[name] = ours
    if not found:
        raise ValueError(f"no module of {type(module).__name__} has a name that is known: say names={{their name: ours}}, "
                         f"theirs being {listed([*modules, *theirs])}")
    out, whose = Named(), {}
    for name, ours in sorted(found.items(), key=lambda item: item[0] in modules):  # what is said of a parameter goes first
        if name in given:
            checked(ours, TENSORS + MODULES if name in modules else THEIR_PARAMETERS + TABLES)
        if name not in modules:
            owner = modules.get(name.rpartition(".")[0], module)
            ours = f"{ours}.table" if ours in TABLES else ours
            _add(out.params, ours, theirs[name], isinstance(owner, linear))
            continue
        if whose.setdefault(ours, name) != name:
            if name in given:
                raise ValueError(f"{whose[ours]!r} and {name!r} cannot both be {ours!r}")
            continue
        out.layers.setdefault(modules[name], []).append(ours)
        if name in given:
            out.explicit[modules[name]] = name
        for inside, param in modules[name].named_parameters(recurse=False):
            if inside in MAIN or inside in SHIFT:
                _add(out.params, _parameter(ours, inside in SHIFT), param, isinstance(modules[name], linear))
        if ".attention." in ours and (n_head := _heads(module, modules, name)):
            out.heads.setdefault(ours[:ours.rindex(".")], n_head)
    # Tied weights are one parameter, which has one name: the table's before the head's.
    once = {}
    for ours, (param, turned) in sorted(out.params.items(), key=lambda item: item[0].startswith("head.")):
        once.setdefault(id(param), (ours, param, turned))
    out.params = {ours: (param, turned) for ours, param, turned in once.values()}
    return out


def _add(params: dict, ours: str, param, of_linear: bool) -> None:
    turned = ours.endswith(".weight.T") or of_linear and ours.endswith(".weight")
    ours = ours.removesuffix(".T")
    if is_ours(ours, THEIR_PARAMETERS) and params.setdefault(ours, (param, turned))[0] is not param:
        raise ValueError(f"two parameters cannot both be {ours!r}, "
                         f"one of shape {tuple(params[ours][0].shape)} and one of {tuple(param.shape)}")


def _parameter(layer: str, shift: bool) -> str:
    layer, last = "head" if layer == "logits" else layer, layer.rpartition(".")[2]
    return f"{layer}." + ("bias" if shift else "gain" if last.startswith("norm") else
                          "table" if last in TABLES else "weight")


def _heads(module, modules: dict, name: str) -> int | None:
    """The number of heads that the nearest module around the named one speaks of, or its config."""
    while name:
        name = name.rpartition(".")[0]
        one = modules.get(name, module)
        for holder in (one, getattr(one, "config", None)):
            for attribute in HEADS:
                if type(n := getattr(holder, attribute, None)) is int:
                    return n
    return None
