"""A GPT as someone would port it to torch, with a backward written by hand, and the mistakes people make there.

Nothing here knows numgpt: only the names of its trace are the same. torch's tensors serve as arrays, its autograd is
not used.

    trace = run(weights, ids, targets, settings)                             arrays by name: forward.*, backward.*, grads.*
    trace = run(weights, ids, targets, settings, mistake="ln-no-xhat")       the same, with a mistake planted
    trace = run(weights, ids, targets, settings, optimizer=dict(steps=3, lr=1e-3))                        and steps.t.*

settings    n_layer, n_head, norm ("pre" or "post"), norm_eps, activation ("gelu_tanh", "gelu" or "relu"), tied,
            dropout_embd, dropout_attn, dropout_resid, and masks: what dropout keeps, by the names of the trace
optimizer   steps, lr, betas, eps, weight_decay, clip (a norm), accumulate (into how many pieces the batch is split)

In the code, wrong(slug) is 0, or which form of that mistake is planted: "softmax-axis:2" is its second form.
"""

import math

import numpy as np
import torch
from torch_port_mistakes import FORMS, MISTAKES, STRANGE, Wrong

__all__ = ["FORMS", "MISTAKES", "STRANGE", "Port", "run"]

IGNORE = -100  # a target that does not count


# -- functions and their slopes


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def gelu_tanh_slope(x, wrong):
    if wrong("gelu-erf"):
        return gelu_slope(x, wrong)
    c, three = math.sqrt(2 / math.pi), 1 if wrong("gelu-no-3") else 3
    t = torch.tanh(c * (x + 0.044715 * x ** 3))
    dt = (1 - t if wrong("gelu-sech") else 1 - t * t) * c * (1 + three * 0.044715 * x * x)
    return 0.5 * (1 + t) + (0 if wrong("gelu-no-x") else 0.5 * x * dt)


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_slope(x, wrong):
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + (0 if wrong("gelu-no-x") else x * density)


ACTIVATIONS = {"gelu_tanh": (gelu_tanh, gelu_tanh_slope), "gelu": (gelu, gelu_slope),
               "relu": (lambda x: x.clamp(min=0), lambda x, wrong: (x > 0).to(x.dtype))}


def flat(x):
    return x.reshape(-1, x.shape[-1])


def rows(x):
    """The sum over all axes but the last."""
    return flat(x).sum(0)


class Port:
    """One forward and backward. f holds what forward made, trace the gradients, by their names.

    over: the targets that the loss is a mean over, where a batch is a piece of a larger one.
    """

    def __init__(self, weights, settings, ids, targets, masks=None, over=None, wrong=None):
        self.w, self.s, self.ids, self.targets = weights, settings, ids, targets
        self.masks = masks or {}
        self.over = targets if over is None else over
        self.wrong = wrong or Wrong()
        self.H = settings["n_head"]
        self.D = weights["blocks.0.attention.qkv.weight"].shape[1] // (3 * self.H)
        self.blocks = [f"blocks.{i}." for i in range(settings["n_layer"])]
        self.pre = settings["norm"] == "pre"
        self.f, self.trace, self.random = {}, {}, torch.Generator().manual_seed(0)

    # -- forward

    def forward(self):
        f, w = self.f, self.w
        f["embedding"] = w["embedding.table"][self.ids]
        f["positions"] = f["embedding"] + w["positions.table"][:self.ids.shape[1]]
        x = self.dropout("dropout", f["positions"])
        for P in self.blocks:
            x = self.block(P, x)
        if self.pre:
            x = f["norm"] = self.norm("norm", x)
        f["logits"] = x @ self.head_matrix()
        if "head.bias" in w:
            f["logits"] = f["logits"] + w["head.bias"]
        f["probabilities"] = f["logits"].softmax(-1)
        counts = self.targets != IGNORE
        surprise = -f["logits"].log_softmax(-1).gather(-1, self.targets.clamp(min=0)[..., None])[..., 0]
        f["loss"] = (surprise * counts).sum() / self.divisor("forward")
        return f

    def block(self, P, x):
        f = self.f
        if self.pre:
            f[P + "norm1"] = self.norm(P + "norm1", x)
            f[P + "sum1"] = x + self.attention(P, f[P + "norm1"])
            f[P + "norm2"] = self.norm(P + "norm2", f[P + "sum1"])
            f[P + "sum2"] = f[P + "sum1"] + self.ffn(P, f[P + "norm2"])
            return f[P + "sum2"]
        f[P + "sum1"] = x + self.attention(P, x)
        f[P + "norm1"] = self.norm(P + "norm1", f[P + "sum1"])
        f[P + "sum2"] = f[P + "norm1"] + self.ffn(P, f[P + "norm1"])
        f[P + "norm2"] = self.norm(P + "norm2", f[P + "sum2"])
        return f[P + "norm2"]

    def attention(self, P, x):
        f, wrong = self.f, self.wrong
        P += "attention."
        f[P + "qkv"] = self.linear(P + "qkv", x)
        q, k, v = (self.split(part) for part in f[P + "qkv"].chunk(3, -1))  # (B, H, T, D)
        f[P + "q"], f[P + "k"], f[P + "v"] = q, k, v
        T = x.shape[1]
        hidden = torch.ones(T, T, dtype=torch.bool).triu(2 if wrong("mask-off-by-one") else 1)
        scale = 1 / math.sqrt(x.shape[-1] if wrong("scale-by-width") == 2 else self.D)
        if wrong("mask-after-softmax"):
            f[P + "scores"] = scale * (q @ k.mT)
            p = f[P + "probabilities"] = f[P + "scores"].softmax(-1) * ~hidden
        else:
            f[P + "scores"] = (scale * (q @ k.mT)).masked_fill(hidden, -math.inf)
            p = f[P + "probabilities"] = f[P + "scores"].softmax(-1)
        z = self.dropout(P + "kept", p) @ v
        f[P + "mixed"] = self.merge(z)
        f[P + "out"] = self.linear(P + "out", f[P + "mixed"])
        return self.dropout(P + "dropped", f[P + "out"])

    def ffn(self, P, x):
        f = self.f
        P += "ffn."
        f[P + "up"] = self.linear(P + "up", x)
        f[P + "activation"] = ACTIVATIONS[self.s["activation"]][0](f[P + "up"])
        f[P + "down"] = self.linear(P + "down", f[P + "activation"])
        return self.dropout(P + "dropped", f[P + "down"])

    def linear(self, name, x):
        y = x @ self.w[name + ".weight"]
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def norm(self, name, x):
        mean, rstd = self.moments(x, correction=self.wrong("ln-ddof") == 3)
        y = self.w[name + ".gain"] * ((x - mean) * rstd)
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def moments(self, x, *, eps=None, correction=0):
        variance = x.var(-1, correction=int(correction), keepdim=True)
        return x.mean(-1, keepdim=True), 1 / (variance + (self.s["norm_eps"] if eps is None else eps)).sqrt()

    def dropout(self, name, x):
        if self.drops(name):
            x = self.f[name] = x * self.masks[name] / (1 - self.p(name))
        return x

    def drops(self, name):
        return self.p(name) > 0 and name in self.masks

    def p(self, name):
        kind = {"dropout": "embd", "kept": "attn", "dropped": "resid"}[name.split(".")[-1]]
        return self.s.get(f"dropout_{kind}", 0)

    def split(self, x):
        """(B, T, H D) -> (B, H, T, D)"""
        return x.reshape(*x.shape[:2], self.H, self.D).transpose(1, 2)

    def merge(self, x):
        """(B, H, T, D) -> (B, T, H D)"""
        return x.transpose(1, 2).flatten(2)

    def head_matrix(self):
        return self.w["embedding.table"].T if self.s["tied"] else self.w["head.weight"]  # (C, V)

    def divisor(self, direction):
        """How many the loss is a mean over."""
        wrong, both = self.wrong, 2  # the second form of these two is made in forward too
        if wrong("ce-count") == both or wrong("ce-count") and direction == "backward":
            return self.over.numel()
        if wrong("ce-no-division") == both or wrong("ce-no-division") and direction == "backward":
            return 1
        return max(1, int((self.over != IGNORE).sum()))

    # -- backward: each method takes the gradient of what its forward returned, and gives that of what it was given

    def backward(self):
        wrong, tied = self.wrong, self.s["tied"]
        dx, dmatrix = self.head_backward()
        if self.pre:
            self.keep("norm", dx)
            dx = self.norm_backward("norm", self.into(len(self.blocks)), dx)
        for i, P in reversed(list(enumerate(self.blocks))):
            dx = self.block_backward(P, self.into(i), dx)
        dx = self.dropout_backward("dropout", dx)
        self.keep("positions", dx)
        dtable = torch.zeros_like(self.w["positions.table"])
        half = (len(dx) + 1) // 2 if wrong("strange-half-batch") else len(dx)
        dtable[:dx.shape[1]] = dx.mean(0) if wrong("pos-mean") else dx[:half].sum(0)
        self.grad("positions.table", dtable)

        self.keep("embedding", dx)
        dtable = torch.zeros_like(self.w["embedding.table"])
        if tied and not wrong("tie-emb-only"):
            dtable += (2 if wrong("tie-doubled") else 1) * dmatrix.T
        if wrong("emb-assign"):
            dtable[self.ids] = dx
        elif wrong("emb-duplicates"):
            dtable[self.ids] += dx  # of a repeated id's rows, torch keeps the last
        elif not (tied and wrong("tie-head-only")):
            dtable.index_add_(0, self.ids.flatten(), flat(dx))
        self.grad("embedding.table", dtable)
        return self.trace

    def into(self, i):
        """What went into block i, or came out of the last."""
        if i == 0:
            return self.f["dropout"] if "dropout" in self.f else self.f["positions"]
        return self.f[self.blocks[i - 1] + ("sum2" if self.pre else "norm2")]

    def head_backward(self):
        f, wrong, targets = self.f, self.wrong, self.targets
        if wrong("ce-shift"):
            targets = targets.flatten().roll(1).view_as(targets) if wrong("ce-shift") == 1 else targets.roll(-1, 1)
        p, counts = f["probabilities"], (targets != IGNORE)[..., None]
        onehot = torch.nn.functional.one_hot(targets.clamp(min=0), p.shape[-1])
        dlogits = p if wrong("ce-no-onehot") else p - onehot
        if wrong("ce-sign"):
            dlogits = onehot - p
        if wrong("ce-ignored-leak") == 2:
            dlogits = p - onehot * counts
        if not wrong("ce-ignored-leak"):
            dlogits = dlogits * counts
        dlogits = dlogits / self.divisor("backward")
        if wrong("strange-dlogits-clipped"):
            dlogits = dlogits.clamp(-0.5 / self.divisor("backward"), 0.5 / self.divisor("backward"))
        self.keep("logits", dlogits)

        x, matrix = f["norm"] if self.pre else self.into(len(self.blocks)), self.head_matrix()
        dmatrix = flat(x).T @ flat(dlogits)
        if not self.s["tied"]:
            self.grad("head.weight", dmatrix)
        if "head.bias" in self.w:
            self.grad("head.bias", rows(dlogits))
        turned = matrix.reshape(matrix.shape[::-1]) if wrong("head-transposed") else matrix.T
        return dlogits @ turned, dmatrix

    def block_backward(self, P, x, dy):
        f, linear_input = self.f, self.wrong("linear-input")
        if self.pre:
            self.keep(P + "sum2", dy)
            dnorm2 = self.ffn_backward(P, f[P + "sum1"] if linear_input in (2, 3) else f[P + "norm2"], dy)
            self.keep(P + "norm2", dnorm2)
            dsum1 = self.join(1, dy, self.norm_backward(P + "norm2", f[P + "sum1"], dnorm2))
            self.keep(P + "sum1", dsum1)
            dnorm1 = self.attention_backward(P, x if linear_input in (1, 3) else f[P + "norm1"], dsum1)
            self.keep(P + "norm1", dnorm1)
            return self.join(2, dsum1, self.norm_backward(P + "norm1", x, dnorm1))
        self.keep(P + "norm2", dy)
        dsum2 = self.norm_backward(P + "norm2", f[P + "sum2"], dy)
        self.keep(P + "sum2", dsum2)
        dnorm1 = self.join(1, dsum2, self.ffn_backward(P, f[P + "sum1"] if linear_input else f[P + "norm1"], dsum2))
        self.keep(P + "norm1", dnorm1)
        dsum1 = self.norm_backward(P + "norm1", f[P + "sum1"], dnorm1)
        self.keep(P + "sum1", dsum1)
        return self.join(2, dsum1, self.attention_backward(P, x, dsum1))

    def join(self, place, dskip, dbranch):
        """y = x + branch(x): its gradient comes by both ways."""
        wrong = self.wrong
        if wrong("residual-dropped") in (place, 3):
            return dbranch
        if wrong("residual-doubled") in (place, 3):
            return dskip + dskip + dbranch
        if wrong("residual-bypass") in (place, 3):
            return dskip
        return (0.99 if wrong("strange-residual-099") else 1) * dskip + dbranch

    def attention_backward(self, P, x, dy):
        f, wrong = self.f, self.wrong
        P += "attention."
        q, k, v, p, scores = (f[P + name] for name in ("q", "k", "v", "probabilities", "scores"))
        dy = self.dropout_backward(P + "dropped", dy)
        self.keep(P + "out", dy)
        dmixed = self.linear_backward(P + "out", f[P + "mixed"], dy)
        if wrong("proj-transposed"):
            dmixed = dy @ self.w[P + "out.weight"].reshape(dy.shape[-1], -1)
        self.keep(P + "mixed", dmixed)
        dz = self.split(dmixed)
        if wrong("heads-merged-wrong") == 1:
            dz = dmixed.reshape(dz.shape)

        # z = kept @ v
        kept = f.get(P + "kept", p)
        if wrong("dropout-v") and self.drops(P + "kept"):
            kept = p if wrong("dropout-v") == 1 else p * self.masks[P + "kept"]
        dv = kept.mT @ dz
        if wrong("strange-head-without-dv"):
            dv[:, -1] = 0
        dp = self.dropout_backward(P + "kept", dz @ v.mT)
        self.keep(P + "probabilities", dp)

        # p = softmax(scores)
        if wrong("mask-after-softmax") == 2:
            dp, p = dp * torch.ones_like(p).tril(), scores.softmax(-1)
        if wrong("strange-temperature"):
            p = (0.9 * scores).softmax(-1)
        across = (dp * p).sum(-1, keepdim=True)
        if wrong("softmax-axis"):
            across = ((dp * p).sum(-2, keepdim=True), across.mT, (dp * p).sum())[wrong("softmax-axis") - 1]
        dscores = p * (dp - across)
        if wrong("softmax-diagonal"):
            dscores = p * (1 - p) * dp
        if wrong("softmax-no-sum"):
            dscores = p * dp
        if wrong("strange-last-query"):
            dscores[:, :, -1] = 0
        self.keep(P + "scores", dscores)

        # scores = scale * q @ k.mT
        scale_q = scale_k = 1 / math.sqrt(x.shape[-1] if wrong("scale-by-width") else self.D)
        if wrong("scale-missing"):
            scale_q = scale_k = 1
        if wrong("scale-k-only"):
            scale_q, scale_k = (1, scale_k) if wrong("scale-k-only") == 1 else (scale_q, 1)
        dq = scale_q * (dscores @ k)
        dk = scale_k * (dscores.mT @ q)
        if wrong("dk-transposed"):
            dk = scale_k * ((q.mT @ dscores).reshape(k.shape) if wrong("dk-transposed") == 1 else dscores @ q)
        if wrong("qk-swapped"):
            dq, dk = (dk, dq) if wrong("qk-swapped") == 1 else (scale_q * (dscores @ q), scale_k * (dscores.mT @ k))
        if wrong("strange-q-11"):
            dk = 1.1 * dk
        for name, d in zip("vkq", (dv, dk, dq)):
            self.keep(P + name, d)

        parts = ((dq, dk, dv), (dv, dq, dk), (dv, dk, dq), (dk, dv, dq))[wrong("qkv-order")]
        merge = (lambda d: d.reshape(dmixed.shape)) if wrong("heads-merged-wrong") == 2 else self.merge
        dqkv = torch.cat([merge(d) for d in parts], -1)
        self.keep(P + "qkv", dqkv)
        return self.linear_backward(P + "qkv", x, dqkv)

    def ffn_backward(self, P, x, dy):
        f, wrong = self.f, self.wrong
        P += "ffn."
        dy = self.dropout_backward(P + "dropped", dy)
        self.keep(P + "down", dy)
        into_down = f[P + "up"] if wrong("ffn-pre-activation") else f[P + "activation"]
        if wrong("strange-down-flipped"):
            into_down = into_down.flip(0, 1)
        dactivation = self.linear_backward(P + "down", into_down, dy)
        self.keep(P + "activation", dactivation)
        slope = ACTIVATIONS[self.s["activation"]][1]
        dup = dactivation * slope((0.9 if wrong("strange-gelu-at-09") else 1) * f[P + "up"], wrong)
        self.keep(P + "up", dup)
        return self.linear_backward(P + "up", x, dup)

    def linear_backward(self, name, x, dy):
        wrong = self.wrong
        dweight = flat(x).T @ flat(dy)
        if wrong("w-last-row") == 1 or name.endswith((".", ".", "up", "qkv")[wrong("w-last-row")]):
            dweight = x[-1].T @ dy[-1]
        if wrong("strange-noise"):
            noise = torch.randn(dweight.shape, generator=self.random, dtype=torch.float64).to(dweight.dtype)
            dweight = dweight + 0.01 * dweight.square().mean().sqrt() * noise
        self.grad(name + ".weight", dweight)
        if name + ".bias" in self.w:
            self.grad(name + ".bias", (rows(dy), flat(dy).mean(0), dy.mean(0).sum(0))[wrong("b-mean")])
        return dy @ self.w[name + ".weight"].T

    def norm_backward(self, name, x, dy):
        wrong, gain, n = self.wrong, self.w[name + ".gain"], x.shape[-1]
        mean, rstd = self.moments(x, correction=wrong("ln-ddof") >= 2)
        other = 1e-6 if self.s["norm_eps"] != 1e-6 else 1e-5
        if wrong("ln-eps") == 2:
            mean, rstd = self.moments(x, eps=other)
        xhat = (x - mean) * rstd
        dgain = rows(dy * xhat)
        if wrong("ln-gain-in-dgain"):
            dgain = rows(dy * gain * xhat)
        self.grad(name + ".gain", dgain * 0.5 if wrong("strange-half-dgain") else dgain)
        if name + ".bias" in self.w:
            self.grad(name + ".bias", (rows(dy), dy.sum().expand(n), dy.reshape(n, -1).sum(1))[wrong("ln-dbias-axis")])

        if wrong("ln-ddof"):
            _, rstd = self.moments(x, correction=1)
        if wrong("ln-eps") == 1:
            _, rstd = self.moments(x, eps=other)
        if wrong("ln-eps") == 3:
            rstd = 1 / (x.std(-1, correction=0, keepdim=True) + self.s["norm_eps"])
        dxhat = dy if wrong("ln-no-gain") else dy * gain
        along_ones, along_xhat = dxhat.mean(-1, keepdim=True), (dxhat * xhat).mean(-1, keepdim=True)
        if wrong("ln-no-mean") or wrong("ln-sum") in (1, 2):
            along_ones = along_ones * (n if wrong("ln-sum") else 0)
        if wrong("ln-no-xhat") or wrong("ln-sum") in (1, 3):
            along_xhat = along_xhat * (n if wrong("ln-sum") else 0)
        dx = rstd * (dxhat - along_ones - xhat * along_xhat)
        return 1.01 * dx if wrong("strange-norm-101") and name == "blocks.0.norm1" else dx

    def dropout_backward(self, name, dy):
        if not self.drops(name):
            return dy
        self.keep(name, dy)
        wrong, mask, scale = self.wrong, self.masks[name], 1 / (1 - self.p(name))
        if wrong("dropout-no-mask"):
            return dy * scale if wrong("dropout-no-mask") == 1 else dy
        if wrong("dropout-new-mask"):
            mask = torch.rand(dy.shape, generator=self.random) >= self.p(name)
        if wrong("dropout-no-scale") == 1 or name.endswith((".", ".", "kept", "dropped")[wrong("dropout-no-scale")]):
            scale = 1
        return dy * mask * scale

    def keep(self, name, d):
        self.trace["backward." + name] = d

    def grad(self, name, g):
        self.trace["grads." + name] = g


# -- the step


def gradients(weights, settings, ids, targets, masks, pieces, wrong):
    """Loss and gradients of a batch, taken in so many pieces."""
    loss, grads = 0, {}
    batches = list(zip(ids.tensor_split(pieces), targets.tensor_split(pieces)))
    cut = {name: mask.tensor_split(pieces) for name, mask in masks.items()}
    for i, (ids_, targets_) in enumerate(batches):
        own = wrong("accum-mean-of-means")
        port = Port(weights, settings, ids_, targets_, {name: parts[i] for name, parts in cut.items()},
                    over=targets_ if own else targets, wrong=wrong)
        share = 1 / pieces if own else 1
        loss = loss + share * port.forward()["loss"]
        trace = port.backward()
        for name in weights:
            g = share * trace["grads." + name]
            grads[name] = g if i == 0 or wrong("accum-overwrite") else grads[name] + g
    return loss, grads


def length(grads, wrong):
    squares = sum(g.square().sum() for g in grads)
    return squares if wrong("clip-no-square-root") else squares.sqrt()


def clipped(grads, norm, most, wrong):
    if most is None:
        return grads
    if wrong("clip-per-tensor") == 2:  # each number, not each tensor
        return {name: g.clamp(-most, most) for name, g in grads.items()}
    norms = {name: g.norm() if wrong("clip-per-tensor") else norm for name, g in grads.items()}
    return {name: g * (most / (norms[name] + 1e-6)).clamp(max=1) for name, g in grads.items()}


def decay_of(w, o, wrong):
    return o.get("weight_decay", 0) if w.ndim >= 2 or wrong("adam-decay-vectors") else 0


def adamw(w, g, m, v, t, o, wrong):
    """One tensor's step: the new w, m, v."""
    (b1, b2), eps, lr = o.get("betas", (0.9, 0.95)), o.get("eps", 1e-8), o["lr"]
    decay = decay_of(w, o, wrong)
    if wrong("adam-l2"):
        g, decay = g + (decay * w if wrong("adam-l2") == 1 else 0), 0
    if wrong("adam-decay-lr-squared"):
        decay = lr * decay
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    t += wrong("adam-t-plus-one")
    mhat, vhat = (m, v) if wrong("adam-no-correction") else (m / (1 - b1 ** t), v / (1 - b2 ** t))
    root = (vhat + eps).sqrt() if wrong("adam-eps-inside-root") else vhat.sqrt() + eps
    return w - lr * decay * w - lr * mhat / root, m, v


def steps(weights, settings, ids, targets, masks, o, wrong):
    trace = {}
    m, v = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    for t in range(1, o["steps"] + 1):
        loss, grads = gradients(weights, settings, ids, targets, masks, o.get("accumulate", 1), wrong)
        trace |= {f"steps.{t}.grads.{name}": g for name, g in grads.items()}
        if wrong("adam-l2") == 2:  # before clipping, so that the decay is clipped with the gradient
            grads = {name: g + decay_of(g, o, wrong) * weights[name] for name, g in grads.items()}
        norm, moved = length(grads.values(), wrong), {}
        for name, g in clipped(grads, norm, o.get("clip"), wrong).items():
            moved[name], m[name], v[name] = adamw(weights[name], g, m[name], v[name], t, o, wrong)
        weights = moved
        trace |= {f"steps.{t}.loss": loss, f"steps.{t}.norm": norm}
        for kind, items in {"m": m, "v": v, "weights": weights}.items():
            trace |= {f"steps.{t}.{kind}.{name}": item for name, item in items.items()}
    return trace


def run(weights, ids, targets, settings, *, optimizer=None, dtype="float64", mistake=None):
    """Everything the trace has a name for but decoding, as NumPy arrays."""
    wrong = Wrong(mistake)
    weights = {name: torch.tensor(np.asarray(w, dtype)) for name, w in weights.items()}
    ids, targets = (torch.tensor(np.asarray(a, np.int64)) for a in (ids, targets))
    masks = {name: torch.tensor(np.asarray(mask, bool)) for name, mask in settings.get("masks", {}).items()}
    port = Port(weights, settings, ids, targets, masks, wrong=wrong)
    trace = {"inputs.ids": ids.int(), "inputs.targets": targets.int()}
    trace |= {f"masks.{name}": mask for name, mask in masks.items() if port.drops(name)}
    trace |= {f"weights.{name}": w for name, w in weights.items()}
    trace |= {f"forward.{name}": y for name, y in port.forward().items()}
    trace |= port.backward()
    trace["clip.norm"] = length((trace["grads." + name] for name in weights), wrong)
    if optimizer:
        trace |= steps(weights, settings, ids, targets, masks, optimizer, wrong)
    return {name: np.array(tensor.numpy(), order="C") for name, tensor in trace.items()}  # no two share memory
