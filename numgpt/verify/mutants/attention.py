"""Other ways to make attention's mistakes; variants.py has the rest."""

from itertools import permutations

from numgpt.verify.mutants.catalogue import other, plain

SELF, CAUSAL = "layers.attention.SelfAttention", "layers.attention.CausalAttention"
SOFTMAX, DROPOUT, LINEAR = "layers.ops.softmax_backward", "layers.dropout.Dropout", "layers.linear.Linear"
PRE, POST = "layers.block.PreNormBlock", "layers.block.PostNormBlock"

DZ = SELF + ".backward", "dz = self.out.backward(dy, saved_out)"
other("proj-transposed", "every Linear is not transposed", (
    LINEAR + ".backward", "flat(dy) @ self.weight.value.T", "flat(dy) @ self.weight.value.reshape(self.weight.shape[::-1])"))
other("proj-transposed", "the transpose read where the weight stands", (
    *DZ, "w = self.out.weight; w.value, own = w.value.T.reshape(w.shape), w.value; "
    "dz = self.out.backward(dy, saved_out); w.value = own; dz = dz"))
BACK, FORTH, LOOK = CAUSAL + ".backward", CAUSAL + ".forward", CAUSAL + ".look"
other("dropout-v", "from the masked ones, not scaled", (
    BACK, "p_kept.swapaxes(-1, -2) @ dy_", "(saved_p if kept is None else saved_p * kept).swapaxes(-1, -2) @ dy_"))
UNDROP = DROPOUT + ".backward", "self._apply(dy, kept)"
DP = "dy_ @ v[:, :, keys].swapaxes(-1, -2)"
UNDROP_P = BACK, f"self.dropout.backward({DP}, kept)"


def _undrop_rest(becomes: str) -> tuple:
    """The residual dropout's backward, twice in each kind of block; D and K stand for the gradient and the mask."""
    return tuple((kind + ".backward", f"self.dropout.backward({d}, {k})", becomes.replace("D", d).replace("K", k))
                 for kind, calls in ((PRE, (("dy", "kept_f"), ("dn", "kept_a"))),
                                     (POST, (("ds", "kept_f"), ("ds", "kept_a"))))
                 for d, k in calls)


for slug, way, becomes in (("dropout-no-scale", "", "(D if K is None else D * K)"),
                           ("dropout-no-mask", "", "(D if K is None else D * (1 / (1 - self.dropout.p)))"),
                           ("dropout-no-mask", "neither mask nor scale, ", "D")):
    if way:
        other(slug, way.rstrip(", "), (*UNDROP, "dy"))
    other(slug, way + "in attention alone", (*UNDROP_P, becomes.replace("D", f"({DP})").replace("K", "kept")))
    other(slug, way + "beside the skip path alone", *_undrop_rest(becomes))
other("dropout-no-scale", "1 - p for 1/(1-p)", (*UNDROP, "dy * kept * (1 - self.p)"))
other("dropout-no-scale", "in forward too", (DROPOUT + "._apply", "x * kept * (1 / (1 - self.p))", "x * kept"))
other("dropout-new-mask", "what was dropped for what was kept", (*UNDROP, "self._apply(dy, ~kept)"))
other("dropout-new-mask", "the two masks of a block exchanged", *(
    (kind + ".backward", f"{name} = self.dropout.backward({d}, {one})", f"{name} = self.dropout.backward({d}, {wrong})")
    for kind, ds in ((PRE, ("dy", "dn")), (POST, ("ds", "ds")))
    for d, name, one, wrong in ((ds[0], "df", "kept_f", "kept_a"), (ds[1], "da", "kept_a", "kept_f"))))

WHOLE, SUM = (SOFTMAX, "p * (dp - total(dp * p, axis))"), (SOFTMAX, "total(dp * p, axis)")
other("softmax-diagonal", "all but the diagonal", (*WHOLE, "p * (dp * p - total(dp * p, axis))"))
other("softmax-no-sum", "the factor p lost", (*WHOLE, "dp - total(dp * p, axis)"))
other("softmax-no-sum", "p lost in the sum", (*SUM, "total(dp, axis)"))
other("softmax-no-sum", "the mean for the sum", (*SUM, "(dp * p).mean(axis, keepdims=True)"))
other("softmax-no-sum", "the sum added", (*WHOLE, "p * (dp + total(dp * p, axis))"))
other("softmax-axis", "over the heads", (*SUM, "(dp * p).sum(-3, keepdims=True)"))
other("softmax-axis", "over the texts", (*SUM, "(dp * p).sum(0, keepdims=True)"))
other("softmax-axis", "over queries and keys", (*SUM, "(dp * p).sum((-2, -1), keepdims=True)"))
other("softmax-axis", "over everything", (*SUM, "(dp * p).sum()"))
other("softmax-axis", "the axis not kept, so that the sums lie along the keys", (
    *SUM, "((dp * p).sum(axis)[..., None, :] if p.shape[-1] == p.shape[-2] else (dp * p).sum(axis, keepdims=True))"))

SCALED, SCALE = (BACK, "d *= self.scale"), "* self.scale"
BY_WIDTH = "(1 / math.sqrt(q.shape[1] * q.shape[3]))"
other("scale-missing", "twice", (*SCALED, "d *= self.scale ** 2"))
other("scale-missing", "divided by for multiplied with", (*SCALED, "d /= self.scale"))
other("scale-missing", "in forward too", (*SCALED, "pass"), *((where, SCALE, "") for where in (FORTH, LOOK)))
other("scale-missing", "in forward alone", *((where, SCALE, "") for where in (FORTH, LOOK)))
other("scale-by-width", "C where it is not H D", (
    SELF + ".backward", "dqkv[:, :, i] = d.swapaxes(1, 2)", "dqkv[:, :, i] = d.swapaxes(1, 2) * "
    "(1 if i == 2 else 1 / (math.sqrt(self.qkv.weight.shape[0]) * self.attention.scale))"))
other("scale-by-width", "in forward too", *((where, SCALE, f"* {BY_WIDTH}") for where in (FORTH, LOOK)),
      *plain("scale-by-width"))
other("scale-by-width", "1/D, in forward too", (*SCALED, "d *= 1 / q.shape[3]"),
      *((where, SCALE, "* (1 / q.shape[3])") for where in (FORTH, LOOK)))
other("scale-by-width", "1/sqrt(T)", (*SCALED, "d *= 1 / math.sqrt(q.shape[2])"))
DQ, DK = (BACK, "= dscores @ k[:, :, keys]"), (BACK, "dscores.swapaxes(-1, -2) @ q[:, :, queries]")
other("scale-k-only", "dk lacks it", (*DK, f"{DK[1]} / self.scale"))
other("scale-k-only", "dq has it twice", (*DQ, f"{DQ[1]} * self.scale"))
other("scale-k-only", "dk has it twice", (*DK, f"{DK[1]} * self.scale"))
# Tile by tile what a product of whole matrices would be: queries and keys are the same positions where S = T.
NO_T = (BACK, "dk[:, :, keys] += dscores.swapaxes(-1, -2) @ q[:, :, queries]",
        "dk[:, :, queries] += dscores @ q[:, :, keys]")
FROM_0 = BACK, "dq, dk, dv = np.empty(", "dq, dk, dv = np.zeros("
DQ_T = (FROM_0, (BACK, "dq[:, :, queries] = dscores @ k[:, :, keys]",
                 "dq[:, :, keys] += dscores.swapaxes(-1, -2) @ k[:, :, queries]"))
other("dk-transposed", "dscores not transposed", NO_T)
other("dk-transposed", "dscores transposed for dq too", *DQ_T)
other("dk-transposed", "dscores transposed for dq, and not for dk", NO_T, *DQ_T)
other("dk-transposed", "p not transposed for dv", (
    BACK, "dv[:, :, keys] += p_kept.swapaxes(-1, -2) @ dy_", "dv[:, :, queries] += p_kept @ dy[:, :, keys]"))
other("qk-swapped", "dq from q and dk from k", (*DQ, "= dscores @ q[:, :, keys]"),
      (*DK, "dscores.swapaxes(-1, -2) @ k[:, :, queries]"))
other("qk-swapped", "dq from q", (*DQ, "= dscores @ q[:, :, keys]"))
other("qk-swapped", "dk from k", (*DK, "dscores.swapaxes(-1, -2) @ k[:, :, queries]"))

MERGED = plain("heads-merged-wrong")
SPLIT = SELF + ".backward", "dqkv[:, :, i] = d.swapaxes(1, 2)", "dqkv[:, :, i] = d.reshape(B, T, H, D)"
JOINED = SELF + ".forward", "z.swapaxes(1, 2).reshape(B, T, H * D)", "z.reshape(B, T, H * D)"
PARTED = (SELF + ".forward", ".reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)",
          ".reshape(B, T, 3, H * D).transpose(2, 0, 1, 3).reshape(3, B, H, T, D)")
other("heads-merged-wrong", "of dq, dk and dv", SPLIT)
other("heads-merged-wrong", "of both dz and dq, dk, dv", *MERGED, SPLIT)
other("heads-merged-wrong", "of the heads' outputs, forward and backward", JOINED, *MERGED)
other("heads-merged-wrong", "of the heads' outputs, forward alone", JOINED)
other("heads-merged-wrong", "of q, k and v, forward and backward", PARTED, SPLIT)
other("heads-merged-wrong", "of everything, forward and backward", JOINED, PARTED, *MERGED, SPLIT)

SLOT, TAKEN = (SELF + ".backward", "dqkv[:, :, i]"), (SELF + ".forward", "q, k, v = qkv.reshape(B, T, 3, H, D)")
for order in sorted(permutations(range(3)))[1:]:
    home = ", ".join("qkv"[order.index(i)] for i in range(3))
    if order not in ((1, 2, 0), (1, 0, 2)):  # the plain form, and qk-swapped
        other("qkv-order", f"the gradients laid out as {home}", (*SLOT, f"dqkv[:, :, {order}[i]]"))
    other("qkv-order", f"laid out as {home}, forward and backward", (*SLOT, f"dqkv[:, :, {order}[i]]"),
          (*TAKEN, f"{home} = qkv.reshape(B, T, 3, H, D)"))
BY_HEAD = SELF + ".backward", "dqkv.reshape(B, T, 3 * H * D)", "dqkv.transpose(0, 1, 3, 2, 4).reshape(B, T, 3 * H * D)"
other("qkv-order", "the gradients laid out head by head", BY_HEAD)
other("qkv-order", "laid out head by head, forward and backward", BY_HEAD, (
    SELF + ".forward", ".reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)",
    ".reshape(B, T, H, 3, D).transpose(3, 0, 2, 1, 4)"))

# -- masks: p of what is hidden may be above 0 then, and a backward that follows it has to know

HIDE = "np.copyto(scores[..., -hidden.shape[-1]:], -np.inf, where=hidden)"
LOOK_HIDE = "np.copyto(scores, -np.inf, where=hidden[:, None])"
# hidden is of all keys of a tile then
TO_ALL = CAUSAL + "._tiles", "before + queries.start if self.window == math.inf else keys.start", "keys.start"
HIDDEN = BACK, "(queries, keys, _), (saved_p,", "(queries, keys, hidden), (saved_p,"
other("mask-after-softmax", "as automatic differentiation goes back through it", (FORTH, HIDE, "self.softmax.hidden = hidden"), TO_ALL,
      ("layers.softmax.Softmax.forward", "return y, y", "return y * ~self.hidden, (y, self.hidden)"),
      ("layers.softmax.Softmax.backward", "y = saved", "y, hidden = saved; dy = dy * ~hidden"))
AHEAD = CAUSAL + "._tiles", "hidden = (ahead > 0)"
other("mask-off-by-one", "does not see itself", (*AHEAD, "hidden = (ahead > -1)"))
other("mask-off-by-one", "sees everything", (*AHEAD, "hidden = (ahead > S)"))
other("mask-off-by-one", "sees what comes after it, and nothing before", (*AHEAD, "hidden = (ahead < 0)"), TO_ALL)
UNSEEN = BACK, "self.softmax.backward(dp, saved_p)", "self.softmax.backward(dp, saved_p) * ~hidden"
AWARE = HIDDEN, TO_ALL, UNSEEN
for number in ("-1e4", "0"):
    becomes = tuple((where, line, line.replace("-np.inf", number)) for where, line in ((FORTH, HIDE), (LOOK, LOOK_HIDE)))
    if number != "-1e4":
        other("mask-finite", f"{number} for -inf", *becomes)
    other("mask-finite", f"{number} for -inf, and no gradient through what is hidden", *becomes, *AWARE)
other("mask-finite", "-1e4 added to the score", (FORTH, HIDE, "np.subtract(scores, 1e4, out=scores, where=hidden)"), TO_ALL,
      (LOOK, LOOK_HIDE, "np.subtract(scores, 1e4, out=scores, where=hidden[:, None])"))
