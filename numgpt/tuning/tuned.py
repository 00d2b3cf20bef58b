"""What fine-tuning makes of a GPT: the same model with another loss, and perhaps a head beside the one for tokens."""

import json

import numpy as np

from numgpt.layers import Layer, Param
from numgpt.layers.inputs import IGNORE
from numgpt.model import GPT
from numgpt.tuning.template import Template


class Tuned(GPT):
    """A GPT, whose layers it takes over, with a task: a layer that stands on the body beside the head for tokens.

    It samples, scores and decodes as any GPT does, and what it saves GPT.load reads as one. A kind of Tuned says what its
    loss is, in forward, backward, __call__ and count; about() has what a file needs to say for build() to make another.

    template   how an example is written in tokens
    task       None, where the loss is of tokens alone
    """

    def __init__(self, gpt: GPT, template: Template, task: Layer | None = None):
        if gpt.config.n_vocab < template.n_vocab:
            raise ValueError(f"the template's tokens go up to {template.n_vocab - 1}, the model's to {gpt.config.n_vocab - 1}: "
                             "give it more with grown(gpt, template.n_vocab)")
        self.config, self.body, self.head, self.template = gpt.config, gpt.body, gpt.head, template
        if task is not None:
            self.task = task
        self.lay_out()

    def about(self) -> dict:
        """What a file says of it beside the config: what build() takes."""
        return {"kind": self.template.kind, "template": self.template.to_dict()}

    @classmethod
    def build(cls, gpt: GPT, template: dict, **about) -> "Tuned":
        """One over a GPT, with a task that knows nothing yet."""
        return cls(gpt, Template.from_dict(template), **about)

    def metadata(self):
        return {**super().metadata(), "tuned": json.dumps(self.about())}

    def parts(self) -> list[tuple[Layer, list[Param]]]:
        task = vars(self).get("task")
        return [*super().parts(), *([] if task is None else [(task, task.params())])]

    def _parts(self):
        return {**super()._parts(), **{name: part for name, part in vars(self).items() if name == "task"}}

    def hints(self, ids, *rest):
        return {"N": np.size(ids)}


def in_rows(ids) -> np.ndarray:
    """ids (..., T) as (N, T): all sequences of a batch go through the body side by side."""
    ids = np.asarray(ids)
    return ids.reshape(-1, ids.shape[-1])


def unpadded(last, ids, *targets) -> tuple[np.ndarray, ...]:
    """ids (..., T), and targets of their shape, less the columns on the right where no sequence has a token or a target.

    last (...) is where each sequence ends. Products of other shapes are rounded otherwise: with what is cut here, how far a
    batch is filled up would show in the last bit.
    """
    end = int(np.max(last, initial=0))
    for array in map(np.asarray, targets):
        counted = np.flatnonzero((array != IGNORE).any(tuple(range(array.ndim - 1))))
        end = max(end, *counted[-1:])
    return tuple(np.asarray(array)[..., :end + 1] for array in (ids, *targets))


def pairs(ids, **others) -> int:
    """How many pairs a batch has: chosen and rejected side by side, of which others have a number each, or a row."""
    shape = np.shape(ids)
    if len(shape) != 3 or shape[1] != 2 or any(np.shape(array) not in (shape, shape[:2]) for array in others.values()):
        raise ValueError(f"a batch of pairs is ids (B, 2, T), chosen and rejected side by side, and {' and '.join(others)} to them; "
                         f"got {' and '.join(str(np.shape(array)) for array in (ids, *others.values()))}")
    return shape[0]


def nobody(layer: Layer) -> None:
    """Whom backward tells of each part it is through with, where nobody wants to know."""
