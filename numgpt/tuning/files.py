"""Tuned models in files: numgpt's, with a word on what the model was tuned to."""

import json
from pathlib import Path

from numgpt import adapted, formats, safetensors
from numgpt.files import FormatError, names_once
from numgpt.formats import BEST, kind_of
from numgpt.model import GPT, TASK
from numgpt.tuning import adapters
from numgpt.tuning.classifier import HEADS, Classifier
from numgpt.tuning.dpo import DPOModel
from numgpt.tuning.instruct import Instructed
from numgpt.tuning.ppo import ActorCritic
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned

CLASSES: dict[str, type[Tuned]] = {**dict.fromkeys(HEADS, Classifier), "instruct": Instructed, "prompts": Tuned,
                                  "reward": RewardModel, "dpo": DPOModel, "ppo": ActorCritic}
HEADLESS = ("instruct", "prompts", "dpo")  # kinds whose loss is of tokens alone


def load(path, *, dtype=None, recompute: bool = False) -> GPT:
    """The model at a path that formats.load takes, of the kind that it was tuned to; a GPT, if to none."""
    kind, path = kind_of(path), Path(path)
    if kind == "run":
        kind, path = "numgpt", path / BEST
    about = tuned_to(path) if kind == "numgpt" else None
    gpt = formats.load(path, dtype=dtype, recompute=recompute)
    return gpt if about is None else _tuned(gpt, about, path)


def with_adapters(gpt: GPT, path) -> GPT:
    """A base with the adapters of a file, of the kind that it was tuned to with them; it takes the base over."""
    adapters.load(gpt, path)
    about = tuned_to(path)
    return gpt if about is None else _tuned(gpt, about, path)


def _tuned(gpt: GPT, about: dict, path) -> Tuned:
    """What a file says that a GPT was tuned to, with the file's task."""
    try:
        kind = about.pop("kind")
        model = CLASSES[kind].build(gpt, **about)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} says that its model was tuned, and not to what this version of numgpt knows: {error}") from None
    _fill(model, path)
    return model


def tuned_to(path) -> dict | None:
    """What a file says of a tuned model; None, if it is of another."""
    with safetensors.File(path) as file:
        if "tuned" not in file.metadata:
            return None
        try:
            about = json.loads(file.metadata["tuned"], object_pairs_hook=names_once)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: what it says of its tuning is not JSON: {error}") from None
    if not isinstance(about, dict):
        raise FormatError(f"{path}: what it says of its tuning is no object of JSON")
    return about


def told_at(path) -> dict | None:
    """What is said of the tuned model at a path, such as a run's folder; None, if it was not tuned."""
    kind = kind_of(path)
    return tuned_to(Path(path) / BEST if kind == "run" else path) if kind in ("run", "numgpt") else None


def template_of(path) -> Template | None:
    """How examples are written for the model at a path; None, if it was not tuned."""
    about = told_at(path)
    try:
        return None if about is None else Template.from_dict(about["template"])
    except KeyError:
        raise FormatError(f"{path} says that its model was tuned, and not with which template") from None


def _fill(model: Tuned, path) -> None:
    """The task's parameters, which are not the GPT's."""
    with safetensors.File(path) as file:
        own = {name: param for name, param in model.named_params() if name.startswith(TASK)}
        found = {name for name in file if name.startswith(TASK)}
        if found != set(own):
            raise FormatError(f"{path}: a model of this kind has {', '.join(sorted(own)) or 'no parameters of its own'}; "
                              f"the file has {', '.join(sorted(found)) or 'none'}")
        for name, param in own.items():
            if file[name].shape != param.shape:
                raise FormatError(f"{path}: {name!r} has the shape {file[name].shape}, where its kind has {param.shape}")
            param.value[...] = file[name]
        if adapted.ADAPTERS in file.metadata:
            adapted.keep(model, adapted.trained_in(file.metadata, path))
