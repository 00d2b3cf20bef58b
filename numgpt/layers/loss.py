"""The loss: how surprised the model is by the token that really came."""

import numpy as np

from numgpt.layers.blocks import NUMBERS, add_product, row_blocks
from numgpt.layers.inputs import IGNORE, channels, divisor, number, positive, target_ids
from numgpt.layers.ops import flat, rows
from numgpt.layers.param import Layer, Param, constant, normal


class SoftmaxCrossEntropy(Layer):
    """The mean of -log(probability of the target) over the targets that count; -100 does not.

    logits (B, T, V), targets (B, T) -> loss, a number;  count: the number of targets that count in
    the whole batch, where a caller splits it, so that the losses and gradients of the pieces add up

    Forward   p = softmax(logits)
              onehot = targets[..., None] == arange(logits.shape[-1])
              counts = (targets != -100)[..., None]
              loss = -(counts * onehot * log(p)).sum() / count
    Backward  -- loss = log(sum(exp(logits))) - logits[target]: the first part's gradient is p,
              -- the second's is the one-hot
              dlogits = dloss * counts * (p - onehot) / count
    Saved     the softmax in three pieces (see surprise), the targets, count

    If no target counts, the loss is 0 and so are the gradients.
    """

    def forward(self, logits, targets, *, count: int | None = None):
        logits = np.asarray(logits)
        if logits.ndim == 0:
            raise ValueError("logits must be (..., V); got a single number")
        logits = channels(logits, logits.shape[-1], "SoftmaxCrossEntropy")
        targets = target_ids(targets, logits.shape[-1], logits.shape[:-1])
        count = counted(targets, count)
        nll, softmaxed = surprise(flat(logits), targets.reshape(-1))
        return nll.sum() / count, (softmaxed, targets, count)

    def backward(self, dloss, saved):
        softmaxed, targets, count = saved
        dlogits = surprise_backward(number(dloss), softmaxed, targets.reshape(-1), count)
        return dlogits.reshape(*targets.shape, dlogits.shape[-1])

    def _note(self):
        return None

    def hints(self, logits, targets):
        targets = np.asarray(targets)
        return {"N": targets.size, "counted": counted(targets, None), "V": np.shape(logits)[-1],
                "counted / N": counted(targets, None) / max(targets.size, 1)}


class Head(Layer):
    """What makes logits of a model's last numbers: weight (C, V), or a tied table (V, C), and perhaps a bias (V,)."""

    weight: Param
    bias: Param | None
    tied: bool
    chunk: int

    @property
    def matrix(self) -> np.ndarray:
        """(C, V), the way x is multiplied."""
        return self.weight.value.T if self.tied else self.weight.value

    def logits(self, x):
        """x (..., C) -> (..., V)."""
        x = channels(x, self.matrix.shape[0], type(self).__name__)
        y = flat(x) @ self.matrix
        if self.bias is not None:
            y += self.bias.value
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _factors(self, x, dlogits):
        """Whose product is dweight."""
        return (dlogits.T, x) if self.tied else (x.T, dlogits)


class HeadLoss(Head):
    """The output layer and its loss in one, over chunks of rows, so that the logits never exist whole.

    x (B, T, C), targets (B, T) -> loss, a number;  weight (C, V), bias (V,);  count as above
    tied: weight is the token table (V, C), shared with the embedding, and logits = x @ table.T

    Forward   logits = x @ weight + bias
              loss = softmax_cross_entropy(logits, targets)
              -- a loss is one number, so its gradient can be finished here, up to a factor
              dlogits = (softmax(logits) - onehot) / count
    Backward  dweight = dloss * x.T @ dlogits
              dbias = dloss * rows(dlogits)
              dx = dloss * dlogits @ weight.T
    Saved     dx and dbias for dloss = 1, and dweight or, where rows are so few that these are smaller, x and dlogits,
              of which it is the product

    A chunk is 128 rows, or of a small vocabulary as many as make a block of logits.
    """

    def __init__(self, n_embd: int, n_vocab: int, *, bias: bool = False, tied: Param | None = None,
                 chunk: int | None = None, std: float = 0.02, rng=None, dtype=np.float64):
        if tied is not None and (not isinstance(tied, Param) or tied.shape != (n_vocab, n_embd)):
            raise ValueError("a tied head wants the token table's Param, embedding.table, of shape "
                             f"{(n_vocab, n_embd)}; got {tied!r}")
        self.weight = normal(rng, (n_embd, n_vocab), std, dtype) if tied is None else tied
        self.bias = constant(0.0, (n_vocab,), dtype) if bias else None
        self.tied = tied is not None
        self.loss = SoftmaxCrossEntropy()
        self.chunk = max(128, NUMBERS // n_vocab) if chunk is None else positive(chunk, "chunk")

    def forward(self, x, targets, *, count: int | None = None):
        x, targets, count = self._prepare(x, targets, count)
        x_rows, matrix = flat(x), self.matrix
        loss, dx = 0.0, np.empty(x_rows.shape, np.result_type(x, matrix))
        few = len(x_rows) * sum(matrix.shape) < matrix.size  # rows: x and dlogits are then smaller than their product
        dweight, products = None if few or self.weight.frozen else np.zeros_like(self.weight.value), []
        dbias = None if self.bias is None or self.bias.frozen else np.zeros_like(self.bias.value)
        for part, targets_ in self._chunks(targets):
            x_ = x_rows[part]
            loss_, saved = self.loss.forward(self.logits(x_), targets_, count=count)
            loss += loss_
            dlogits = self.loss.backward(1.0, saved)
            dx[part] = dlogits @ matrix.T
            if dweight is not None:
                add_product(dweight, *self._factors(x_, dlogits))
            elif not self.weight.frozen:
                products.append((x_, dlogits))
            if dbias is not None:
                dbias += rows(dlogits)
        return loss, (dx.reshape(x.shape), dweight, products, dbias)

    def __call__(self, x, targets, *, count: int | None = None):
        """The loss alone."""
        x, targets, count = self._prepare(x, targets, count)
        return sum((self.loss(self.logits(flat(x)[part]), targets_, count=count) for part, targets_ in self._chunks(targets)), 0.0)

    def backward(self, dloss, saved):
        dx, dweight, products, dbias = saved
        dloss = number(dloss)
        if dweight is not None:
            for grad, dweight_ in row_blocks(self.weight.grad, dweight):
                grad += dloss * dweight_
        for x_, dlogits in products:
            self.weight.add_product(*self._factors(dloss * x_, dlogits))
        if dbias is not None:
            self.bias.grad += dloss * dbias
        return dloss * dx

    def _prepare(self, x, targets, count):
        C, V = self.matrix.shape
        x = channels(x, C, "HeadLoss")
        targets = target_ids(targets, V, x.shape[:-1])
        return x, targets, counted(targets, count)

    def _chunks(self, targets):
        targets = targets.reshape(-1)
        for start in range(0, len(targets), self.chunk):
            part = slice(start, start + self.chunk)
            yield part, targets[part]

    def hints(self, x, targets):
        return SoftmaxCrossEntropy().hints(np.empty((0, self.matrix.shape[1])), targets)


def counted(targets, count: int | None) -> int:
    """What the mean divides by: the whole batch's count where a caller knows it; never 0."""
    own = int((targets != IGNORE).sum())
    if count is None:
        return max(own, 1)
    return divisor(own, count, "targets that count")


def surprise(logits, targets):
    """-log softmax at the target, row by row (N,), with what the backward needs; 0 where ignored.

    With the row's maximum taken out, the total is 1 + rest, and log1p(rest) keeps the digits of a small
    rest. So does others = total - e[target], the sum over all but the target: where the target is the
    maximum it is the rest itself, which 1 + rest - 1 would round away.
    """
    counts = targets != IGNORE
    index = np.where(counts, targets, 0)[:, None]
    best = logits.argmax(-1)[:, None]
    c = logits - np.take_along_axis(logits, best, -1)
    e = np.exp(c)
    np.put_along_axis(e, best, 0, -1)
    rest = e.sum(-1, keepdims=True)
    np.put_along_axis(e, best, 1, -1)
    others = np.where(index == best, rest, 1 + rest - np.take_along_axis(e, index, -1))
    nll = np.log1p(rest) - np.take_along_axis(c, index, -1)
    return np.where(counts, nll[:, 0], 0), (e, 1 + rest, others)


def surprise_backward(dloss, softmaxed, targets, count):
    """dloss * (softmax - onehot) / count (N, V), where softmax - 1 at the target is -others / total; 0 where ignored."""
    e, total, others = softmaxed
    counts = (targets != IGNORE)[:, None]
    share = dloss / count * (counts / total)  # (N, 1): what is the same for a whole row
    dlogits = e * share
    np.put_along_axis(dlogits, np.where(counts, targets[:, None], 0), -others * share, -1)
    dlogits[~counts[:, 0]] = 0  # also where the ignored row was not finite
    return dlogits
