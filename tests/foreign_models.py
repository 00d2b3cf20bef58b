"""GPTs as people write them in torch and JAX, with the weights of one of numgpt's: each in another manner."""

import math
import re

import numpy as np

from numgpt.formats.huggingface import their_name
from numgpt.verify.names import renamed


def fill(module, values):
    """Put numgpt's weights into a torch module; values: its name of a parameter -> the array, as the module has it."""
    import torch
    params = dict(module.named_parameters())
    assert params.keys() == values.keys(), params.keys() ^ values.keys()
    for name, value in values.items():
        assert params[name].shape == value.shape, name
        params[name].data = torch.from_numpy(np.array(value))
    return module


def nano(model, dropout=0.0, flash=False):
    """In nanoGPT's manner: Linear alone, a norm of its own, a tied head declared after the table, and logits of the last
    position only where no targets are given."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    c = model.config

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(c.n_embd)), nn.Parameter(torch.zeros(c.n_embd))

        def forward(self, x):
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, c.norm_eps)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(c.n_embd, 3 * c.n_embd), nn.Linear(c.n_embd, c.n_embd)
            self.attn_dropout, self.resid_dropout, self.n_head = nn.Dropout(dropout), nn.Dropout(dropout), c.n_head

        def forward(self, x):
            B, T, C = x.shape
            q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
            if flash:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                scores = (q @ k.mT / math.sqrt(k.shape[-1])).masked_fill(torch.ones(T, T).triu(1) == 1, -torch.inf)
                y = self.attn_dropout(scores.softmax(-1)) @ v
            return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_fc, self.c_proj = nn.Linear(c.n_embd, c.hidden_dim), nn.Linear(c.hidden_dim, c.n_embd)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.attn, self.ln_2, self.mlp = Norm(), Attention(), Norm(), MLP()

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class NanoGPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.ModuleDict(dict(
                wte=nn.Embedding(c.n_vocab, c.n_embd), wpe=nn.Embedding(c.n_ctx, c.n_embd), drop=nn.Dropout(dropout),
                h=nn.ModuleList([Block() for _ in range(c.n_layer)]), ln_f=Norm()))
            self.lm_head = nn.Linear(c.n_embd, c.n_vocab, bias=False)
            self.transformer.wte.weight = self.lm_head.weight

        def forward(self, idx, targets=None):
            t = self.transformer
            x = t.drop(t.wte(idx) + t.wpe(torch.arange(idx.shape[1])))
            for block in t.h:
                x = block(x)
            x = t.ln_f(x)
            if targets is None:
                return self.lm_head(x[:, [-1], :]), None
            logits = self.lm_head(x)
            return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    values = {name: param.value.T if name.endswith("weight") else param.value for name, param in model.named_params()}
    return fill(NanoGPT(), {their_name(name, "gpt2"): value for name, value in values.items()})


def first_mingpt(model):
    """In the manner of minGPT's first version: three projections, a Sequential for ffn, positions as a parameter."""
    import torch
    from torch import nn
    c = model.config

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.key, self.query, self.value, self.proj = (nn.Linear(c.n_embd, c.n_embd) for _ in range(4))
            self.attn_drop, self.resid_drop, self.n_head = nn.Dropout(0.1), nn.Dropout(0.1), c.n_head

        def forward(self, x):
            B, T, C = x.shape
            k, q, v = (one(x).view(B, T, self.n_head, -1).transpose(1, 2) for one in (self.key, self.query, self.value))
            scores = (q @ k.mT / math.sqrt(k.shape[-1])).masked_fill(torch.ones(T, T).triu(1) == 1, -torch.inf)
            y = self.attn_drop(scores.softmax(-1)) @ v
            return self.resid_drop(self.proj(y.transpose(1, 2).reshape(B, T, C)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2, self.attn = nn.LayerNorm(c.n_embd), nn.LayerNorm(c.n_embd), Attention()
            self.mlp = nn.Sequential(nn.Linear(c.n_embd, c.hidden_dim), nn.GELU(),
                                     nn.Linear(c.hidden_dim, c.n_embd), nn.Dropout(0.1))

        def forward(self, x):
            x = x + self.attn(self.ln1(x))
            return x + self.mlp(self.ln2(x))

    class FirstMinGPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tok_emb, self.drop = nn.Embedding(c.n_vocab, c.n_embd), nn.Dropout(0.1)
            self.pos_emb = nn.Parameter(torch.zeros(1, c.n_ctx, c.n_embd))
            self.blocks, self.ln_f = nn.Sequential(*(Block() for _ in range(c.n_layer))), nn.LayerNorm(c.n_embd)
            self.head = nn.Linear(c.n_embd, c.n_vocab, bias=False)

        def forward(self, idx, targets=None):
            x = self.drop(self.tok_emb(idx) + self.pos_emb[:, :idx.shape[1], :])
            return self.head(self.ln_f(self.blocks(x))), None

    ours, values = {name: param.value for name, param in model.named_params()}, {}
    parts = {"ln1": "norm1", "ln2": "norm2", "mlp.0": "ffn.up", "mlp.2": "ffn.down", "attn.proj": "attention.out",
             "attn.query": "attention.q", "attn.key": "attention.k", "attn.value": "attention.v"}
    for theirs, part in parts.items():
        for i in range(c.n_layer):
            weight = "gain" if theirs.startswith("ln") else "weight.T"
            values[f"blocks.{i}.{theirs}.weight"] = value_of(f"blocks.{i}.{part}.{weight}", ours)
            values[f"blocks.{i}.{theirs}.bias"] = value_of(f"blocks.{i}.{part}.bias", ours)
    return fill(FirstMinGPT(), values | {
        "tok_emb.weight": ours["embedding.table"], "pos_emb": ours["positions.table"][None],
        "ln_f.weight": ours["norm.gain"], "ln_f.bias": ours["norm.bias"], "head.weight": ours["head.weight"].T})


def plain(model):
    """In a manner of its own: weights as bare parameters for y = W x, three projections, one ReLU for all layers, and
    it, the positions and both residual sums in place. OF_PLAIN has its names; the number of heads stands nowhere.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F
    c, relu = model.config, nn.ReLU(inplace=True)

    class Matrix(nn.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.ones(n_out, n_in)), nn.Parameter(torch.zeros(n_out))

        def forward(self, x):
            return F.linear(x, self.w, self.b)

    class Norm(nn.Module):  # which does not keep its input, so that it may be changed in place
        def __init__(self):
            super().__init__()
            self.g, self.b = nn.Parameter(torch.ones(c.n_embd)), nn.Parameter(torch.zeros(c.n_embd))

        def forward(self, x):
            x = x - x.mean(-1, keepdim=True)
            return self.g * x / ((x * x).mean(-1, keepdim=True) + c.norm_eps).sqrt() + self.b

    class Look(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (Matrix(c.n_embd, c.n_embd) for _ in range(4))
            self.softmax = nn.Softmax(-1)

        def forward(self, x):
            B, T, C = x.shape
            q, k, v = (one(x).view(B, T, c.n_head, -1).transpose(1, 2) for one in (self.q, self.k, self.v))
            scores = (q @ k.mT / math.sqrt(k.shape[-1])).masked_fill(torch.ones(T, T).triu(1) == 1, -torch.inf)
            return self.o((self.softmax(scores) @ v).transpose(1, 2).reshape(B, T, C)), scores.shape

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.pre, self.look, self.post = Norm(), Look(), Norm()
            self.wide, self.bend, self.narrow = Matrix(c.n_embd, c.hidden_dim), relu, Matrix(c.hidden_dim, c.n_embd)

        def forward(self, x):
            x += self.look(x=self.pre(x))[0]
            x += self.narrow(self.bend(self.wide(self.post(x))))
            return x,

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1, c.n_ctx, c.n_embd))
            self.words, self.last = nn.Embedding(c.n_vocab, c.n_embd), Norm()
            self.layers = nn.ModuleList([Layer() for _ in range(c.n_layer)])

        def forward(self, ids):
            x = self.words(ids)
            x += self.place[:, :ids.shape[1]]
            for layer in self.layers:
                x, = layer(x)
            return {"hidden": x.shape, "logits": self.last(x) @ self.words.weight.T}

    ours, values = {name: param.value for name, param in model.named_params()}, {}
    for name, _ in (module := Plain()).named_parameters():
        found = renamed(name, OF_PLAIN)
        if found is None:  # a norm's, which follow their module
            layer, kind = name.rpartition(".")[::2]
            found = renamed(layer, OF_PLAIN) + {"g": ".gain", "b": ".bias"}[kind]
        values[name] = value_of(found, ours)
    values["place"] = values["place"][None]
    return fill(module, values)


def value_of(name, ours):
    """numgpt's value of a parameter, turned if its name ends in .T; those of q, k and v are parts of one."""
    array = ours[re.sub(r"attention\.[qkv]\.", "attention.qkv.", name.removesuffix(".T"))]
    part = re.search(r"attention\.([qkv])\.", name)
    if part:
        array = np.split(array, 3, axis=-1)["qkv".index(part[1])]
    return array.T if name.endswith(".T") else array


OF_PLAIN = {"words": "embedding", "words.weight": "embedding.table", "place": "positions.table", "last": "norm",
            **{f"layers.*.{theirs}": f"blocks.*.{ours}" for theirs, ours in (
                ("pre", "norm1"), ("post", "norm2"), ("look.softmax", "attention.probabilities"),
                ("bend", "ffn.activation"))},
            **{f"layers.*.{theirs}{b}": f"blocks.*.{ours}{bias}" for theirs, ours in (
                ("look.q", "attention.q"), ("look.k", "attention.k"), ("look.v", "attention.v"), ("look.o", "attention.out"),
                ("wide", "ffn.up"), ("narrow", "ffn.down")) for b, bias in (("", ""), (".w", ".weight.T"), (".b", ".bias"))}}


def in_jax(config):
    """function(params, ids, see) for parameters by numgpt's names, flat or in dicts and lists."""
    import jax
    import jax.numpy as jnp
    c = config

    def norm(p, x):
        x = x - x.mean(-1, keepdims=True)
        return p["gain"] * x / jnp.sqrt((x * x).mean(-1, keepdims=True) + c.norm_eps) + p["bias"]

    def linear(p, x):
        return x @ p["weight"] + p["bias"]

    def function(params, ids, see=lambda name, x: x):
        B, T = ids.shape
        x = see("embedding", params["embedding"]["table"][ids])
        x = see("positions", x + params["positions"]["table"][:T])
        for i, p in enumerate(params["blocks"]):
            def look(part, x):
                return see(f"blocks.{i}.{part}", x)
            qkv = look("attention.qkv", linear(p["attention"]["qkv"], look("norm1", norm(p["norm1"], x))))
            q, k, v = qkv.reshape(B, T, 3, c.n_head, -1).transpose(2, 0, 3, 1, 4)
            scores = look("attention.scores", jnp.where(jnp.tri(T, dtype=bool), q @ k.mT / math.sqrt(q.shape[-1]), -jnp.inf))
            y = look("attention.probabilities", jax.nn.softmax(scores)) @ v
            y = look("attention.mixed", y.swapaxes(1, 2).reshape(B, T, -1))
            x = look("sum1", x + look("attention.out", linear(p["attention"]["out"], y)))
            h = look("ffn.up", linear(p["ffn"]["up"], look("norm2", norm(p["norm2"], x))))
            h = look("ffn.activation", jax.nn.gelu(h, approximate=True))
            x = look("sum2", x + look("ffn.down", linear(p["ffn"]["down"], h)))
        return see("norm", norm(params["norm"], x)) @ params["embedding"]["table"].T
    return function


def nested(flat):
    """{"blocks.0.norm1.gain": a} -> {"blocks": [{"norm1": {"gain": a}}]}."""
    tree = {}
    for name, array in flat.items():
        inside, (*way, last) = tree, name.split(".")
        for step in way:
            inside = inside.setdefault(step, {})
        inside[last] = array
    tree["blocks"] = [tree["blocks"][str(i)] for i in range(len(tree["blocks"]))]
    return tree
