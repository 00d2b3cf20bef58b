"""A trace: all that a GPT computes for one batch, from token ids to the moments of AdamW, to hold a port against.

    trace = record(model, ids, targets)            # or example(config, seed=0) for a model and a batch of its own
    trace["backward.blocks.0.attention.scores"]
    trace.write("ref.safetensors");  trace = Trace.read("ref.safetensors")

The numbers are computed in float64, from weights that float32 has exactly. The manifest says of each tensor what it is, and how far
a run in float32, and one in bfloat16, came from it: those are the errors that a port in these types is allowed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from numgpt import safetensors
from numgpt.config import GPTConfig
from numgpt.files import FormatError, names_once, short
from numgpt.layers.inputs import IGNORE
from numgpt.model import GPT
from numgpt.threads import one_blas_thread
from numgpt.verify import draws, hard
from numgpt.verify.formulas import WORDS, tensors
from numgpt.verify.manifest import RULES, SYMBOLS, check, check_batch, listed
from numgpt.verify.noise import KINDS, length, measured
from numgpt.verify.passes import Steps, compute

FORMAT, VERSION = "numgpt-trace", 1


@dataclass(repr=False)
class Trace(Mapping):
    """The tensors by name, in the order in which they were computed, and the manifest."""

    tensors: Mapping[str, np.ndarray]
    manifest: dict
    config: GPTConfig
    path: str = ""
    entries: dict[str, dict] = field(init=False)

    def __post_init__(self):
        self.entries = {entry["name"]: entry for entry in self.manifest["tensors"]}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self):
        return f"Trace of {len(self)} tensors" + f" in {self.path}" * bool(self.path)

    @property
    def steps(self) -> Steps:
        return Steps(**self.manifest["steps"])

    def masks(self) -> dict[str, np.ndarray] | None:
        """What dropout kept; None: no dropout is at work."""
        return {name: self[name] for name in self if name.startswith("masks.")} or None

    def model(self, dtype=np.float64) -> GPT:
        """The model as it was before the first step."""
        model = GPT.blank(self.config, dtype=dtype)
        for name, param in model.named_params():
            param.value[...] = self[f"weights.{name}"]
        return model

    def write(self, path, *, dtype="float64") -> None:
        """One safetensors file. Weights go into it in float32, which has them exactly; dtype is that of what is computed."""
        kept = {name: array.astype(np.float32) if name.startswith("weights.") else
                array.astype(dtype) if array.dtype.kind == "f" else array for name, array in self.items()}
        safetensors.write(path, kept, {"format": FORMAT, "config": self.config.to_json(), "manifest": json.dumps(self.manifest)})

    @classmethod
    def read(cls, path) -> "Trace":
        """The trace of a file; its tensors are mapped into memory when they are asked for."""
        file = safetensors.File(path)
        try:
            if file.metadata.get("format") != FORMAT:
                raise FormatError(f"{path} is no trace of numgpt's: numgpt trace writes one")
            try:
                return cls._of(file, path)
            except KeyError as error:
                wrong = f"it says nothing of {error}"
            except RecursionError:
                wrong = "its manifest is nested too deeply"
            except (TypeError, ValueError, AttributeError, OverflowError) as error:  # FormatErrors among them
                wrong = f"{error}"
            raise FormatError(f"{path} is no trace that this numgpt reads: {wrong}")
        finally:
            file.close()  # the map lives on

    @classmethod
    def _of(cls, file: safetensors.File, path) -> "Trace":
        manifest = json.loads(file.metadata["manifest"], object_pairs_hook=names_once)
        config = GPTConfig.from_dict(json.loads(file.metadata["config"], object_pairs_hook=names_once))
        if type(manifest["version"]) is not int or manifest["version"] != VERSION:
            raise FormatError(f"it is of version {short(manifest['version'])}; this numgpt reads {VERSION}")
        check(manifest, config, file.entries)
        file.map_whole()
        check_batch(file["inputs.ids"], file["inputs.targets"], config, manifest["batch"]["counted"])
        return cls(file, manifest, config, str(path))


def example(config: GPTConfig, *, seed: int = 0, adversarial: bool = False, model: GPT | None = None, batch: int | None = None,
            n_tokens: int | None = None, every_target: bool = False, dropout: bool = False, steps: Steps = Steps(), n_decode: int = 0) -> Trace:
    """A trace of the config's model as the seed makes it, or of this model, on a batch that the seed draws.

    adversarial: the config's form in sizes that are coprime, with weights of order one and large logits
    every_target: all of them count, for programs that cannot leave any out
    """
    if adversarial:
        if model is not None:
            raise ValueError("the adversarial case has sizes and weights of its own: name a preset or a config, not weights")
        config = hard.hard(config, dropout)
        batch, n_tokens = batch or hard.BATCH[0], n_tokens or hard.BATCH[1]
    batch, n_tokens = batch or 4, n_tokens or min(config.n_ctx, 64)
    if not 1 <= n_tokens <= config.n_ctx:
        raise ValueError(f"sequences of {n_tokens} tokens do not fit into a context of {config.n_ctx}")
    if not 0 <= n_decode < n_tokens:
        raise ValueError(f"of {n_tokens} tokens, at most {n_tokens - 1} can be decoded after the first; got {n_decode}")
    ids, targets = hard.batch(config, batch, n_tokens, seed, every_target=every_target)
    if model is not None:
        return record(model, ids, targets, seed=seed, dropout=dropout, steps=steps, n_decode=n_decode)
    origin = "drawn from seeds.weights: std * normal() in matrices and tables, 1 in gains, 0 in biases"
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is named by record
        model = GPT(config, seed=seed)
        if adversarial:
            origin = "drawn from seeds.adversarial weights, of order one; gain and bias behind the blocks are as much larger as the logits are to be"
            hard.harden(model, ids, seed)
    return record(model, ids, targets, seed=seed, dropout=dropout, steps=steps, n_decode=n_decode, adversarial=adversarial, origin=origin)


def record(model: GPT, ids, targets, *, seed: int = 0, dropout: bool = False, steps: Steps = Steps(), n_decode: int = 0,
           adversarial: bool = False, origin: str = "of the model that was traced") -> Trace:
    """A trace of this model on this batch; seed: of what dropout keeps; origin: of its weights, in words."""
    c = model.config
    if dropout and not (c.dropout_embd or c.dropout_attn or c.dropout_resid):
        raise ValueError("the config has no dropout to trace: change dropout_embd, dropout_attn or dropout_resid")
    if dropout and steps.pieces > 1:
        raise ValueError("a batch in pieces draws other masks than the whole: trace dropout, or pieces, not both")
    ids, targets = np.asarray(ids, np.int32), np.asarray(targets, np.int32)
    if steps.pieces > len(ids):
        raise ValueError(f"a batch of {len(ids)} sequences does not come in {steps.pieces} pieces")
    # many threads would only get into each other's way over small arrays; and what is not finite is looked for, and refused
    with one_blas_thread(), np.errstate(all="ignore"):
        return _recorded(model.astype(np.float32).astype(np.float64), ids, targets, seed, dropout, steps, n_decode, adversarial, origin)


def _recorded(model: GPT, ids, targets, seed: int, dropout: bool, steps: Steps, n_decode: int, adversarial: bool, origin: str) -> Trace:
    c, (B, T) = model.config, ids.shape
    settings = dict(steps=steps, n_decode=n_decode)
    truth = compute(model, ids, targets, rng=np.random.default_rng((seed, hard.DROPOUT)) if dropout else None, **settings)
    found = list(listed(c, B, T, dropout=dropout, origin=origin, **settings))
    assert [(tensor.name, tensor.shape) for tensor in found] == [(tensor.name, truth[tensor.name].shape) for tensor in found] and len(found) == len(truth)
    for tensor in found:
        _refuse_what_is_not_finite(tensor.name, truth[tensor.name])
    masks = {name: array for name, array in truth.items() if name.startswith("masks.")} or None
    noise = measured(model, truth, masks=masks, **settings)
    for tensor in found:
        for kind in KINDS:
            if not math.isfinite(noise[tensor.name][kind]):
                raise ValueError(f"there is nothing to hold a port against: in {kind}, {tensor.name} is not finite; "
                                 "take smaller weights, or smaller settings of the steps")
    manifest = {
        "version": VERSION, "seed": seed, "adversarial": adversarial, "dropout": dropout, "n_decode": n_decode,
        "batch": {"B": B, "T": T, "counted": int((targets != IGNORE).sum())},
        "steps": asdict(steps), "rules": RULES, "symbols": SYMBOLS, "words": WORDS, "random": _random(seed),
        "tensors": [{"name": tensor.name, "shape": list(tensor.shape), "formula": tensor.formula, "of": dict(tensor.of),
                     **({"says": tensor.says} if tensor.says else {}), "norm": length(truth[tensor.name]), "noise": noise[tensor.name]}
                    for tensor in found]}
    return Trace({tensor.name: truth[tensor.name] for tensor in found}, manifest, c)


def _refuse_what_is_not_finite(name: str, array: np.ndarray) -> None:
    """Scores may be -inf, which hides a position, and nothing else may be anything but a number."""
    bad = array.size - int(np.isfinite(array).sum())
    if bad and name.startswith("forward.") and name.endswith(".scores"):
        bad -= int(np.isneginf(array).sum())
    if bad:
        raise ValueError(f"there is nothing to hold a port against: {bad} of {array.size} numbers of {name} are not finite; "
                         "take smaller weights, or smaller settings of the steps")


def _random(seed: int) -> dict:
    """How random numbers were drawn, and some to hold a generator of one's own against."""
    return {"recipe": draws.__doc__, "probes": draws.probes(seed),
            "seeds": {"weights": seed, "token ids": [seed, hard.IDS], "dropout": [seed, hard.DROPOUT], "adversarial weights": [seed, hard.WEIGHTS]}}


def size_of(config: GPTConfig, B: int, T: int, n_steps: int, itemsize: int) -> int:
    """About how many bytes the tensors of a trace take."""
    # Those of one layer and of two: the difference is a layer, and all are alike.
    one, two = (sum(math.prod(tensor.shape) for tensor in tensors(config.change(n_layer=n), B, T)) for n in (1, 2))
    activations = one + (config.n_layer - 1) * (two - one)
    return 4 * config.n_params + itemsize * (activations + 4 * n_steps * config.n_params)
