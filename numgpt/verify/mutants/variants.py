"""Other ways to make the mistakes of the catalogue: what somebody else's version of the same mistake may look like.

A form that another mistake makes already, number for number, is left to that one: exchanging q and k in qkv-order, say.
"""

from numgpt.verify.mutants.catalogue import other, plain

LOSS, HEAD = "layers.loss.surprise_backward", "layers.loss.HeadLoss"
NORM, LINEAR = "layers.norm.LayerNorm", "layers.linear.Linear"
FFN, TANH, EXACT = "layers.ffn.FeedForward", "layers.activation.GELUTanh", "layers.activation.GELU"
PRE, POST = "layers.block.PreNormBlock", "layers.block.PostNormBlock"
TABLE = "layers.embedding.Embedding.backward"
OPTIMIZER, ADAMW = "training.optim.Optimizer", "training.optim.AdamW._move"

# -- the loss

COUNTED = "layers.loss.counted", "return max(own, 1)"
other("ce-count", "the loss over all rows too", *plain("ce-count"), (*COUNTED, "return max(targets.size, 1)"))
other("ce-no-division", "the loss a sum too", *plain("ce-no-division"), ("layers.loss.counted", "own = int((targets != IGNORE).sum())", "own = 1"))
CALL = HEAD + ".forward", "self.loss.backward(1.0, saved)"
other("ce-no-division", "divided by the number of texts",
      (*CALL, "self.loss.backward(count / len(targets), saved)"))
other("ce-no-division", "divided by the length of a text",
      (*CALL, "self.loss.backward(count / targets.shape[-1], saved)"))
OF_TEXTS = "np.repeat(np.maximum((targets != IGNORE).sum(-1), 1) * len(targets), targets.shape[-1])[part]"  # the counts whose means' mean this is
other("ce-count", "the mean of each text's own mean",
      (*CALL, f"self.loss.backward(1.0, (*saved[:2], {OF_TEXTS}[:, None]))"),
      (HEAD + ".forward", "loss += loss_", f"loss += (surprise(self.logits(x_), targets_)[0] / {OF_TEXTS}).sum()"))
ONEHOT = "counts * (np.where(counts[:, 0], targets, 0)[:, None] == np.arange(e.shape[-1]))"
PUT = plain("ce-no-onehot")[0].line
other("ce-no-division", "the one-hot subtracted after the division", (LOSS, PUT, f"dlogits -= dloss * {ONEHOT}"))
other("ce-no-onehot", "the one-hot added", (LOSS, PUT, f"dlogits += {ONEHOT} * share * total"))
other("ce-sign", "the loss too", *plain("ce-sign"),
      ("layers.loss.surprise", "nll = np.log1p(rest) - np.take_along_axis(c, index, -1)",
       "nll = np.take_along_axis(c, index, -1) - np.log1p(rest)"))
ZERO, LEFT = (LOSS, "dlogits[~counts[:, 0]] = 0"), "dlogits[~counts[:, 0]] = (dloss / count * {})[~counts[:, 0]]"
other("ce-ignored-leak", "the probabilities, and no one-hot", (*ZERO, LEFT.format("e / total")))
other("ce-ignored-leak", "-100 is counted from the end", (*ZERO, LEFT.format(
    "(e / total - (np.arange(e.shape[-1]) == IGNORE % e.shape[-1]))")))
other("ce-ignored-leak", "the last token for a target", (*ZERO, LEFT.format(
    "(e / total - (np.arange(e.shape[-1]) == e.shape[-1] - 1))")))

# In the gradient alone; flat as (N,), and text by text.
OTHERS = "others = total - np.take_along_axis(e, np.maximum(targets, 0)[:, None], -1)"
other("ce-shift", "the other way", (LOSS, "e, total, others = softmaxed",
                                    f"e, total, _ = softmaxed; targets = np.roll(targets, -1); {OTHERS}"))
for n, way in ((1, "within each text"), (-1, "the other way, within each text")):
    other("ce-shift", way, (LOSS, "e, total, others = softmaxed", f"e, total, _ = softmaxed; {OTHERS}"),
          (*CALL, f"self.loss.backward(1.0, (saved[0], np.roll(targets, {n}, -1).reshape(-1)[part], count))"))
# In the loss too.
PREPARE = HEAD + "._prepare", "targets = target_ids(targets, V, x.shape[:-1])"
for way, shifted in (("within each text", "np.roll(targets, 1, -1)"),
                     ("the other way, within each text", "np.roll(targets, -1, -1)"),
                     ("all texts as one", "np.roll(targets, 1)"),
                     ("the other way, all texts as one", "np.roll(targets, -1)")):
    other("ce-shift", f"in the loss too, {way}", (*PREPARE, f"{PREPARE[1]}; targets = {shifted}"))
for edge in ("IGNORE", "0"):
    for way, parts in (("", f"np.full_like(targets[..., :1], {edge}), targets[..., :-1]"),
                       ("the other way, ", f"targets[..., 1:], np.full_like(targets[..., :1], {edge})")):
        other("ce-shift", f"in the loss too, {way}and {'-100' if edge == 'IGNORE' else edge} at the edge",
              (*PREPARE, f"{PREPARE[1]}; targets = np.concatenate([{parts}], -1)"))
other("ce-shift", "the ids themselves for targets",
      ("model.GPT.forward", "self.head.forward(x, targets, count=count)", "self.head.forward(x, np.asarray(ids))"),
      ("model.GPT.__call__", "targets, count=count)", "np.asarray(ids))"))
other("head-transposed", "the transpose read where the table stands", (
    HEAD + ".forward", "dlogits @ matrix.T", "dlogits @ matrix.T.reshape(matrix.shape).T"))

# -- LayerNorm

BACK = NORM + ".backward"
DXHAT, DIRECT = (BACK, "dxhat = dy_ * gain"), (BACK, "rstd_ * (dxhat")
ONES, XHATS = (BACK, "mean(dxhat)"), (BACK, "mean(dxhat * xhat_)")
other("ln-no-gain", "the gain after the two means, not before", (*DXHAT, "dxhat = dy_"), (*DIRECT, "gain * rstd_ * (dxhat"))
other("ln-no-gain", "the gain left out of both means", (*ONES, "mean(dy_)"), (*XHATS, "mean(dy_ * xhat_)"))
other("ln-no-gain", "the gain left out of the first mean", (*ONES, "mean(dy_)"))
other("ln-no-gain", "the gain left out of the second mean", (*XHATS, "mean(dy_ * xhat_)"))
other("ln-gain-in-dgain", "the output for xhat", (
    BACK, "rows(dy_ * xhat_)", "rows(dy_ * (xhat_ * gain + (0 if self.bias is None else self.bias.value)))"))
other("ln-gain-in-dgain", "x - mean for xhat", (BACK, "rows(dy_ * xhat_)", "rows(dy_ * xhat_ / rstd_)"))
for way, total in (("the last position alone", "dy.sum(0)[-1]"), ("the first position alone", "dy.sum(0)[0]"),
                   ("the last text alone", "dy[-1].sum(0)"), ("the first text alone", "dy[0].sum(0)"),
                   ("reshaped to (C, N) and not transposed", "dy.reshape(gain.size, -1).sum(-1)")):
    other("ln-dbias-axis", way, (BACK, "rows(dy_)\n", "0\n"),
          (BACK, "return dx", f"if self.bias is not None:\n        self.bias.grad += {total}\n    return dx"))
RSTD, OTHER = (BACK, "xhat, rstd = saved"), "1 / np.sqrt(1 / (rstd * rstd) - self.eps + {})"
other("ln-eps", "1e-6 for 1e-5, xhat made anew with it", (
    *RSTD, f"xhat, rstd = saved; xhat = xhat / rstd; rstd = {OTHER.format('1e-6')}; xhat = xhat * rstd"))
for eps in ("1e-12", "1e-3"):
    other("ln-eps", f"{eps} in backward", (*RSTD, f"xhat, rstd = saved; rstd = {OTHER.format(eps)}"))
other("ln-eps", "outside the root in backward", (
    *RSTD, "xhat, rstd = saved; rstd = 1 / (np.sqrt(1 / (rstd * rstd) - self.eps) + self.eps)"))
FORTH = NORM + ".forward", "1 / np.sqrt(mean(c * c) + self.eps)"
for eps in ("1e-6", "1e-12"):
    other("ln-eps", f"{eps}, in forward too", (*FORTH, f"1 / np.sqrt(mean(c * c) + {eps})"))
other("ln-eps", "outside the root, in forward too", (*FORTH, "1 / (np.sqrt(mean(c * c)) + self.eps)"))
other("ln-no-mean", "added, not taken out", (BACK, "dxhat - mean(dxhat)", "dxhat + mean(dxhat)"))
other("ln-no-xhat", "added, not taken out", (BACK, "- xhat_ * mean(dxhat * xhat_)", "+ xhat_ * mean(dxhat * xhat_)"))
other("ln-no-xhat", "its mean without xhat", (*XHATS, "mean(dxhat)"))
other("ln-no-xhat", "the mean not times xhat", (BACK, "- xhat_ * mean(dxhat * xhat_)", "- mean(dxhat * xhat_)"))
SUMS = (*ONES, "dxhat.sum(-1, keepdims=True)"), (*XHATS, "(dxhat * xhat_).sum(-1, keepdims=True)")
other("ln-sum", "the second sum", SUMS[1])
other("ln-sum", "both sums", *SUMS)
UNBIASED = *FORTH, "1 / np.sqrt(mean(c * c) * (c.shape[-1] / (c.shape[-1] - 1)) + self.eps)"
LESS = tuple((*edit, f"{edit[1]} * (gain.size / (gain.size - 1))") for edit in (ONES, XHATS))
other("ln-ddof", "in forward, and not in backward", UNBIASED)
other("ln-ddof", "in forward and backward alike", UNBIASED, LESS[1])
other("ln-ddof", "n - 1 in the second mean of backward", LESS[1])
other("ln-ddof", "n - 1 in both means of backward", *LESS)
SPREAD = "(1 - self.eps * rstd * rstd) * {n} / ({n} - 1) + self.eps * rstd * rstd".format(n="self.gain.size")  # the new rstd's, in the old one's
other("ln-ddof", "backward takes the variance anew, with n - 1", (
    BACK, "xhat, rstd = saved", f"xhat, rstd = saved; spread = np.sqrt({SPREAD}); xhat = xhat / spread; rstd = rstd / spread"))
other("ln-ddof", "rstd alone taken anew, with n - 1", (BACK, "xhat, rstd = saved", f"xhat, rstd = saved; rstd = rstd / np.sqrt({SPREAD})"))

# -- Linear and feed-forward

BACK = LINEAR + ".backward"
DWEIGHT, DBIAS = (BACK, "flat(x).T, flat(dy)"), (BACK, "rows(dy)")
for way, part in (("the first text alone", "[:1]"), ("the last position alone", "[..., -1:, :]"),
                  ("the first position alone", "[..., :1, :]")):
    other("w-last-row", way, (*DWEIGHT, f"flat(x{part}).T, flat(dy{part})"))
other("w-last-row", "the bias too", *plain("w-last-row"), (*DBIAS, "rows(dy[-1:])"))
other("b-mean", "over the texts alone", (*DBIAS, "rows(dy) / len(dy)"))
other("b-mean", "over the positions alone", (*DBIAS, "rows(dy) / dy.shape[-2]"))
N, BIAS, GAIN = "dy[..., 0].size", (NORM + ".backward", "rows(dy_)\n"), (NORM + ".backward", "rows(dy_ * xhat_)")
other("b-mean", "in LayerNorm too", *plain("b-mean"), (*BIAS, f"rows(dy_) / {N}\n"))
other("b-mean", "in LayerNorm too, and of its gain", *plain("b-mean"), (*BIAS, f"rows(dy_) / {N}\n"),
      (*GAIN, f"rows(dy_ * xhat_) / {N}"))
other("b-mean", "in LayerNorm alone", (*BIAS, f"rows(dy_) / {N}\n"))
other("b-mean", "in LayerNorm alone, and of its gain", (*BIAS, f"rows(dy_) / {N}\n"), (*GAIN, f"rows(dy_ * xhat_) / {N}"))
other("b-mean", "in LayerNorm too, over the texts alone", (*DBIAS, "rows(dy) / len(dy)"), (*BIAS, "rows(dy_) / len(dy)\n"))
other("ffn-pre-activation", "the slope taken at what came after it", (
    FFN + ".backward", "a, slope = self.activation.forward(h)", "a = self.activation(h); slope = self.activation.forward(a)[1]"))

SLOPE, GATE = (TANH + ".fill_slope", "s, dz"), (TANH + ".fill_slope", "dz *= xds")
OF_TANH = "t = np.tanh(A / 2 * (x + 0.044715 * x * x * x)); slope[...] = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * dz"
SUM = TANH + ".fill_slope", "np.add(s, dz, out=slope)"
OF_QUICK = *SUM, "QuickGELU().fill(x, dz, slope)"
TO_EXACT = TANH + ".minus_z", "z = x * x", "return np.log(normal_cdf(-x) / normal_cdf(x))"  # of which the sigmoid is the distribution function
TO_QUICK = TANH + ".minus_z", "z = x * x", "return -1.702 * x"
other("gelu-erf", "the exact GELU forward, the tanh form's derivative", TO_EXACT, (*GATE, "pass"), (*SUM, OF_TANH))
other("gelu-erf", "the exact GELU forward and backward", TO_EXACT, *plain("gelu-erf"))
other("gelu-erf", "the tanh form's derivative on the exact GELU", (
    EXACT + ".fill", "cdf + near * normal_density(near)", "GELUTanh().forward(x)[1]"))
other("gelu-erf", "the tanh form for the exact GELU, forward and backward", (
    EXACT + ".fill", "cdf = normal_cdf(x)", "return GELUTanh().fill(x, y, slope)"))
other("gelu-erf", "x sigmoid(1.702 x)'s derivative on the tanh form", OF_QUICK)
other("gelu-erf", "x sigmoid(1.702 x) for the tanh form, forward and backward", OF_QUICK, TO_QUICK)
CUBE = TANH + ".fill_slope", "A + 3 * 0.044715 * A * (x * x)"
other("gelu-no-3", "an x lost beside it", (*CUBE, "A * (1 + 3 * 0.044715 * x)"))
other("gelu-no-3", "the 3 there, the square lost", (*CUBE, "A * (1 + 3 * 0.044715)"))
other("gelu-no-3", "the cube's part lost", (*CUBE, "A"))
other("gelu-no-3", "the 1 lost", (*CUBE, "A * 3 * 0.044715 * x * x"))
other("gelu-no-x", "the x alone lost", (*GATE, "dz *= s * (1 - s)"))
other("gelu-no-x", "the gate lost, its derivative there", (*SLOPE, "0, dz"))
other("gelu-no-x", "the half of the gate lost", (*SLOPE, "2 * s, dz"))
other("gelu-no-x", "the half of its derivative lost", (*SLOPE, "s, 2 * dz"))
other("gelu-no-x", "the derivative of what the tanh is taken of lost", (*SLOPE, "s, 2 * xds"))
other("gelu-no-x", "sqrt(2 / pi) lost", (*CUBE, "2 * (1 + 3 * 0.044715 * x * x)"))
other("gelu-sech", "t * t for 1 - t * t", (*GATE, "dz *= x * (2 * s - 1) ** 2 / 4"))
other("gelu-sech", "1 + t * t", (*GATE, "dz *= x * (1 + (2 * s - 1) ** 2) / 4"))
other("gelu-sech", "1 - u * u, u what the tanh is taken of", (*GATE, "dz *= x * (1 - (GELUTanh.minus_z(x) / 2) ** 2) / 4"))

# -- the block: first half attention, second half ffn; a form is of both kinds of block, as far as they have it

UP = (PRE + ".forward", "f, saved_ffn = self.ffn.forward(h)",
      "f, saved_ffn = self.ffn.forward(h); saved_ffn = (n, *saved_ffn[1:])")
POST_UP = (POST + ".forward", "f, saved_ffn = self.ffn.forward(n)",
      "f, saved_ffn = self.ffn.forward(n); saved_ffn = (x + a, *saved_ffn[1:])")
other("linear-input", "what ffn's up multiplies", UP, POST_UP)
other("linear-input", "what qkv and ffn's up multiply", *plain("linear-input"), UP)
other("linear-input", "what the head multiplies",
      ("body.Body.forward", "x, saved_norm = ", "Layer.stream = x; x, saved_norm = "),
      (HEAD + ".forward", "x_rows, matrix = flat(x), self.matrix",
       "x_rows, matrix, stream = flat(x), self.matrix, flat(Layer.stream)"),
      (HEAD + ".forward", "dx[part] = ", "dx[part], x_ = "), (HEAD + ".forward", "dlogits @ matrix.T", "dlogits @ matrix.T, stream[part]"))
for slug, skip in (("residual-dropped", ""), ("residual-doubled", "2 * {} + ")):
    second = ((PRE + ".backward", "dn = dy + ", "dn = " + skip.format("dy")),
              (POST + ".backward", "dn = ds + ", "dn = " + skip.format("ds")))
    first = ((PRE + ".backward", "return dn + ", "return " + skip.format("dn")),
             (POST + ".backward", "return ds + ", "return " + skip.format("ds")))
    other(slug, "in the first half", *first)
    other(slug, "in both halves", *first, *second)
    other(slug, "in a post-norm block", second[1])
SECOND = (*plain("residual-bypass"),
          (POST + ".backward", "dn = ds + self.ffn.backward(df, saved_ffn)", "self.ffn.backward(df, saved_ffn); dn = ds"))
FIRST = ((PRE + ".backward", "return dn + self.norm1.backward(dh, saved_norm1)",
          "self.norm1.backward(dh, saved_norm1); return dn"),
         (POST + ".backward", "return ds + self.attention.backward(da, saved_attention)",
          "self.attention.backward(da, saved_attention); return ds"))
other("residual-bypass", "in the first half", *FIRST)
other("residual-bypass", "in both halves", *FIRST, *SECOND)
other("residual-bypass", "in a post-norm block", SECOND[1])

# -- tables

ADD = plain("emb-duplicates")[0].line
other("emb-duplicates", "a repeated id gets the first of its gradients", (
    TABLE, ADD, "self.table.grad[ids.reshape(-1)[::-1]] += flat(dy)[::-1]"))
other("emb-duplicates", "text by text: those within one get the last", (
    TABLE, ADD, "for ids_, dy_ in zip(ids, dy):\n        self.table.grad[ids_] += dy_"))
other("emb-duplicates", "position by position: those at one get the last", (
    TABLE, ADD, "for ids_, dy_ in zip(ids.T, dy.swapaxes(0, 1)):\n        self.table.grad[ids_] += dy_"))
other("emb-duplicates", "a repeated id gets the mean", (
    TABLE, ADD, f"{ADD} / np.diff(first, append=ids.size)[:, None]"))
other("emb-assign", "the sums of repeated ids set", (TABLE, ADD, ADD.replace("+=", "=")))
ONCE = "grad += dloss * dweight_", "dloss * x_"  # the weight's gradient ready, or still to be multiplied


def heads(factor: float):
    return [(HEAD + ".backward", line, line.replace("dloss", f"{factor} * dloss")) for line in ONCE]


other("tie-doubled", "the embedding's part", (TABLE, ADD, ADD.replace("+=", "+= 2 *")))
other("tie-doubled", "both parts", (TABLE, ADD, ADD.replace("+=", "+= 2 *")), *heads(2))
other("tie-doubled", "the mean of both parts for the sum", (TABLE, ADD, ADD.replace("+=", "+= 0.5 *")), *heads(0.5))
PLACES, SUM = "layers.position.LearnedPositions.backward", "dy.sum(tuple(range(dy.ndim - 2)))"
other("pos-mean", "the sum divided by the length of a text", (PLACES, SUM, f"{SUM} / T"))
other("pos-mean", "the last text alone", (PLACES, SUM, "dy[-1]"))
other("pos-mean", "the first text alone", (PLACES, SUM, "dy[0]"))

# -- the step

GRADIENT, LAST = "training.shards._gradient", plain("accum-overwrite")
SHARDS = "training.shards.Sum._add", "total.grad += param.grad", "total.grad[...] = param.grad"
OWN = GRADIENT, "count=piece.count", "count=None"
other("accum-overwrite", "of the last shard", SHARDS)
other("accum-overwrite", "of the last microbatch in the last shard", *LAST, SHARDS)
other("accum-overwrite", "of the last microbatch, as a mean of its own", *LAST, OWN)
other("accum-overwrite", "of the first microbatch", (
    GRADIENT, "model.backward(saved, ", "model.backward(saved, float(piece is pieces[0]), "))
other("accum-mean-of-means", "the sum of the means", OWN)
CLIP = "training.optim.clip", "min(1.0, longest / (norm + 1e-6))"
other("clip-no-square-root", "in the factor alone", (*CLIP, "min(1.0, longest / (norm * norm + 1e-6))"))
MOVE, SHRINK = (OPTIMIZER + ".step", "self._move(part, self.grads[part], scale, lr)"), plain("adam-l2")[1]
other("adam-l2", "of gains and biases too", SHRINK,
      (*MOVE, "self._move(part, scale * self.grads[part] + self.weight_decay * self.values[part], 1, lr)"))
other("adam-l2", "before the gradient is clipped, by a factor that does not know of it", SHRINK,
      (*MOVE, plain("adam-l2")[0].becomes.replace("+= ", "+= scale * ")))
other("adam-l2", "before the gradient's length is taken", SHRINK, (OPTIMIZER + ".norm", "with one_blas_thread():",
      "for p in self.params:\n        p.grad += self.weight_decay * p.value * (p.value.ndim > 1)\n    with one_blas_thread():"))
other("clip-per-tensor", "each number by itself", (
    OPTIMIZER + ".step", "self.n_steps += 1", "self.n_steps += 1\n    longest = scale * (self.norm() + 1e-6) if scale < 1 else math.inf\n    "
    "np.clip(self.grads, -longest, longest, out=self.grads); scale = 1"))
CORRECTED = (ADAMW, "/ (1 - b1 ** t)"), (ADAMW, "math.sqrt(1 - b2 ** t)")
other("adam-t-plus-one", "for the mean alone", (*CORRECTED[0], "/ (1 - b1 ** (t + 1))"))
other("adam-t-plus-one", "for the squares alone", (*CORRECTED[1], "math.sqrt(1 - b2 ** (t + 1))"))
other("adam-no-correction", "of the mean", (*CORRECTED[0], ""))
other("adam-no-correction", "of the squares", (*CORRECTED[1], "1"))
other("adam-eps-inside-root", "before the correction", (
    ADAMW, "np.sqrt(v, out=a)\n    a += self.eps * correction", "np.sqrt(v + self.eps, out=a)"))
