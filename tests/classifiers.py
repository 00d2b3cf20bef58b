"""Small classifiers with weights of order one, whose verdicts are far from even."""

import numpy as np

from numgpt import GPT, GPTConfig
from numgpt.text import CharTokenizer
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.template import Template
from numgpt.verify import cases

TOKENIZER = CharTokenizer("abcdefghij ")
LABELS = ("bad", "good", "so so")
SIZES = dict(n_layer=2, n_head=3, n_embd=15, n_hidden=17, n_ctx=16)
DROPOUT = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
KINDS = ("classify", "pairs", "similarity", "choice")


def classifier(kind="classify", labels=LABELS, seed=0, dtype=np.float64, lm_weight=0.5, dropout=0.0, **changes) -> Classifier:
    template = Template(kind, TOKENIZER.n_vocab)
    gpt = GPT(GPTConfig(**{**SIZES, "n_vocab": template.n_vocab, **changes}), dtype=dtype)
    model = Classifier(gpt, template, None if kind == "choice" else labels, lm_weight=lm_weight, dropout=dropout)
    return cases.order_one(model, np.random.default_rng(seed))


def saved(folder, model: Classifier):
    """A run's folder, so far as one reads a model from it."""
    (folder / "tokenizer").mkdir(parents=True)
    TOKENIZER.save(folder / "tokenizer" / "characters.json")
    model.save(folder / "best.safetensors")
    return folder
