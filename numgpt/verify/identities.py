"""Equations that a correct GPT's gradients obey among themselves, each with its derivation and when it holds.

In the derivations dx is the loss's gradient by x, a row is a position of a sequence, and sum(a) is the sum over rows;
a bias's gradient is the sum over rows of that of what it is added to, and y = x W gives dW = x.T dy and dx = dy W.T.
An identity is two sides that must be equal, as arrays, and the size of the terms they are added up from (the root of
the sum of their squares), by which their difference is measured: that is what rounding goes with.

A mistake upstream breaks none of them: each looks at one place of the backward pass alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from numgpt.config import GPTConfig

Sides = tuple[str, np.ndarray, float]  # a place, left minus right, the size of the terms
Get = Callable[[str], np.ndarray]      # a parameter, or its gradient, by its name, in float64


@dataclass(frozen=True)
class Identity:
    slug: str
    says: str
    means: str                                   # what a failure tells
    mistakes: tuple[str, ...]                    # slugs of bugs.md that break it
    never: Callable[[GPTConfig], str]            # why it does not hold for such a model; "" if it does
    sides: Callable[[GPTConfig, Get, Get], Iterator[Sides]]


VALUES = 0.1  # of the values' terms, where those of queries and keys are mostly rounding: see queries_keys

IDENTITIES: list[Identity] = []


def _identity(slug: str, says: str, means: str, mistakes: str, *never: Callable[[GPTConfig], str]):
    def add(sides):
        def why(c: GPTConfig) -> str:
            return "; ".join(filter(None, (one(c) for one in never)))
        IDENTITIES.append(Identity(slug, says, means, tuple(mistakes.split()), why, sides))
        return sides
    return add


# -- when they hold


def biases(c):
    return "" if c.bias else "there are no biases"


def pre_norm(c):
    return "" if c.norm == "pre" else "the model is post-norm"


def post_norm(c):
    return "" if c.norm == "post" else "the model is pre-norm"


def learned(c):
    return "" if c.positions == "learned" else f"positions are {c.positions}"


def untied(c):
    return "the head is tied, so its gradient has a second part" if c.tied else ""


def head_bias(c):
    return "" if c.head_bias else "the head has no bias"


def no_dropout(kind: str):
    def why(c):
        return f"{kind} is {getattr(c, kind)} (say that there was none if gradients were made without)" if getattr(c, kind) else ""
    return why


# -- small things


def size(*arrays: np.ndarray) -> float:
    """The root of the sum of all squares."""
    return float(np.sqrt(sum(float(np.vdot(a, a)) for a in arrays)))


def product_size(a: np.ndarray, b: np.ndarray) -> float:
    """The size of the terms of a.T @ b: the n-th row of a with the n-th of b."""
    return float(np.sqrt(((a * a).sum(-1) * (b * b).sum(-1)).sum()))


def blocks(c: GPTConfig) -> list[str]:
    return [f"blocks.{i}" for i in range(c.n_layer)]


def head_weight(c: GPTConfig, W: Get) -> np.ndarray:
    return W("embedding.table").T if c.tied else W("head.weight")


def with_bias(c: GPTConfig, get: Get, name: str) -> np.ndarray:
    """weight and bias as one matrix, as if the input had one channel more, of ones."""
    return np.vstack([get(f"{name}.weight"), get(f"{name}.bias")]) if c.bias else get(f"{name}.weight")


def heads(c: GPTConfig, get: Get, block: str) -> np.ndarray:
    """qkv's matrix, its bias included, as (3, H, C + 1, D)."""
    whole = with_bias(c, get, f"{block}.attention.qkv")
    return whole.reshape(len(whole), 3, c.n_head, c.head_dim).transpose(1, 2, 0, 3)


# -- the seven


@_identity("key-bias", "the key bias's gradient is 0",
           "the softmax's backward does not bring each row's sum to 0, or what is taken for the keys' gradient is not theirs: transposed, "
           "exchanged with another, q, k and v in another order; or rows of probabilities do not sum to one",
           "softmax-diagonal softmax-no-sum softmax-axis dk-transposed qk-swapped qkv-order mask-after-softmax", biases)
def key_bias(c, W, G):
    """A bias of k adds q . b to every score of a row, and softmax does not see a shift of its row: sum(dk) = 0. Dropout of the
    probabilities comes after the softmax. Measured by the rest of qkv's bias gradient."""
    for block in blocks(c):
        q, k, v = G(f"{block}.attention.qkv.bias").reshape(3, -1)
        yield block, k, size(q, v)


@_identity("embedding-positions", "the token table's gradient and the position table's have the same sum over rows",
           "a repeated token keeps only one of its gradients, a sum over the batch is a mean, or one part of a tied table is lost; in a tied "
           "model also: the gradient of the logits does not sum to 0 (no one-hot)",
           "ce-no-onehot emb-duplicates emb-assign tie-head-only pos-mean", learned)
def embedding_positions(c, W, G):
    """Both tables are added, so each hands dx of a row to one of its rows: both sums are sum(dx). A tied head adds
    dlogits.T x, whose rows add up to nothing, for softmax minus one-hot sums to 0."""
    table, positions = G("embedding.table"), G("positions.table")
    yield "tables", table.sum(0) - positions.sum(0), size(table, positions)


@_identity("norm-bias", "the gradient of a norm's bias is that of the next layer's bias, through its weight",
           "a bias's gradient is averaged or summed over the wrong axes, or the layer after the norm hands back what its weight does not say",
           "ln-dbias-axis b-mean", biases, pre_norm)
def norm_bias(c, W, G):
    """Inside a branch the norm's output n goes to y = n W + b alone: dn = dy W.T, so sum(dn) = sum(dy) W.T = db W.T.
    The last norm stands before the head in the same way, if that has a bias."""
    pairs = [(f"{block}.{norm}", f"{block}.{layer}") for block in blocks(c)
             for norm, layer in (("norm1", "attention.qkv"), ("norm2", "ffn.up"))]
    for norm, layer in pairs:
        yield norm, *_through(G(f"{norm}.bias"), G(f"{layer}.bias"), W(f"{layer}.weight"))
    if c.head_bias:
        yield "norm", *_through(G("norm.bias"), G("head.bias"), head_weight(c, W))


@_identity("norm-gain", "for the layer after a norm, (W * dW).sum(out) = gain * dgain + bias * dbias",
           "the layer's weight gradient is not made of the norm's output and all rows of the batch, or the norm's own gain or bias gradient is wrong",
           "ln-gain-in-dgain ln-dbias-axis w-last-row linear-input head-transposed")
def norm_gain(c, W, G):
    """n = gain xhat + bias and y = n W. Channel by channel, sum(n dn) is gain dgain + bias dbias by the first, and by the
    second the diagonal of n.T dy W.T = dW W.T. It wants a norm whose output goes to one layer alone: inside the branches
    of pre-norm, and before an untied head in both kinds."""
    pairs = [(f"{block}.{norm}", f"{block}.{layer}") for block in blocks(c) if c.norm == "pre"
             for norm, layer in (("norm1", "attention.qkv"), ("norm2", "ffn.up"))]
    if not c.tied:
        pairs.append(("norm" if c.norm == "pre" else f"{blocks(c)[-1]}.norm2", "head"))
    for norm, layer in pairs:
        terms = W(f"{layer}.weight") * G(f"{layer}.weight")
        own = [W(f"{norm}.{what}") * G(f"{norm}.{what}") for what in (("gain", "bias") if c.bias else ("gain",))]
        yield norm, terms.sum(-1) - sum(own), size(terms, *own)


@_identity("queries-keys", "per head, q.T dq = (k.T dk).T, from qkv's weights and biases and their gradients",
           "the gradients of queries and keys do not come from the same scores: the scale on one side only, one transposed, the two exchanged, q, k "
           "and v in another order, or qkv's weight gradient is not made of its input and all rows",
           "scale-k-only dk-transposed qk-swapped qkv-order b-mean w-last-row linear-input")
def queries_keys(c, W, G):
    """dq = dscores k and dk = dscores.T q: both sides are q.T dscores k, (D, D). And q.T dq = W.T x.T dq = W.T dW, with the
    bias as one more row of W.

    Where all keys of a sequence are nearly alike, or a softmax has made its choice, little is left of dscores but the
    rounding of the terms that cancel in it; those are as large as the values' are, hence the share of them.
    """
    for block in blocks(c):
        (Wq, Wk, Wv), (Gq, Gk, Gv) = heads(c, W, block), heads(c, G, block)
        for h in range(c.n_head):
            terms = np.hypot(product_size(Wq[h], Gq[h]), product_size(Wk[h], Gk[h]))
            yield f"{block}, head {h}", Wq[h].T @ Gq[h] - (Wk[h].T @ Gk[h]).T, max(terms, VALUES * product_size(Wv[h], Gv[h]))


@_identity("values-out", "per head, v.T dv = dWo Wo.T, from the weights of qkv and out and their gradients",
           "the gradient does not go back through the output projection to the values: not transposed, heads or blocks in another order, probabilities "
           "before dropout for those after it, or a weight gradient is not made of all rows",
           "proj-transposed dropout-v heads-merged-wrong qkv-order b-mean w-last-row linear-input")
def values_out(c, W, G):
    """A head mixes m = p v, so v.T dv = v.T p.T dm = m.T dm; the projection makes m Wo, so m.T dm = m.T dy Wo.T = dWo Wo.T,
    with the head's D rows of Wo. Here p is what dropout left of it."""
    for block in blocks(c):
        Wv, Gv = heads(c, W, block)[2], heads(c, G, block)[2]
        Wo, Go = (get(f"{block}.attention.out.weight").reshape(c.n_head, c.head_dim, -1) for get in (W, G))
        for h in range(c.n_head):
            yield f"{block}, head {h}", Wv[h].T @ Gv[h] - Go[h] @ Wo[h].T, np.hypot(product_size(Wv[h], Gv[h]), product_size(Go[h].T, Wo[h].T))


@_identity("branch-channels", "the gradients of both branches' last layers sum to 0 over channels",
           "a norm's backward does not take the mean out: its term is missing, or a sum stands in its place",
           "ln-no-mean ln-sum", no_dropout("dropout_resid"))
def branch_channels(c, W, G):
    """A norm does not see a constant added to a row, so what its backward returns sums to 0 over channels. In pre-norm the
    stream's gradient is made of nothing else, in post-norm it comes straight from a norm; the last layer of a branch,
    y = z W + b, is handed it as dy: so do dW = z.T dy, row by row, and db. Dropout would lie between."""
    for block in blocks(c):
        for layer in ("attention.out", "ffn.down"):
            whole = with_bias(c, G, f"{block}.{layer}")
            yield f"{block}.{layer}", whole.sum(-1), size(whole)


# -- more


@_identity("table-channels", "the gradients of the tables sum to 0 over channels",
           "a norm's backward does not take the mean out: its term is missing, or a sum stands in its place; or what the head adds to a tied table "
           "does not sum to 0",
           "ln-no-mean ln-sum", pre_norm, no_dropout("dropout_embd"))
def table_channels(c, W, G):
    """As branch-channels: at the bottom of a pre-norm model dx sums to 0 over channels, whatever dropout the branches have.
    So does each row of a table, a sum of some rows of dx; of a tied table, to which the head adds, only the sum of all rows."""
    if c.positions == "learned":
        positions = G("positions.table")
        yield "positions.table", positions.sum(-1), size(positions)
    table = G("embedding.table")
    yield "embedding.table", table.sum() if c.tied else table.sum(-1), size(table)


@_identity("value-bias", "the value bias's gradient is that of the output projection's bias, through its weight",
           "the probabilities of a row do not sum to one, or the gradient does not go back through the output projection to the values",
           "proj-transposed heads-merged-wrong qkv-order mask-after-softmax", biases, no_dropout("dropout_attn"))
def value_bias(c, W, G):
    """Rows of p sum to one, so m = p v hands on a bias of v as it is: sum(dv) = sum(dm) = sum(dy) Wo.T. Dropout would change
    what rows sum to."""
    for block in blocks(c):
        yield block, *_through(G(f"{block}.attention.qkv.bias").reshape(3, -1)[2], G(f"{block}.attention.out.bias"),
                               W(f"{block}.attention.out.weight"))


@_identity("head-vocabulary", "the gradients of the head's weight and bias sum to 0 over the vocabulary",
           "the gradient of the logits does not sum to 0: the one-hot is not subtracted, or the softmax is not whole",
           "ce-no-onehot", lambda c: untied(c) if not c.head_bias else "")
def head_vocabulary(c, W, G):
    """dlogits is softmax minus one-hot, which sums to 0 over the vocabulary: so do dW = x.T dlogits, channel by channel, and db."""
    if not c.tied:
        yield "head.weight", G("head.weight").sum(-1), size(G("head.weight"))
    if c.head_bias:
        yield "head.bias", G("head.bias").sum(), size(G("head.bias"))


@_identity("relu-units", "per hidden unit of a ReLU, up.weight . dup.weight + up.bias dup.bias = down.weight . ddown.weight",
           "the activation's derivative is not ReLU's, or down's weight gradient is not made of what comes after the activation and all rows",
           "ffn-pre-activation b-mean w-last-row", lambda c: "" if c.activation == "relu" else f"the activation is {c.activation}")
def relu_units(c, W, G):
    """z = relu(h) makes z dz = h dh, both 0 where h is not positive: summed, the diagonals of z.T dz = dWdown Wdown.T and of
    h.T dh = Wup.T dWup, with the bias as one more row."""
    for block in blocks(c):
        up = with_bias(c, W, f"{block}.ffn.up") * with_bias(c, G, f"{block}.ffn.up")
        down = W(f"{block}.ffn.down.weight") * G(f"{block}.ffn.down.weight")
        yield f"{block}.ffn", up.sum(0) - down.sum(-1), size(up, down)


@_identity("post-norm-bias", "the gradient of a norm's bias is the sum of what the branch and the path beside it hand back",
           "a bias's gradient is averaged or summed over the wrong axes, a skip path's gradient is lost or counted twice, or a layer hands back what its "
           "weight does not say", "b-mean ln-dbias-axis", biases, post_norm, no_dropout("dropout_resid"))
def post_norm_bias(c, W, G):
    """A post-norm's output n goes into a branch and past it, into a sum s whose gradient ds is also the branch's dy: so sum(dn)
    = sum(ds) + sum(dh) W.T = (the bias gradient of the branch's last layer) + (that of its first) W.T. After the last
    block comes the head, if it has a bias; before the first, the position table, if embeddings have no dropout."""
    def beside(dn, block, first, last):
        handed = G(f"{block}.{first}.bias")
        off, terms = _through(dn, handed, W(f"{block}.{first}.weight"))
        return off - G(f"{block}.{last}.bias"), np.hypot(terms, size(G(f"{block}.{last}.bias")))

    for i, block in enumerate(blocks(c)):
        if i or c.positions == "learned" and not c.dropout_embd:
            dn = G(f"blocks.{i - 1}.norm2.bias") if i else G("positions.table").sum(0)
            yield f"blocks.{i - 1}.norm2" if i else "positions.table", *beside(dn, block, "attention.qkv", "attention.out")
        yield f"{block}.norm1", *beside(G(f"{block}.norm1.bias"), block, "ffn.up", "ffn.down")
    if c.head_bias:
        yield f"{blocks(c)[-1]}.norm2", *_through(G(f"{blocks(c)[-1]}.norm2.bias"), G("head.bias"), head_weight(c, W))


def _through(dx: np.ndarray, dy: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """dx - dy W.T, and the size of its terms."""
    return dx - dy @ weight.T, size(dx, weight * dy)
