"""A whole model's books: each tensor of a pass with its formula, its size, the bytes that backward needs, and its FLOPs.

    books = ledger()                               # of two small layers; or ledger(GPTConfig.preset("char"), n_tokens=64)
    print(books)
    books["blocks.0.attention.qkv"].flops_forward  # 8640
    books.totals                                   # the sums of the columns, which are the figures of config.plan()

Nothing is estimated: tensors and gradients are a pass's own, bytes those of the arrays that forward returned for backward,
and FLOPs follow from the arrays that were multiplied.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers.inputs import float_type
from numgpt.model import GPT
from numgpt.plan import shapes
from numgpt.teach.ledger import page
from numgpt.teach.ledger.held import ITSELF, held
from numgpt.teach.terminal import Ink, coloured, width
from numgpt.threads import one_blas_thread
from numgpt.verify import hard
from numgpt.verify.formulas import tensors
from numgpt.verify.names import near
from numgpt.verify.tape import Tape, watched

ROUNDING = 1e-15  # relative, of FLOPs a token: a quotient and a sum may each round once
SECTIONS = {"embedding": "embedding", "positions": "embedding", "dropout": "embedding", "norm": "norm", "logits": "head",
            "probabilities": "loss", "loss": "loss"}
AXES = {"attention.qkv": "B, T, 3 H D", "attention.mixed": "B, T, H D", "ffn.up": "B, T, F", "ffn.activation": "B, T, F",
        **{f"attention.{part}": "B, H, T, D" for part in "qkv"},
        **{f"attention.{part}": "B, H, T, T" for part in ("scores", "probabilities", "kept")},
        "logits": "B, T, V", "probabilities": "B, T, V", "loss": ""}
PARAMETER_AXES = {"embedding.table": "V, C", "positions.table": "n_ctx, C", "head.weight": "C, V", "head.bias": "V",
                  "attention.qkv.weight": "C, 3 H D", "attention.qkv.bias": "3 H D", "attention.out.weight": "H D, C",
                  "ffn.up.weight": "C, F", "ffn.up.bias": "F", "ffn.down.weight": "F, C"}


@dataclass(frozen=True)
class Row:
    """A tensor of the pass, both ways: as forward makes it, and the loss's gradient by it.

    axes, shape           in letters, as in "B, T, C", and in numbers
    formula, of           how it is made, and what tensors the formula's names stand for, as a trace says it
    back, back_of         the same for the gradient; "" where backward makes none
    values, gradient      root mean squares; of attention's scores, over those that are seen. None: there is no such gradient
    kept                  what of it is kept for backward, with the bytes; "itself" is the tensor as it stands here
    flops_forward         of the matrix product that makes it
    flops_backward        of the two products that its gradient goes into, one for each of what had been multiplied
    """

    section: str
    name: str
    axes: str
    shape: tuple[int, ...]
    formula: str
    of: Mapping[str, str]
    back: str
    back_of: Mapping[str, str]
    values: float
    gradient: float | None
    kept: Mapping[str, int]
    flops_forward: int
    flops_backward: int

    @property
    def saved(self) -> int:
        """Bytes."""
        return sum(self.kept.values())


@dataclass(frozen=True)
class Parameter:
    """A parameter: its axes, how many numbers and bytes, and the root mean squares of them and of their gradients."""

    name: str
    axes: str
    shape: tuple[int, ...]
    size: int
    values: float
    gradient: float
    bytes: int


@dataclass(frozen=True)
class Ledger:
    config: GPTConfig
    batch: int
    n_tokens: int
    dtype: str
    rows: tuple[Row, ...] = field(repr=False)
    parameters: tuple[Parameter, ...] = field(repr=False)

    @property
    def totals(self) -> dict[str, float]:
        """The columns' sums, under the names of config.plan(), where FLOPs are a token's."""
        forward, backward = (sum(getattr(row, f"flops_{way}") for row in self.rows) for way in ("forward", "backward"))
        tokens = self.batch * self.n_tokens
        return {"n_params": sum(parameter.size for parameter in self.parameters),
                "weights": sum(parameter.bytes for parameter in self.parameters),
                "saved": sum(row.saved for row in self.rows),
                "flops_forward": forward / tokens, "flops_training": (forward + backward) / tokens}

    def compared(self) -> dict[str, tuple[float, float]]:
        """Each total with the same figure of the plan, which knows the config alone."""
        plan = self.config.plan(batch=self.batch, n_tokens=self.n_tokens, dtype=self.dtype)
        return {name: (total, getattr(plan, name)) for name, total in self.totals.items()}

    @property
    def faults(self) -> list[str]:
        """Sentences about the totals that are not the plan's; none where all are, but for a rounding of the quotients."""
        return [f"{page.SAID[name]}: {page.exact(total)} in this pass, but {page.exact(planned)} in config.plan"
                for name, (total, planned) in self.compared().items() if not math.isclose(total, planned, rel_tol=ROUNDING)]

    @property
    def ok(self) -> bool:
        return not self.faults

    def sections(self) -> Iterator[tuple[str, list[Row]]]:
        """Each part of the model with its rows, in the order of forward."""
        for section in dict.fromkeys(row.section for row in self.rows):
            yield section, [row for row in self.rows if row.section == section]

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no tensor of the pass is called {name!r}" + near(name, [row.name for row in self.rows]))

    def text(self, columns: int, ink: Ink = Ink(False), *, backward: bool = False) -> str:
        """For a terminal of so many columns, 60 at least; backward: with the gradients' formulas too."""
        return page.text(self, columns, ink, backward)

    def __str__(self):
        return self.text(width(160), Ink(coloured()))

    __repr__ = __str__  # what a session shows of it

    def _repr_html_(self):
        return page.html(self)


def ledger(config: GPTConfig | None = None, *, batch: int = 2, n_tokens: int = 5, seed: int = 0, dtype=np.float64) -> Ledger:
    """The books of one pass of the config's model, its weights and the batch drawn from the seed; None: the preset nano.

    Dropout is at work where the config has any.
    """
    config = GPTConfig.preset("nano") if config is None else config
    plan = config.plan(batch=batch, n_tokens=n_tokens, dtype=dtype)  # which refuses sizes that make no pass
    model = GPT(config, seed=seed, dtype=float_type(dtype))
    ids, targets = hard.batch(config, plan.batch, plan.n_tokens, seed, every_target=True)
    drops = bool(config.dropout_embd or config.dropout_attn or config.dropout_resid)

    def rng():
        return np.random.default_rng((seed, hard.DROPOUT)) if drops else None

    tape = Tape()
    twin = watched(model, tape)
    with one_blas_thread():
        # A watched model takes the head's rows and the queries in one piece; what is kept is asked of the model as it is.
        kept: dict[str, dict[str, int]] = {}
        for name, what, array in held(config, model.forward(ids, targets, rng=rng())[1]):
            kept.setdefault(name, {})
            kept[name][what] = kept[name].get(what, 0) + array.nbytes
        twin.backward(twin.forward(ids, targets, rng=rng())[1])
    listed = {tensor.name: tensor for tensor in tensors(config, plan.batch, plan.n_tokens, dropout=drops)}
    rows = tuple(_row(tensor, listed, tape.tensors, kept) for name, tensor in listed.items()
                 if name.startswith("forward."))
    return Ledger(config, plan.batch, plan.n_tokens, plan.dtype, rows, tuple(_parameters(twin)))


def _row(tensor, listed: Mapping, passed: Mapping[str, np.ndarray], kept: Mapping) -> Row:
    name = tensor.name.removeprefix("forward.")
    way_back = listed.get(f"backward.{name}")
    values = np.asarray(passed[tensor.name])
    gradient = {"loss": np.ones(())}.get(name, passed.get(f"backward.{name}"))  # backward begins with 1, at the loss
    block, part = _split(name)
    flops = _flops(tensor, passed)
    return Row(block or SECTIONS[name], name, AXES.get(part, "B, T, C"), values.shape, tensor.formula, tensor.of,
               way_back.formula if way_back else "", way_back.of if way_back else {},
               size_of(values), None if gradient is None else size_of(gradient, np.isfinite(values)),
               dict(sorted(kept.get(name, {}).items(), key=lambda item: item[0] != ITSELF)), *flops)


def _flops(tensor, passed: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Of the product that makes a tensor, and of the two back from it. What attention's mask hides is no work."""
    name, _, part = tensor.name.rpartition(".")
    if part in ("scores", "mixed"):  # for each key that is seen, D numbers of q by those of k, or p by D numbers of v
        seen = int((passed[f"{name}.scores"] > -np.inf).sum())
        D = passed[f"{name}.q"].shape[-1]
        return 2 * seen * D, 2 * (2 * seen * D)
    if "@" in tensor.formula:
        x, y = passed[tensor.of["x"]], passed[tensor.name]
        rows = x.size // x.shape[-1]
        one = 2 * rows * x.shape[-1] * y.shape[-1]
        return one, 2 * one
    return 0, 0


def _parameters(model: GPT) -> Iterator[Parameter]:
    axes = dict(shapes(model.config))
    for name, param in model.named_params():
        _, part = _split(name)
        yield Parameter(name, PARAMETER_AXES.get(part, "C"), axes[name], param.size,
                        size_of(param.value), size_of(param.grad), param.value.nbytes)


def _split(name: str) -> tuple[str, str]:
    """("blocks.0", "attention.qkv") of "blocks.0.attention.qkv"; ("", name) of what is in no block."""
    if not name.startswith("blocks."):
        return "", name
    blocks, i, part = name.split(".", 2)
    return f"{blocks}.{i}", part


def size_of(array, seen=True) -> float:
    """The root of the mean square of what is seen and finite."""
    array = np.asarray(array, np.float64)
    chosen = array[np.isfinite(array) & seen]
    return float(np.sqrt((chosen * chosen).mean()))
