"""torch and jax as the other side of a comparison: their operators under the same names, gradients by themselves,
and a whole GPT in plain operators. They are imported in functions, so that everything else runs without them.
"""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np

from numgpt.verify import mutants

# -- the operators of a framework


def torch_operators():
    import torch
    from torch.nn import functional as F

    def attend(q, k, v, seen, scale, kept=None):
        seen = torch.from_numpy(seen)
        if kept is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
        scores = (scale * (q @ k.mT)).masked_fill(~seen, -torch.inf)
        return (scores.softmax(-1) * constant(kept, q)) @ v  # torch's own operator would draw its own mask

    def constant(a, like):
        return torch.from_numpy(a).to(like.dtype)

    def cross_entropy(logits, targets):
        logits, targets = logits.flatten(0, -2), torch.from_numpy(targets).flatten()
        return F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")

    return SimpleNamespace(
        attend=attend, constant=constant, cross_entropy=cross_entropy,
        linear=lambda x, w, b: F.linear(x, w.T, b),
        embedding=lambda ids, table: F.embedding(torch.from_numpy(ids), table),
        layer_norm=lambda x, gain, bias, eps: F.layer_norm(x, gain.shape, gain, bias, eps),
        gelu=F.gelu, gelu_tanh=partial(F.gelu, approximate="tanh"), quick_gelu=lambda x: x * torch.sigmoid(1.702 * x),
        relu=F.relu, silu=F.silu,
        softmax=partial(torch.softmax, dim=-1), log_softmax=partial(torch.log_softmax, dim=-1),
        logsumexp=partial(torch.logsumexp, dim=-1), softplus=lambda x: -F.logsigmoid(-x), erf=torch.erf, erfc=torch.erfc,
        exp=torch.exp, minimum=torch.minimum, maximum=torch.maximum, clip=torch.clamp)


def jax_operators():
    import jax
    import jax.numpy as jnp

    def attend(q, k, v, seen, scale, kept=None):
        p = jax.nn.softmax(jnp.where(seen, scale * (q @ k.mT), -jnp.inf))
        return (p if kept is None else p * kept) @ v

    def cross_entropy(logits, targets):
        surprise = -jnp.take_along_axis(jax.nn.log_softmax(logits), np.maximum(targets, 0)[..., None], -1)[..., 0]
        return jnp.where(targets == -100, 0, surprise).sum()

    def layer_norm(x, gain, bias, eps):
        # jax.nn.standardize takes the variance in one pass: at a mean of 100 that costs four digits.
        y = gain * (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)
        return y if bias is None else y + bias

    return SimpleNamespace(
        attend=attend, cross_entropy=cross_entropy, layer_norm=layer_norm,
        constant=lambda a, like: jnp.asarray(a, like.dtype),
        linear=lambda x, w, b: x @ w if b is None else x @ w + b,
        embedding=lambda ids, table: jnp.take(table, ids, axis=0),
        gelu=partial(jax.nn.gelu, approximate=False), gelu_tanh=partial(jax.nn.gelu, approximate=True),
        quick_gelu=lambda x: x * jax.nn.sigmoid(1.702 * x), relu=jax.nn.relu, silu=jax.nn.silu,
        softmax=jax.nn.softmax, log_softmax=jax.nn.log_softmax,
        logsumexp=partial(jax.nn.logsumexp, axis=-1), softplus=jax.nn.softplus, erf=jax.lax.erf, erfc=jax.lax.erfc,
        exp=jnp.exp, minimum=jnp.minimum, maximum=jnp.maximum, clip=jnp.clip)


# -- outputs and gradients of function(operators, values), which returns a tuple; dys are the gradients by its items


def torch_vjp(function, values, dys, dtype=np.float64):
    import torch
    leaves = {name: torch.tensor(a.astype(dtype), requires_grad=True) for name, a in values.items()}
    outputs = function(torch_operators(), leaves)
    dys = [torch.from_numpy(np.asarray(dy).astype(dtype)) for dy in dys]
    grads = torch.autograd.grad(outputs, list(leaves.values()), dys)
    return [y.detach().numpy() for y in outputs], {name: g.numpy() for name, g in zip(leaves, grads)}


def jax_vjp(function, values, dys):
    import jax
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)  # without it, float64 silently becomes float32
    try:
        outputs, pull = jax.vjp(partial(function, jax_operators()), values)
        return [np.asarray(y) for y in outputs], {name: np.asarray(g) for name, g in pull(tuple(dys))[0].items()}
    finally:
        jax.config.update("jax_enable_x64", before)


VJP = {"torch": torch_vjp, "jax": jax_vjp}


# -- a GPT in plain operators, from its papers: nothing here calls numgpt


def waves(T, C):
    """Sine on even channels and cosine on odd ones, the two of a pair equally slow."""
    return np.array([[(math.sin, math.cos)[c % 2](t / 10000 ** ((c - c % 2) / C)) for c in range(C)] for t in range(T)])


def band(T, window):
    """What each of T positions sees: itself and those before it, so many in all."""
    return np.array([[0 <= t - s < (window or T) for s in range(T)] for t in range(T)])


def gpt(f, config, params, ids, targets):
    """Logits and loss; params has the weights by numgpt's names, config is a numgpt.GPTConfig, read for its fields."""
    c, (B, T) = config, ids.shape
    H, D = c.n_head, c.head_size or c.n_embd // c.n_head

    def linear(name, x):
        return f.linear(x, params[f"{name}.weight"], params.get(f"{name}.bias"))

    def norm(name, x):
        return f.layer_norm(x, params[f"{name}.gain"], params.get(f"{name}.bias"), c.norm_eps)

    def attention(i, x):
        qkv = linear(f"blocks.{i}.attention.qkv", x)
        q, k, v = (qkv[..., j * H * D:(j + 1) * H * D].reshape(B, T, H, D).swapaxes(1, 2) for j in range(3))
        scale = (D ** -0.5 if c.scale_attn else 1.0) / (i + 1 if c.scale_attn_by_layer else 1)
        z = f.attend(q, k, v, band(T, c.window if i % 2 == 1 else None), scale)
        return linear(f"blocks.{i}.attention.out", z.swapaxes(1, 2).reshape(B, T, H * D))

    def ffn(i, x):
        return linear(f"blocks.{i}.ffn.down", getattr(f, c.activation)(linear(f"blocks.{i}.ffn.up", x)))

    x = f.embedding(ids, params["embedding.table"])
    x = x + (params["positions.table"][:T] if c.positions == "learned" else f.constant(waves(T, c.n_embd), x))
    for i in range(c.n_layer):
        if c.norm == "pre":
            x = x + attention(i, norm(f"blocks.{i}.norm1", x))
            x = x + ffn(i, norm(f"blocks.{i}.norm2", x))
        else:
            x = norm(f"blocks.{i}.norm1", x + attention(i, x))
            x = norm(f"blocks.{i}.norm2", x + ffn(i, x))
    if c.norm == "pre":
        x = norm("norm", x)
    logits = f.linear(x, params["embedding.table"].T if c.tied else params["head.weight"], params.get("head.bias"))
    return logits, f.cross_entropy(logits, targets) / (targets != -100).sum().item()


def gpt_and_gradients(framework, config, values, ids, targets):
    """Logits, loss and the loss's gradient by each weight, by name, in float64."""
    dys = np.zeros((*ids.shape, config.n_vocab)), np.float64(1)
    (logits, loss), grads = VJP[framework](lambda f, p: gpt(f, config, p, ids, targets), values, dys)
    return {"logits": logits, "loss": loss, **grads}


# -- numgpt's side, and how far apart the two are


def of_numgpt(model, ids, targets):
    """Logits, loss and the loss's gradient by each parameter, by name."""
    model.zero_grad()
    loss, saved = model.forward(ids, targets)
    model.backward(saved)
    return {"logits": model.logits(ids), "loss": loss, **{name: param.grad for name, param in model.named_params()}}


def mistakes_of_models():
    """The planted mistakes that show in a whole model's gradients: no dropout without rng, and no score of ten thousand."""
    return [slug for slug in mutants.names("gradient") if not slug.startswith("dropout-") and slug != "mask-finite"]


def errors(found, truth):
    """Each tensor's largest difference, as a part of its largest element. Element by element would judge the
    digits of what is almost 0."""
    assert {name: array.shape for name, array in found.items()} == {name: array.shape for name, array in truth.items()}
    assert all(array.dtype == np.float64 for array in truth.values())
    return {name: np.abs(found[name] - truth[name]).max() / np.abs(truth[name]).max() for name in truth}


def beyond(tolerance, found):
    return {name: error for name, error in found.items() if not error <= tolerance}  # not <=: nan is beyond too
