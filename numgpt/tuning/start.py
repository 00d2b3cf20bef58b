"""From what somebody asks for to a trainer: which stage, on which model, with which examples."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from numgpt import formats
from numgpt.config import GPTConfig
from numgpt.files import FormatError, nearest
from numgpt.flat import Flat
from numgpt.model import GPT
from numgpt.text import CharTokenizer, load_tokenizer
from numgpt.training.checkpoint import tokenizer_of
from numgpt.training.settings import Settings
from numgpt.training.trainer import Trainer
from numgpt.tuning import adapters, examples, files, synthetic
from numgpt.tuning.encoding import encode, parted
from numgpt.tuning.growth import grown
from numgpt.tuning.lines import names
from numgpt.tuning.prompts import REWARD
from numgpt.tuning.stages import SMALL, STAGES, Stage
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned

ADAPTERS = "adapters.safetensors"  # in a run's folder, those of its best model, alone
HELD = 3  # sets the generator that chooses what is held out apart from others
LONGEST = 1024  # tokens in the context of a model from nothing
LORA_RATE = 10  # as many times as high is the rate at which adapters learn as fast as a whole model does, in what we measured
FRESH, FRESH_SETTINGS = dict(n_layer=4, n_head=4, n_embd=128), {**SMALL, "epochs": 10}  # a model from nothing, on somebody's examples


class Tuner(Trainer):
    """A trainer of a tuned model: it goes on with the examples that its checkpoint names."""

    load = staticmethod(files.load)
    changed, begins = "the examples are no longer those", "{} for a MODEL"

    @classmethod
    def _restored(cls, saved):
        source = saved.state["source"]
        if source is None or source.get("stage") not in STAGES:
            raise FormatError("this run is no fine-tuning: it goes on with numgpt train --resume")
        data = read(source, tokenizer_of(saved.tokenizer_files), saved.model.template.n_base, saved.model.config.n_ctx,
                    labels=getattr(saved.model, "labels", None))
        data.restore(saved.path.parent)
        return data

    def keep_best(self):
        """Write it, with its adapters merged, and these alone, for the model that they were trained beside."""
        super().keep_best()
        if adapters.adapters(self.model):
            base = (self.source or {}).get("lora", {})  # nothing, where somebody put them on by hand: it is what is frozen
            adapters.save(self.model, self.folder.path / ADAPTERS, n_vocab=base.get("n_vocab"), base=base.get("fingerprint"))


def finetune(stage: str, base=None, paths: Sequence = (), **options) -> Tuner:
    """Fine-tune a model from beginning to end, and give back its trainer, closed, with .model, .data and .evaluate().

    numgpt.finetune("classify", "gpt2/", "films.jsonl", folder="run"); see prepare for the options.
    """
    with prepare(stage, base, paths, **options) as trainer:
        return trainer.run()


def prepare(stage: str, base=None, paths: Sequence = (), *, validation=None, held_out: float = 0.1, labels: Sequence | None = None,
            tokenizer=None, skip_bad: bool = False, truncate: bool = False, folder=None, dtype=None, recompute: bool = False,
            report=None, drawn: str | None = None, lora: int | None = None, lora_alpha: float | None = None,
            lora_layers: str | Sequence[str] | None = None, **settings) -> Tuner:
    """A trainer that has not begun.

    stage       one of STAGES
    base        the model to begin with: a run's folder, a file or folder of weights, or a GPT, which stays as it is; None: a
                small one, from nothing. One that was tuned to the same, with the same labels, goes on with its head. Adapters
                that it has are merged, and what it has frozen is trained
    paths       of JSON lines (see lines.py); none: what is drawn for the stage
    validation  a file that is held out, in place of the share held_out of the examples
    labels      the only ones there may be; None: those of the examples
    skip_bad    lines that cannot be used are counted and left out; truncate: a row too long for the context is cut,
                see Template.sequences
    drawn       what synthetic.py draws where there are no paths; None: what the stage has
    lora        the rank of adapters that are trained in place of the base's weights, with the task's head; None: all is trained
                (see adapters.py). Rows of tokens that are new stay as they were drawn: the adapters
                learn to write into them and to read from them, and a run that trained the table as well was no better
    lora_alpha, lora_layers   as adapters.add has them, but beside all Linears of the blocks where nothing is said
    settings    the stage's own options, and see Settings
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    what = _stage(stage, base, paths, drawn=drawn, validation=validation, labels=labels, lora=lora, of_lora=(lora_alpha, lora_layers))
    if folder is not None and callable(settings.get("reward")) and not isinstance(settings["reward"], Flat):
        raise ValueError("a reward that is a function is in no file, so a run with a folder could not go on: name a reward model, or leave "
                         "folder= out")
    usual = dict(what.drawn.settings if not paths else what.settings if base is not None else {**FRESH_SETTINGS, **what.fresh})
    if lora is not None and paths:
        usual |= {name: LORA_RATE * usual[name] for name in ("lr", "min_lr")}
    options, reads = ({name: settings.pop(name, usual.pop(name, default)) for name, default in of.items()} for of in (what.options, what.reads))
    if isinstance(reads.get("rollout"), int):  # a batch has no more answers than a step, unless somebody says so
        usual["batch"] = max(1, min(usual["batch"], reads["rollout"]))
    chosen = Settings.of(usual, **settings)
    source = {"stage": stage, "command": what.command, "files": [str(Path(path).resolve()) for path in paths],
              "validation": validation and str(Path(validation).resolve()), "held_out": held_out, "skip_bad": skip_bad, "truncate": truncate,
              "drawn": drawn, "reads": {name: _told(option) for name, option in reads.items()}}
    parts = _examples(what, source, labels)
    if isinstance(base, GPT) and adapters.adapters(base):
        base = adapters.plain(base)
    gpt, tokenizer, own = _base(base, tokenizer, what, parts, source, dtype, recompute, chosen.seed)
    if lora is not None:
        source["lora"] = {"n_vocab": gpt.config.n_vocab, "fingerprint": adapters.fingerprint(gpt)}
    source["known"] = own is not None and own.fits(what.kind)  # the template's tokens
    template = Template(what.kind, own.n_base if source["known"] else gpt.config.n_vocab)
    data = _encoded(what, {**source, "reads": reads}, parts, template, tokenizer, gpt.config.n_ctx)
    rng = np.random.default_rng(chosen.seed)
    whole = grown(gpt, max(gpt.config.n_vocab, template.n_vocab), seed=rng, dtype=dtype, recompute=recompute or None)
    model = what.model(whole, data, rng=rng, **options)
    taught, data.head = _go_on(model, base, own)
    data.begins_with(model, taught=taught)
    if lora is not None:
        task = ["task"] if "task" in vars(model) else []
        adapters.add(model, lora, alpha=lora_alpha, layers=lora_layers or "all", also=task, seed=rng)
    return Tuner(model, data, chosen, folder=folder, source=source, report=report)


def _stage(name: str, base, paths: list, *, drawn, validation, labels, lora, of_lora: tuple) -> Stage:
    """The stage of that name, if what is asked of it goes together."""
    if name not in STAGES:
        near = nearest(name, STAGES)
        raise ValueError(f"there is no stage {name!r}" + (f", but there is {near!r}" if near else "") + f": choose one of {', '.join(STAGES)}")
    what = STAGES[name]
    if not paths and what.drawn is None:
        raise ValueError(f"nothing is drawn for {name}: give a file of JSON lines")
    if drawn is not None and (paths or what.drawn is None or synthetic.KIND.get(drawn) != synthetic.KIND[what.drawn.name]):
        raise ValueError(f"{drawn!r} is not drawn beside files" if paths else f"{drawn!r} is nothing that is drawn for {name}")
    if validation is not None and not paths:
        raise ValueError("what is drawn has held-out examples of its own: --validation goes with a file to train on")
    if not paths and labels is not None:
        raise ValueError("what is drawn has labels of its own: labels go with a file to train on")
    if labels is not None and what.kind not in examples.LABELLED:
        raise ValueError(f"examples of {what.kind} have no labels")
    if lora is None and of_lora != (None, None):
        raise ValueError("lora_alpha and lora_layers would do nothing without lora, a rank")
    if lora is not None and base is None:
        raise ValueError("LoRA is trained beside weights that have learned something: name the model to begin with")
    return what


def _told(option):
    """An option of a stage's data, as a file can say it."""
    if isinstance(option, Path):
        return str(option.resolve())
    return REWARD if isinstance(option, Flat) else option  # which will lie in the run's folder


def read(source: dict, tokenizer, n_base: int, n_ctx: int, *, labels: Sequence | None = None):
    """The data that a source names, in a template whose tokens begin at n_base."""
    what = STAGES[source["stage"]]
    return _encoded(what, source, _examples(what, source, labels), Template(what.kind, n_base), tokenizer, n_ctx)


def _encoded(what: Stage, source: dict, parts, template: Template, tokenizer, n_ctx: int):
    answer = source["reads"]["response"] or 1 if parts[0].kind == "prompts" else 0
    if answer and n_ctx - answer < 3:
        raise ValueError(f"answers of {answer} tokens leave no room for a prompt in the model's context of {n_ctx}: say a lower --response")
    found, bad = [encode(part, template, tokenizer, n_ctx, truncate=source["truncate"], answer=answer) for part in parts], parts[0].bad
    for part in parts[1:]:
        bad.join(part.bad)
    train, kept = found if len(found) > 1 else parted(*found, source["held_out"], np.random.default_rng(HELD))
    data = what.data(train, kept, template, tokenizer, labels=parts[0].labels, bad=bad, **source["reads"])
    data.drawn = None if source["files"] else source["drawn"] or what.drawn.name
    return data


def _go_on(model: Tuned, base, own: Template | None) -> tuple[bool, str | None]:
    """The head of a model that was tuned to the same, with the same labels, is not begun anew: whether it goes on, and a line on it."""
    if own is None or vars(model).get("task") is None:
        return False, None
    tuned = base if isinstance(base, GPT) else files.load(base)
    if vars(tuned).get("task") is None:
        return False, None
    (kind, labels), (theirs, known) = ((about["kind"], about.get("labels") or ()) for about in (model.about(), tuned.about()))
    if own != model.template or kind != theirs or len(labels) != len(known) or {*map(repr, labels)} != {*map(repr, known)}:
        had = f", with the labels {names(known)}" if kind == theirs and known else ""
        return False, f"the head begins anew: the model's own is for {theirs}{had}"
    order = [[*map(repr, known)].index(repr(label)) for label in labels]
    params = dict(tuned.task.named_params())
    for name, param in model.task.named_params():
        param.value[...] = params[name].value[..., order] if order else params[name].value
    return True, "the head goes on as it was" + (", with its labels in another order" if order != sorted(order) else "")


def _examples(what: Stage, source: dict, labels) -> tuple[examples.Examples, ...]:
    """Those to train on and those held out; or all, of which a share is held out when it is known which of them can be used."""
    if not source["files"]:
        drawn = replace(what.drawn, name=source.get("drawn") or what.drawn.name)
        return (synthetic.draw(drawn.name, drawn.n, (0, 0), distinct=drawn.distinct),
                synthetic.draw(drawn.name, drawn.n_held_out, (0, 1), held_out=True, distinct=drawn.distinct))
    options = dict(labels=labels, skip_bad=source["skip_bad"])
    found = examples.read(source["files"], what.kind, **options)
    if source["validation"]:
        return found, examples.read(source["validation"], what.kind, **{**options, "labels": found.labels})
    return found,


def _base(base, tokenizer, what: Stage, parts, source: dict, dtype, recompute: bool, seed: int) -> tuple[GPT, object, Template | None]:
    """The model to begin with, its tokenizer, and the template of what it was tuned to."""
    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(tokenizer)
    if base is None:
        return *_fresh(tokenizer, what, parts, source, dtype, recompute, seed), None
    own = getattr(base, "template", None)
    if not isinstance(base, GPT):
        path, base, own = base, formats.load(base, dtype=dtype, recompute=recompute), files.template_of(base)
        if adapters.adapters(base):  # a checkpoint's
            adapters.merge(base)
        tokenizer = tokenizer or formats.tokenizer_of(path)
        if tokenizer is None:
            raise FormatError(f"no tokenizer lies with {path}: name one with --tokenizer")
    if tokenizer is None:
        raise ValueError("a model wants the tokenizer of its tokens: say tokenizer=")
    return base, tokenizer, own


def _fresh(tokenizer, what: Stage, parts, source: dict, dtype, recompute: bool, seed: int) -> tuple[GPT, object]:
    """A small model that knows nothing, whose context has room for the longest example, within reason."""
    if not source["files"]:
        tokenizer, form = synthetic.TOKENIZER, what.drawn.config
    else:
        texts = [text for part in parts for item in part.items for text in examples.texts(item)]
        tokenizer, form = tokenizer or CharTokenizer(sorted(set("".join(texts)))), FRESH
    template = Template(what.kind, tokenizer.n_vocab)
    bad = examples.BadLines(source["skip_bad"])  # they are counted when they are encoded for the model
    longest = max(encode(part, template, tokenizer, 1 << 30, bad=bad).T for part in parts)
    config = GPTConfig(n_vocab=tokenizer.n_vocab, n_ctx=min(what.room * longest, LONGEST), **form)
    return GPT(config, seed=seed, dtype=np.float32 if dtype is None else dtype, recompute=recompute), tokenizer
