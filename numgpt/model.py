"""GPT: a body and a head, on one array of parameters and one of gradients."""

import json
import os
from collections.abc import Callable, Mapping

import numpy as np

from numgpt import adapted, safetensors
from numgpt.bfloat16 import file_type, rounded
from numgpt.body import Body
from numgpt.config import GPTConfig
from numgpt.files import FormatError, names_once
from numgpt.flat import Flat
from numgpt.layers import KV, HeadLoss, Layer, Param
from numgpt.layers.inputs import IGNORE
from numgpt.layers.tree import tree
from numgpt.plan import shapes
from numgpt.stored import Stored, common_dtype, matched, stored_in

OPTIMIZER = "optimizer."  # what the names of a checkpoint's tensors begin with that are not weights,
TASK = "task."  # and those of a model that was tuned to something else, beside the GPT that it is


class GPT(Flat):
    """A decoder of text: for each position, how likely each token is to come next.

        model = GPT(GPTConfig.preset("gpt2", n_ctx=256), seed=0)
        loss, saved = model.forward(ids, targets)     # mean over the targets that count; -100 does not
        model.backward(saved)                         # adds to every Param's grad
        loss = model(ids, targets)                    # the loss alone
        logits = model.logits(ids)                    # (B, T, V)

    All parameters are views of one array, model.values, and all gradients of another, model.grads, in the order of
    named_params(). Weights are drawn in that order too, from one generator, default_rng(seed), in float64; biases
    start at 0 and gains at 1. The dtype is float32, to train with; the layers by themselves default to float64, to
    check with. With recompute, each block keeps its input alone and runs a second time in backward.

    A batch may come in pieces: with count, the number of targets that count in all of it, their losses and gradients
    add up to the whole's. With rng, a generator, dropout is at work; without, there is none.

    Forward   loss = head(body(ids), targets)
    Backward  body.backward(head.backward(dloss))
    Saved     what the body and the head saved
    """

    def __init__(self, config: GPTConfig, *, seed=0, dtype=np.float32, recompute: bool = False):
        if not isinstance(config, GPTConfig):
            raise TypeError(f"GPT wants a GPTConfig, such as GPTConfig.preset('char'); got {type(config).__name__}")
        try:
            rng = np.random.default_rng(seed)
        except (TypeError, ValueError) as error:
            raise type(error)(f"seed must be a whole number from 0 on, or a generator; got {seed!r}") from None
        self.config = config
        self.body = Body(config, rng=rng, dtype=dtype, recompute=recompute)
        self.head = HeadLoss(config.n_embd, config.n_vocab, bias=config.head_bias, std=config.std, rng=rng, dtype=dtype,
                             tied=self.body.embedding.table if config.tied else None)
        self.lay_out()

    @classmethod
    def blank(cls, config: GPTConfig, **options) -> "GPT":
        """A model whose matrices and tables are zero, for a loader to fill; they take no memory until it does."""
        model = cls(config.change(std=0.0, std_positions=0.0, std_residual=0.0), **options)  # a std of 0 draws nothing
        model.config = config
        return model

    def forward(self, ids, targets, segments=None, *, rng: np.random.Generator | None = None, count: int | None = None):
        """The mean loss over the targets that count, and what backward needs beside the parameters.

        segments (B, T): the example that each position of a packed row belongs to; none sees another
        """
        x, saved_body = self.body.forward(ids, rng=rng, segments=segments)
        loss, saved_head = self.head.forward(x, targets, count=count)
        return loss, (saved_body, saved_head)

    def backward(self, saved, dloss: float = 1.0, *, finished: Callable[[Layer], None] | None = None) -> None:
        """Add the gradients of dloss * loss to every Param's grad; saved is what forward returned beside the loss.

        finished: called with each of the model's parts when its backward is done
        """
        if not (isinstance(saved, tuple) and len(saved) == 2 and isinstance(saved[0], tuple)):
            raise TypeError("backward wants the second of what forward returned: loss, saved = model.forward(ids, targets)")
        saved_body, saved_head = saved
        dx = self.head.backward(dloss, saved_head)
        if finished is None:
            self.body.backward(dx, saved_body)
        else:
            finished(self.head)
            self.body.backward(dx, saved_body, finished=finished)

    def __call__(self, ids, targets, segments=None, *, rng: np.random.Generator | None = None, count: int | None = None):
        """The loss alone, nothing kept."""
        return self.head(self.body(ids, rng=rng, segments=segments), targets, count=count)

    def logits(self, ids, segments=None) -> np.ndarray:
        """ids (B, T) -> (B, T, V): at each position, the scores of every token to come next."""
        return self.head.logits(self.body(ids, segments=segments))

    def decode_store(self, n_batch: int, n_tokens: int | None = None) -> list[KV]:
        """An empty decode store for each layer, for sequences of n_tokens (None: n_ctx).

        model.body(ids, kv=store) adds ids (B, T) to it, and what comes out is what they are after all that came before.
        """
        c = self.config
        return [KV(n_batch, c.n_head, n_tokens or c.n_ctx, c.head_dim, self.values.dtype) for _ in range(c.n_layer)]

    def count(self, ids, targets, segments=None) -> int:
        """How many targets of a batch count."""
        if np.shape(ids) != np.shape(targets) or np.ndim(ids) != 2:
            raise ValueError(f"a batch is ids and targets of one shape (B, T); got {np.shape(ids)} and {np.shape(targets)}")
        return int((np.asarray(targets) != IGNORE).sum())

    def flops_per_token(self, n_tokens: int | None = None, *, training: bool = False) -> float:
        """FLOPs of the matrix products for each token of a sequence of n_tokens (None: n_ctx)."""
        return self.config.flops_per_token(n_tokens, training=training)

    def save(self, path, *, dtype=None) -> None:
        """Write the weights, under their names, and the config to a safetensors file, which GPT.load reads.

        Adapters are merged into the weights that they stand beside, so that the file is that of any GPT.
        dtype: "float32", "float16", "bfloat16", ...; None: the model's.
        """
        kind = file_type(self.values.dtype, dtype, ("float64", "float32", "float16", "bfloat16", "complex64"))
        merged = {f"{name}.weight": layer for name, layer in adapted.adapters(self).items()}
        tensors = {name: rounded(merged[name].merged() if name in merged else param.value, kind)
                   for name, param in self.named_params() if not name.endswith(adapted.OWN)}
        if [(name, tensor.shape) for name, tensor in tensors.items() if not name.startswith(TASK)] != list(shapes(self.config)):
            raise ValueError("the model's layers are no longer those of its config, so no file could say what it is")
        safetensors.write(path, tensors, self.metadata())

    def metadata(self) -> dict[str, str]:
        """What stands in a file beside the weights, and says what they are of."""
        return {"format": "numgpt", "config": self.config.to_json()}

    @classmethod
    def load(cls, path, *, dtype=None, recompute: bool = False) -> "GPT":
        """The model that save wrote, or that a run's checkpoint holds, there with its adapters and with what is frozen.

        dtype None: as it was saved, 16-bit numbers in float32.
        """
        if os.path.isdir(path):
            raise FormatError(f"{path} is a folder: name the file in it, such as best.safetensors in that of a run")
        with safetensors.File(path) as file:
            weights = {name: stored for name, stored in stored_in(file).items() if not name.startswith((OPTIMIZER, TASK))}
            beside = adapted.OWN if adapted.ADAPTERS in file.metadata else ()
            own = {name: stored for name, stored in weights.items() if not name.endswith(beside)}
            model = cls.filled(config_in(file), own, str(path), dtype=dtype, recompute=recompute)
            adapted.restore(model, file.metadata, weights, path, beyond=(TASK,))
            return model

    @classmethod
    def filled(cls, config: GPTConfig, tensors: Mapping[str, Stored], source: str, *, dtype=None,
               theirs: Callable[[str], str] = str, recompute: bool = False) -> "GPT":
        """A model with the weights of a file, each copied once, to its place; theirs: from our name to the file's.

        All shapes are held against the config before any memory is taken: a file may claim any size.
        """
        chosen = matched(config, tensors, source, theirs)
        own = common_dtype(chosen.values())
        try:
            model = cls.blank(config, dtype=own if dtype is None else dtype, recompute=recompute)
        except ValueError as error:  # an eps, say, that is 0 in this type
            raise FormatError(f"{source}: {error}") from None
        if own.kind == "c" and model.values.dtype.kind != "c":
            raise TypeError(f"{source} is complex; {model.values.dtype} would lose half of it")
        for name, param in model.named_params():
            try:
                with np.errstate(over="raise", invalid="ignore"):  # a nan may be of any kind
                    param.value[...] = chosen[name].array()
            except FloatingPointError:
                raise FormatError(f"{source}: tensor {chosen[name].name!r} has numbers too large for {model.values.dtype}") from None
        return model

    def parts(self) -> list[tuple[Layer, list[Param]]]:
        """The layers that run one after the other in forward, each with its Params; one that two of them share is the first's,
        whose backward adds to it last.
        """
        body = self.body
        layers = [body.embedding, body.positions, *body.blocks, *([] if body.norm is None else [body.norm]), self.head]
        parts, seen = [], set()
        for layer in layers:
            params = layer.params()
            parts.append((layer, [param for param in params if id(param) not in seen]))
            seen |= set(map(id, params))
        return parts

    def _parts(self):
        """The body's parts and the head side by side: "blocks.0.norm1.gain", not "body.blocks.0.norm1.gain"."""
        return {**self.body._parts(), "head": self.head}

    def __repr__(self):
        c = self.config
        return tree(self, f"{self.n_params:,} parameters in {self.values.dtype}, {c.norm}-norm, context {c.n_ctx}")

    def hints(self, ids, targets, segments=None):
        return self.head.hints(ids, targets)


def config_in(file: safetensors.File) -> GPTConfig:
    """The config that GPT.save put into the metadata."""
    if file.metadata.get("format") == "numgpt-lora":
        raise FormatError(f"{file.path} has adapters, and not the model that they belong to: numgpt convert MODEL OUT --adapters {file.path} "
                          "makes one of both")
    if file.metadata.get("format") != "numgpt" or "config" not in file.metadata:
        raise FormatError(f"{file.path} was not written by numgpt: it has weights, and no config to say what to do with them")
    try:
        return GPTConfig.from_dict(json.loads(file.metadata["config"], object_pairs_hook=names_once))
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{file.path}: its config is not one: {error}") from None
