"""The catalogue of mistakes: what numgpt.verify.mutants plants, in the plainest form of each.

A mistake is a piece of one function's source and what it becomes. The piece must occur exactly once, so that no
mistake outlives the line it changes. `shows` names the cases (cases.py) whose gradient check must fail.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple


# Where the mistakes of fine-tuning are; those of packing are in what works for segments alone.
PACKING = "layers.attention.CausalAttention._reach", "layers.position._places", "layers.position._by_place"
TUNING = *(f"layers.{name}." for name in ("heads", "logprobs", "preference", "policy", "reward", "lora")), "tuning.", *PACKING


class Edit(NamedTuple):
    where: str  # module.Class.method or module.function, below numgpt
    line: str
    becomes: str


@dataclass(frozen=True)
class Form:
    """One way to make a mistake."""

    slug: str
    story: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Mutant:
    """A mistake, in its plainest form and in others."""

    slug: str
    edits: tuple[Edit, ...]
    story: str
    breaks: tuple[str, str]  # whose docstring derives what is broken, and the piece of it that is
    shows: tuple[str, ...] = ()
    variants: tuple[Form, ...] = ()

    @property
    def kind(self) -> str:
        """Of a GPT's own "gradient", of the "step" that is made with it, or of "tuning": of what stands on a GPT instead."""
        if self.where.startswith(TUNING):
            return "tuning"
        return "step" if self.where.startswith("training.") else "gradient"

    @property
    def where(self) -> str:
        return self.edits[0].where

    @property
    def forms(self) -> tuple[Form, ...]:
        return Form(self.slug, self.story, self.edits), *self.variants


CATALOGUE: dict[str, Mutant] = {}


def add(slug: str, where: str, line: str, becomes: str, story: str, *shows: str, breaks: str | tuple[str, str],
        more: tuple[tuple[str, str, str], ...] = ()) -> None:
    """breaks: in the docstring of the class that is changed, or (in whose, what); more: edits beside the first."""
    derivation = breaks if isinstance(breaks, tuple) else (where.rpartition(".")[0], breaks)
    edits = tuple(Edit(*edit) for edit in ((where, line, becomes), *more))
    CATALOGUE[slug] = Mutant(slug, edits, story, derivation, shows)


def other(slug: str, story: str, *edits: tuple[str, str, str]) -> None:
    """One more form of a mistake; each edit is (where, line, becomes)."""
    form = Form(slug, story, tuple(Edit(*edit) for edit in edits))
    CATALOGUE[slug] = replace(CATALOGUE[slug], variants=(*CATALOGUE[slug].variants, form))


def plain(slug: str) -> tuple[Edit, ...]:
    """The edits of its first form."""
    return CATALOGUE[slug].edits


# -- the loss

_CE = "layers.loss.SoftmaxCrossEntropy"

add("ce-count", "layers.loss.surprise_backward", "dloss / count", "dloss / len(targets)",
    "mean over all rows although targets are ignored", "softmax-cross-entropy",
    breaks=(_CE, "dlogits = dloss * counts * (p - onehot) / count"))
add("ce-no-division", "layers.loss.surprise_backward", "dloss / count", "dloss",
    "sum where the mean is promised", "softmax-cross-entropy",
    breaks=(_CE, "dlogits = dloss * counts * (p - onehot) / count"))
add("ce-sign", "layers.loss.surprise_backward", "dloss / count", "-dloss / count",
    "the sign turned", "softmax-cross-entropy", breaks=(_CE, "(p - onehot)"))
add("ce-ignored-leak", "layers.loss.surprise_backward", "counts = (targets != IGNORE)[:, None]",
    "counts = np.ones((len(targets), 1), bool); targets = np.maximum(targets, 0)",
    "ignored rows keep their gradient", "softmax-cross-entropy", "head-loss", breaks=(_CE, "dloss * counts"))
add("ce-shift", "layers.loss.surprise_backward", "e, total, others = softmaxed",
    "e, total, _ = softmaxed; targets = np.roll(targets, 1); "
    "others = total - np.take_along_axis(e, np.maximum(targets, 0)[:, None], -1)",
    "targets shifted by one", "softmax-cross-entropy",
    breaks=(_CE, "onehot = targets[..., None] == arange(logits.shape[-1])"))
add("ce-no-onehot", "layers.loss.surprise_backward",
    "np.put_along_axis(dlogits, np.where(counts, targets[:, None], 0), -others * share, -1)", "pass",
    "the one-hot is not subtracted", "softmax-cross-entropy", "head-loss", breaks=(_CE, "(p - onehot)"))
add("head-transposed", "layers.loss.HeadLoss.forward", "dlogits @ matrix.T", "dlogits @ matrix.reshape(matrix.shape[::-1])",
    "dhidden through the wrong side of the table", "head-loss", "head-loss-tied", breaks="dx = dloss * dlogits @ weight.T")

# -- LayerNorm

add("ln-no-gain", "layers.norm.LayerNorm.backward", "dxhat = dy_ * gain", "dxhat = dy_",
    "the gain is left out of dxhat", "layernorm", breaks="dxhat = dy * gain")
add("ln-gain-in-dgain", "layers.norm.LayerNorm.backward", "rows(dy_ * xhat_)", "rows(dy_ * xhat_ * gain)",
    "the gain is counted in its own gradient", "layernorm", breaks="dgain = rows(dy * xhat)")
add("ln-dbias-axis", "layers.norm.LayerNorm.backward", "rows(dy_)\n", "dy_.sum()\n",
    "the bias summed over the wrong axes", "layernorm", breaks="dbias = rows(dy)")
add("ln-eps", "layers.norm.LayerNorm.backward", "xhat, rstd = saved",
    "xhat, rstd = saved; rstd = 1 / np.sqrt(1 / (rstd * rstd) - self.eps + 1e-6)",
    "another eps in backward, 1e-6 for 1e-5", "layernorm",
    breaks="rstd = 1 / sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)")
add("ln-no-mean", "layers.norm.LayerNorm.backward", "dxhat - mean(dxhat)", "dxhat",
    "the mean's part is missing", "layernorm", breaks="- dxhat.mean(-1, keepdims=True)")
add("ln-no-xhat", "layers.norm.LayerNorm.backward", "- xhat_ * mean(dxhat * xhat_)", "",
    "the variance's part is missing", "layernorm", breaks="- xhat * (dxhat * xhat).mean(-1, keepdims=True)")
add("ln-sum", "layers.norm.LayerNorm.backward", "mean(dxhat)", "dxhat.sum(-1, keepdims=True)",
    "a sum where the mean belongs", "layernorm", breaks="dxhat.mean(-1, keepdims=True)")
add("ln-ddof", "layers.norm.LayerNorm.backward", "rstd_ * (dxhat", "np.sqrt((gain.size - 1) / gain.size) * rstd_ * (dxhat",
    "n - 1 for n in the variance", "layernorm", breaks="((x - mean) ** 2).mean(-1, keepdims=True)")

# -- Linear and feed-forward

add("w-last-row", "layers.linear.Linear.backward", "flat(x).T, flat(dy)", "flat(x[-1:]).T, flat(dy[-1:])",
    "the weight's gradient from the last row of the batch alone", "linear", breaks="dweight = x.T @ dy")
add("b-mean", "layers.linear.Linear.backward", "rows(dy)", "rows(dy) / len(flat(dy))",
    "the bias averaged, not summed", "linear", breaks="dbias = rows(dy)")
add("ffn-pre-activation", "layers.ffn.FeedForward.backward", "self.down.backward(dy, a)",
    "self.down.backward(dy, h)", "what came before the activation where what came after belongs",
    "feed-forward",
    breaks="from a and dy")
add("gelu-erf", "layers.activation.GELUTanh.fill_slope", "np.add(s, dz, out=slope)", "GELU().fill(x, dz, slope)",
    "the exact GELU's derivative on the tanh form", "gelu-tanh", "feed-forward",
    breaks="slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du")
add("gelu-no-3", "layers.activation.GELUTanh.fill_slope", "3 * 0.044715", "0.044715",
    "the 3 of the cube's derivative lost", "gelu-tanh", breaks="3 * 0.044715 * x * x")
add("gelu-no-x", "layers.activation.GELUTanh.fill_slope", "s, dz", "s, 0",
    "the gate's own derivative missing", "gelu-tanh", breaks="+ 0.5 * x * (1 - t * t) * du")
add("gelu-sech", "layers.activation.GELUTanh.fill_slope", "dz *= xds", "dz *= x * (0.5 * (1 - s))",
    "1 - t for 1 - t * t in the derivative of tanh", "gelu-tanh", breaks="(1 - t * t)")

# -- the block

add("linear-input", "layers.block.PreNormBlock.forward", "n = x + a",
    "n = x + a; saved_attention = (x, *saved_attention[1:])",
    "the residual stream where its norm's output belongs", "pre-norm-block", breaks="n = x + attention(norm1(x))")
add("residual-dropped", "layers.block.PreNormBlock.backward", "dn = dy + ", "dn = ",
    "the skip path's gradient lost", "pre-norm-block", breaks="dn = dy + norm2.backward(ffn.backward(dy))")
add("residual-doubled", "layers.block.PreNormBlock.backward", "dn = dy + ", "dn = 2 * dy + ",
    "the skip path's gradient counted twice", "pre-norm-block", breaks="dn = dy + norm2.backward(ffn.backward(dy))")
add("residual-bypass", "layers.block.PreNormBlock.backward", "dn = dy + self.norm2.backward(dh, saved_norm2)",
    "self.norm2.backward(dh, saved_norm2); dn = dy", "the branch's gradient lost", "pre-norm-block",
    breaks="dn = dy + norm2.backward(ffn.backward(dy))")

# -- attention

_SOFTMAX = "layers.attention.CausalAttention", "dscores = p * (dp - (dp * p).sum(-1, keepdims=True))"

add("proj-transposed", "layers.attention.SelfAttention.backward", "dz = self.out.backward(dy, saved_out)",
    "w = self.out.weight; w.value, own = w.value.reshape(w.shape[::-1]).T, w.value; "
    "dz = self.out.backward(dy, saved_out); w.value = own; dz = dz",
    "the output projection is not transposed", "self-attention", breaks=("layers.linear.Linear", "dx = dy @ weight.T"))
add("dropout-v", "layers.attention.CausalAttention.backward", "p_kept.swapaxes(-1, -2) @ dy_", "saved_p.swapaxes(-1, -2) @ dy_",
    "the values' gradient from the probabilities before dropout", "self-attention-dropout",
    breaks="dv = p.swapaxes(-1, -2) @ dy")
add("dropout-no-scale", "layers.dropout.Dropout.backward", "self._apply(dy, kept)", "dy * kept",
    "1/(1-p) lost in backward", "dropout", "self-attention-dropout", breaks="dx = dy * kept / (1 - p)")
add("dropout-no-mask", "layers.dropout.Dropout.backward", "self._apply(dy, kept)", "dy * (1 / (1 - self.p))",
    "no mask in backward", "dropout", "self-attention-dropout", breaks="dx = dy * kept / (1 - p)")
add("dropout-new-mask", "layers.dropout.Dropout.backward", "self._apply(dy, kept)",
    "self._apply(dy, np.random.default_rng(0).random(dy.shape) >= self.p)", "a fresh mask in backward",
    "dropout", "self-attention-dropout", breaks="dx = dy * kept / (1 - p)")
add("softmax-diagonal", "layers.ops.softmax_backward", "p * (dp - total(dp * p, axis))", "p * (1 - p) * dp",
    "only the diagonal of softmax's Jacobian", "softmax", "attention", "self-attention", breaks=_SOFTMAX)
add("softmax-no-sum", "layers.ops.softmax_backward", "p * (dp - total(dp * p, axis))", "p * dp",
    "the row's sum is not subtracted", "softmax", "attention", "self-attention", breaks=_SOFTMAX)
add("softmax-axis", "layers.ops.softmax_backward", "total(dp * p, axis)", "(dp * p).sum(-2, keepdims=True)",
    "the sum along the wrong axis", "softmax", "attention", "self-attention", breaks=_SOFTMAX)
add("scale-missing", "layers.attention.CausalAttention.backward", "d *= self.scale", "pass",
    "1/sqrt(D) missing in backward", "attention", "self-attention", breaks="dq = scale * dscores @ k")
add("scale-by-width", "layers.attention.CausalAttention.backward", "d *= self.scale",
    "d *= 1 / math.sqrt(q.shape[1] * q.shape[3])", "1/sqrt(C) for 1/sqrt(D)", "attention", "self-attention",
    breaks="dq = scale * dscores @ k")
add("scale-k-only", "layers.attention.CausalAttention.backward", "= dscores @ k[:, :, keys]",
    "= dscores @ k[:, :, keys] / self.scale",
    "the scale on one side only", "attention", "self-attention", breaks="dq = scale * dscores @ k")
add("dk-transposed", "layers.attention.CausalAttention.backward", "dscores.swapaxes(-1, -2) @ q[:, :, queries]",
    "(q[:, :, queries].swapaxes(-1, -2) @ dscores).reshape(dk[:, :, keys].shape)",
    "the keys' gradient transposed, then reshaped", "attention", "self-attention",
    breaks="dk = scale * dscores.swapaxes(-1, -2) @ q")
add("qk-swapped", "layers.attention.CausalAttention.backward", "return dq, dk, dv", "return dk, dq, dv",
    "dq and dk exchanged", "attention", "self-attention", breaks="dq = scale * dscores @ k")
add("heads-merged-wrong", "layers.attention.SelfAttention.backward", ".reshape(B, T, H, D).swapaxes(1, 2)",
    ".reshape(B, H, T, D)",
    "a reshape without the transpose", "self-attention",
    breaks="dz = out.backward(dy).reshape(B, T, H, D).swapaxes(1, 2)")
add("qkv-order", "layers.attention.SelfAttention.backward", "dqkv[:, :, i]", "dqkv[:, :, (i + 1) % 3]",
    "q, k and v in another order", "self-attention",
    breaks="dqkv = stack(attention.backward(dz)).transpose(1, 3, 0, 2, 4)")
add("mask-after-softmax", "layers.softmax.Softmax.forward", "y = ops.softmax(floats(x, \"Softmax\"))",
    "y = ops.softmax(x) * ~self.hidden", "masked after the softmax, so that rows no longer sum to one", "attention", "self-attention",
    breaks=("layers.attention.CausalAttention", "scores = where(seen, scale * (q @ k.swapaxes(-1, -2)), -inf)"),
    more=(("layers.attention.CausalAttention.forward", "np.copyto(scores[..., -hidden.shape[-1]:], -np.inf, where=hidden)",
           "self.softmax.hidden = hidden"),
          ("layers.attention.CausalAttention._tiles", "before + queries.start if self.window == math.inf else keys.start",
           "keys.start")))
add("mask-off-by-one", "layers.attention.CausalAttention._tiles", "hidden = (ahead > 0)", "hidden = (ahead > 1)",
    "sees one token ahead: its gradient is right, its causality is not",
    breaks="seen = (ahead <= 0) & (ahead > -window)")
add("mask-finite", "layers.attention.CausalAttention.forward", "-np.inf, where=", "-1e4, where=",
    "a mask of -1e4, which leaks through large scores",
    breaks="scores = where(seen, scale * (q @ k.swapaxes(-1, -2)), -inf)",
    more=(("layers.attention.CausalAttention.look", "np.copyto(scores, -np.inf,", "np.copyto(scores, -1e4,"),))

# -- tables

_TABLE = 'dtable = einsum("btv,btc->vc", onehot, dy)'

add("emb-duplicates", "layers.embedding.Embedding.backward",
    "self.table.grad[tokens] += np.add.reduceat(flat(dy)[order], first, axis=0)", "self.table.grad[ids] += dy",
    "a repeated id gets the last of its gradients", "embedding", breaks=_TABLE)
add("emb-assign", "layers.embedding.Embedding.backward",
    "self.table.grad[tokens] += np.add.reduceat(flat(dy)[order], first, axis=0)", "self.table.grad[ids] = dy",
    "set, not added", "embedding", breaks=_TABLE)
add("tie-head-only", "layers.embedding.Embedding.backward",
    "self.table.grad[tokens] += np.add.reduceat(flat(dy)[order], first, axis=0)", "pass",
    "the embedding's part of a tied table lost", "embedding", breaks=_TABLE)
add("tie-emb-only", "layers.loss.HeadLoss.backward", "grad += dloss * dweight_", "pass",
    "the head's part of a tied table lost", "head-loss-tied", breaks="dweight = dloss * x.T @ dlogits",
    more=(("layers.loss.HeadLoss.backward", "dloss * x_", "0 * x_"),))
add("tie-doubled", "layers.loss.HeadLoss.backward", "grad += dloss * dweight_", "grad += 2 * dloss * dweight_",
    "the head's part of a tied table counted twice", "head-loss-tied", breaks="dweight = dloss * x.T @ dlogits",
    more=(("layers.loss.HeadLoss.backward", "dloss * x_", "2 * dloss * x_"),))
add("pos-mean", "layers.position.LearnedPositions.backward", "dy.sum(", "dy.mean(",
    "the mean over the batch for its sum", "learned-positions", breaks="dtable[:x.shape[-2]] = dy.sum(0)")

# -- the step

add("accum-overwrite", "training.shards._gradient", "model.backward(saved, ",
    "for param in model.params():\n            param.grad[...] = 0\n        model.backward(saved, ",
    "the gradient of the last microbatch alone", breaks=("training.shards.Shards", "grads = sum(gradient of piece)"))
add("accum-mean-of-means", "training.shards.Shards.split", "for array in batch), count,",
    "for array in batch), max(1, self.model.count(*(array[cut] for array in batch))) * min(self.pieces, len(rows)) * min(self.n, len(batch[0])),",
    "the mean of the microbatches' means, however unequal their counts",
    breaks="each of them a sum over its targets, divided by the whole batch's count")
add("clip-per-tensor", "training.optim.Optimizer.step", "self.n_steps += 1",
    "self.n_steps += 1\n    longest = scale * (self.norm() + 1e-6) if scale < 1 else math.inf\n    "
    "factors = [clip(float(np.linalg.norm(p.grad)), longest) for p in self.params]\n    "
    "scales = np.repeat(np.array(factors, self.grads.dtype), [p.size for p in self.params])",
    "each tensor is clipped by a norm of its own", breaks=("training.optim.clip",
    "g = min(1, longest / (norm + 1e-6)) * g"),
    more=(("training.optim.Optimizer.step", "self.grads[part], scale, lr", "self.grads[part], scales[part], lr"),))
add("clip-no-square-root", "training.optim.Optimizer.norm", "return math.sqrt(sum(squares))", "return sum(squares)",
    "clipped by the norm's square", breaks=("training.optim.Optimizer.norm", "norm = sqrt((grads * grads).sum())"))
add("adam-l2", "training.optim.Optimizer.step", "self._move(part, self.grads[part], scale, lr)",
    "g = scale * self.grads[part]\n        for span in matrices:\n            g[span.start - part.start:span.stop - part.start] += "
    "self.weight_decay * self.values[span]\n        self._move(part, g, 1, lr)",
    "the decay is added to the gradient, and goes through the moments",
    breaks=("training.optim.AdamW", "w = (1 - lr * weight_decay) * w"),
    more=(("training.optim.Optimizer.step", "shrink = 1 - lr * self.weight_decay", "shrink = 1"),))
add("adam-decay-lr-squared", "training.optim.Optimizer.step", "1 - lr * self.weight_decay",
    "1 - lr * lr * self.weight_decay",
    "the learning rate is in the decay twice", breaks=("training.optim.AdamW", "w = (1 - lr * weight_decay) * w"))
add("adam-t-plus-one", "training.optim.AdamW._move", "self.betas, self.n_steps", "self.betas, self.n_steps + 1",
    "steps counted from 2 in the corrections: the first is 0.744 of what it should be", breaks="after t steps")
add("adam-no-correction", "training.optim.AdamW._move", "self.betas, self.n_steps", "self.betas, math.inf",
    "no corrections for moments that start at 0: the first step is 3.16 times too long", breaks="mhat = m / (1 - b1 ** t)")
add("adam-eps-inside-root", "training.optim.AdamW._move", "np.sqrt(v, out=a)\n    a += self.eps * correction",
    "np.sqrt(v / (1 - b2 ** t) + self.eps, out=a)\n    a *= correction", "eps inside the root, which shows where gradients are tiny",
    breaks="(sqrt(vhat) + eps)")
add("adam-decay-vectors", "training.optim.Optimizer.step", "for matrix in matrices:", "for matrix in [part]:",
    "gains and biases decayed too", breaks=("training.optim.AdamW", "matrices and tables only"))
