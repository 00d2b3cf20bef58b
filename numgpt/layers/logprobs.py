"""Log-probabilities of given tokens: what a policy says of an answer, where a loss would say how surprised it is."""

import numpy as np

from numgpt.layers.inputs import IGNORE, channels, gradient, target_ids
from numgpt.layers.loss import Head, HeadLoss, surprise, surprise_backward
from numgpt.layers.ops import flat, rows


class HeadLogProbs(Head):
    """The log-probability of each target by a head that it shares, in chunks of rows: the logits never exist whole.

    x (B, T, C), targets (B, T) -> y (B, T), 0 where the target is -100
    weight (C, V), or of a tied head (V, C), and bias (V,) are the head's own

    Forward   logits = x @ weight + bias
              p = softmax(logits)
              onehot = targets[..., None] == arange(logits.shape[-1])
              counts = targets != -100
              y = counts * log(where(onehot, p, 1)).sum(-1)
    Backward  -- log p[target] = logits[target] - log(sum(exp(logits))): its gradient is the one-hot, less p
              dlogits = (counts * dy)[..., None] * (onehot - p)
              dweight = einsum("btc,btv->cv", x, dlogits)
              dbias = rows(dlogits)
              dx = dlogits @ weight.T
    Saved     x and targets: logits, of which each chunk's are as large as all its other arrays, are computed again

    Rows that do not count, a prompt's and padding's, are left out of all products.
    """

    def __init__(self, head: HeadLoss):
        if not isinstance(head, Head):
            raise TypeError("HeadLogProbs wants a model's head, a HeadLoss, whose weight it shares; "
                            f"got {type(head).__name__}")
        self.weight, self.bias, self.tied, self.chunk = head.weight, head.bias, head.tied, head.chunk

    def forward(self, x, targets):
        x = channels(x, self.matrix.shape[0], "HeadLogProbs")
        targets = target_ids(targets, self.matrix.shape[1], x.shape[:-1])
        y = np.zeros(targets.size, np.result_type(x, self.matrix))
        for part, x_, targets_ in self._chunks(x, targets):
            nll, _ = surprise(self.logits(x_), targets_)
            y[part] = -nll
        return y.reshape(targets.shape), (x, targets)

    def backward(self, dy, saved):
        x, targets = saved
        dy = gradient(dy, targets.shape, "HeadLogProbs").reshape(-1)
        dx = np.zeros(flat(x).shape, np.result_type(dy, self.matrix))
        for part, x_, targets_ in self._chunks(x, targets):
            _, softmaxed = surprise(self.logits(x_), targets_)
            dlogits = surprise_backward(-dy[part, None], softmaxed, targets_, 1)
            dx[part] = dlogits @ self.matrix.T
            self.weight.add_product(*self._factors(x_, dlogits))
            if self.bias is not None:
                self.bias.grad += rows(dlogits)
        return dx.reshape(x.shape)

    def _chunks(self, x, targets):
        """Of the rows that count: where they stand, they themselves, and their targets."""
        x, targets = flat(x), targets.reshape(-1)
        counted = np.flatnonzero(targets != IGNORE)
        for start in range(0, len(counted), self.chunk):
            part = counted[start:start + self.chunk]
            yield part, x[part], targets[part]

    def hints(self, x, targets):
        targets = np.asarray(targets)
        return {"N": targets.size, "counted": int((targets != IGNORE).sum()), "V": self.matrix.shape[1]}
