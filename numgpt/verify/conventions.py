"""Where implementations of a GPT differ and none is wrong by itself: what a port may have read otherwise than numgpt.

A convention is a change of the config, of the weights as they are read, of the targets or of the optimizer's settings, or,
like a mistake, edits of our source, which here change forward and backward together.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from numgpt.config import GPTConfig
from numgpt.layers import ACTIVATIONS
from numgpt.verify.mutants.catalogue import Edit
from numgpt.verify.passes import Steps


@dataclass(frozen=True, eq=False)
class Convention:
    """What a port may do otherwise.

    config, steps     fields of GPTConfig and of Steps that it has otherwise
    edits             lines of ours that it has otherwise
    weights, grads    of a parameter's name and array: what the port multiplies by, and how it gives back the gradient of that
    targets           what it takes for targets, of ids and targets
    lacks             what names of tensors begin with that it does not have
    """

    slug: str
    story: str
    config: Mapping = field(default_factory=dict)
    steps: Mapping = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    weights: Callable | None = None
    grads: Callable | None = None
    targets: Callable | None = None
    lacks: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "step" if self.steps or any(edit.where.startswith("training.") for edit in self.edits) else "gradient"


SELF, NORM, BODY = "layers.attention.SelfAttention", "layers.norm.LayerNorm", "body.Body"
TABLE, POSITIONS, STEP = "layers.embedding.Embedding", "layers.position.LearnedPositions", "training.optim.Optimizer.step"
SPLIT = SELF + ".forward", ".reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)"
JOIN = SELF + ".backward", "dqkv.reshape(B, T, 3 * H * D)"


def conventions(config: GPTConfig, steps: Steps) -> list[Convention]:
    """Those that differ from what this model and its optimizer do."""
    return [convention for convention in _all(config, steps)
            if any(getattr(config, name) != value for name, value in convention.config.items())
            or any(getattr(steps, name) != value for name, value in convention.steps.items())
            or not convention.config and not convention.steps]


def _all(c: GPTConfig, steps: Steps) -> Iterator[Convention]:
    yield from (Convention(f"activation-{name}", f"the activation is {name}, not {c.activation}", config={"activation": name})
                for name in ACTIVATIONS)
    yield from _norms()
    yield from _attention(c)
    yield from _weights(c)
    yield from _ends()
    yield from _steps(c, steps)


def _norms() -> Iterator[Convention]:
    for eps in (1e-5, 1e-6, 1e-8, 1e-12, 1e-3):
        yield Convention(f"eps-{eps:g}", f"the norms' eps is {eps:g}", config={"norm_eps": eps})
    yield Convention("eps-outside", "eps is added to the root, not under it", edits=(
        Edit(NORM + ".forward", "1 / np.sqrt(mean(c * c) + self.eps)", "1 / (np.sqrt(mean(c * c)) + self.eps)"),
        Edit(NORM + ".backward", "mean(dxhat * xhat_)", "mean(dxhat * xhat_) / (1 - self.eps * rstd_)")))
    yield Convention("variance-n-1", "the variance is divided by n - 1", edits=(
        Edit(NORM + ".forward", "mean(c * c) + self.eps", "mean(c * c) * (c.shape[-1] / (c.shape[-1] - 1)) + self.eps"),
        Edit(NORM + ".backward", "mean(dxhat * xhat_)", "mean(dxhat * xhat_) * (gain.size / (gain.size - 1))")))
    last = "forward.norm", "backward.norm", "grads.norm."
    yield Convention("no-last-norm", "there is no norm after the last block", lacks=last, edits=(
        Edit(BODY + ".forward", "(x, None) if self.norm is None else self.norm.forward(x)", "(x, None)"),
        Edit(BODY + ".backward", "if self.norm is not None:", "if False:")))


def _attention(c: GPTConfig) -> Iterator[Convention]:
    yield Convention("scale-by-layer", "scores are divided by 1, 2, 3, ... too, layer by layer",
                     config={"scale_attn_by_layer": True})
    yield Convention("scale-not-by-layer", "scores are not divided by 1, 2, 3, ..., layer by layer",
                     config={"scale_attn_by_layer": False})
    yield Convention("scale-sqrt-width", "scores are divided by sqrt(C)", edits=(
        Edit("config.GPTConfig.scale", "math.sqrt(self.head_dim)", "math.sqrt(self.n_embd)"),))
    yield Convention("scale-d", "scores are divided by D", edits=(
        Edit("config.GPTConfig.scale", "math.sqrt(self.head_dim)", "self.head_dim"),))
    if c.window:
        yield Convention("no-window", "every layer sees all positions", config={"window": None})
        yield Convention("window-plus-one", "the window does not count the position itself", config={"window": c.window + 1})
    yield Convention("heads-last", "in q, k and v, the heads' numbers alternate: (D, H), not (H, D)", edits=(
        Edit(*SPLIT, ".reshape(B, T, 3, D, H).transpose(2, 0, 4, 1, 3)"),
        Edit(*JOIN, "dqkv.swapaxes(3, 4).reshape(B, T, 3 * H * D)")))


def _weights(c: GPTConfig) -> Iterator[Convention]:
    def square(name, array):
        return array.T if name.endswith("attention.out.weight") and array.shape[0] == array.shape[1] else array

    def misread(name, array):
        return array.reshape(array.shape[::-1]).T if name.endswith(".weight") else array

    def unread(name, array):
        return array.T.reshape(array.shape) if name.endswith(".weight") else array

    if c.n_head * c.head_dim == c.n_embd:
        yield Convention("out-transposed", "attention's output weight, which is square, is read as its transpose",
                         weights=square, grads=square)
    yield Convention("weights-misread", "matrices (in, out) are read as (out, in) without being transposed",
                     weights=misread, grads=unread)


def _ends() -> Iterator[Convention]:
    """What goes in, and what comes out."""
    yield Convention("no-positions", "positions are not added", edits=(
        Edit(POSITIONS + ".forward", "x + self.table.value[rows]", "+x"),
        Edit(POSITIONS + ".backward", "self.table.grad[:T] += dy.sum(tuple(range(dy.ndim - 2)))", "pass")))
    yield Convention("positions-from-1", "positions are counted from 1", edits=(
        Edit(POSITIONS + ".forward", "self.table.value[rows]", "self.table.value[1:][rows]"),
        Edit(POSITIONS + ".backward", "self.table.grad[:T]", "self.table.grad[1:T + 1]")))
    yield Convention("embeddings-scaled", "embeddings are multiplied by sqrt(C)", edits=(
        Edit(TABLE + ".forward", "self.table.value[ids]", "self.table.value[ids] * self.table.shape[1] ** 0.5"),
        Edit(TABLE + ".backward", "if ids.size == 0 or", "dy = dy * self.table.shape[1] ** 0.5\n    if ids.size == 0 or")))
    own = "layers.loss.counted", "own = int((targets != IGNORE).sum())"
    yield Convention("mean-over-sequences", "the sum of the losses is divided by the number of sequences", edits=(
        Edit(*own, "own = len(targets) if targets.ndim > 1 else 1"),))


def _steps(c: GPTConfig, steps: Steps) -> Iterator[Convention]:
    yield Convention("decay-after", "weights decay after the step, not before it", edits=(
        Edit(STEP, "if shrink != 1:", "if False:"),
        Edit(STEP, "self._move(part, self.grads[part], scale, lr)",
             "self._move(part, self.grads[part], scale, lr)\n        for matrix in matrices:\n            self.values[matrix] *= shrink")))
    tables = "params[:2]" if c.positions == "learned" else "params[:1]"
    yield Convention("tables-not-decayed", "embeddings and positions do not decay", edits=(
        Edit("training.optim._matrices", "if len(param.shape) > 1]",
             f"if len(param.shape) > 1 and all(param is not one for one in {tables})]"),))
    yield Convention("no-decay", "weights do not decay", steps={"weight_decay": 0.0})
    yield Convention("decay-0.01", "the weight decay is 0.01", steps={"weight_decay": 0.01})
    yield Convention("no-clip", "the gradient is not clipped", steps={"clip": 1e30})
    yield Convention("betas-0.999", "the betas are 0.9 and 0.999", steps={"betas": (0.9, 0.999)})
    yield Convention("betas-0.95", "the betas are 0.9 and 0.95", steps={"betas": (0.9, 0.95)})
    for eps in (1e-6, 1e-8, 1e-10):
        yield Convention(f"adam-eps-{eps:g}", f"Adam's eps is {eps:g}", steps={"eps": eps})
