"""PPO's model in small: a policy that has moved away from what drew the answers, so that some of its tokens are clipped."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers.inputs import IGNORE
from numgpt.model import GPT
from numgpt.tuning.ppo import ActorCritic
from numgpt.tuning.template import Template
from numgpt.verify.cases.frame import Case, Sizes, ids_of, order_one
from numgpt.verify.cases.policy import _constant, _each_way, responses_of

CONFIG = GPTConfig(n_vocab=11, n_ctx=8, n_layer=1, n_head=3, n_embd=6, n_hidden=7)
WAYS = [(moved, sign, far, side) for moved, far in ((0.0, 0.0), (0.95, 1.0), (-1.5, -1.0)) for sign in (1, -1) for side in (2, -2)]


def _ppo(rng, s: Sizes) -> Case:
    """Tokens moved up, down or hardly, of good and bad advantages; values within the clip or one from the old, on either side
    of the return."""
    template = Template("instruct", CONFIG.n_vocab - 3)
    model = order_one(ActorCritic(GPT(CONFIG, dtype=s.dtype), template, value_clip=0.5, value_weight=0.3), rng)
    s = replace(s, B=5, V=CONFIG.n_vocab, T=CONFIG.n_ctx - 1)
    counts, ids = responses_of(s), ids_of(rng, s)
    targets = np.where(counts, ids_of(rng, s), IGNORE)
    logp, values = model.judge(ids, targets)
    moved, signs, far, sides = _each_way(rng, counts, *WAYS)
    near = 0.1 * rng.uniform(-1, 1, (3, *counts.shape))
    options = {"old": logp - moved - near[0], "advantages": signs * rng.uniform(0.5, 2, counts.shape),
               "old_values": values - far - near[1], "returns": values - sides - near[2]}
    return Case("", model, (ids, targets), {name: _constant(array, counts, s) for name, array in options.items()})


BUILDERS: dict[str, Callable] = {"ppo-model": _ppo}
