"""numgpt align: have a model prefer the answers that people prefer."""

import argparse

import numpy as np

from numgpt import formats
from numgpt.cli import runs
from numgpt.cli.finetune import LORA, add_data, parted, resumed, say_bad, shown, without_lora
from numgpt.cli.options import path, said
from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.model import GPT
from numgpt.tuning import files, synthetic
from numgpt.tuning.stages import STAGES
from numgpt.tuning.start import Tuner, prepare

COMMAND = "align"
WAYS = tuple(name for name, stage in STAGES.items() if stage.command == COMMAND)
EXAMPLES = """a line of DATA is an object of JSON:
  reward, dpo   {"prompt": "add 12 and 30", "chosen": "42", "rejected": "the answer is 42"}
  ppo           {"prompt": "add 12 and 30"}

examples:
  numgpt align --by dpo                                  shorter answers are preferred: drawn pairs, and a model to begin with, made first
  numgpt align runs/instruct-1 --by dpo --max-kl 5       the same from a model that is there; it ends where KL is above 5 nats
  numgpt align runs/instruct-1 pairs.jsonl --by dpo --beta 0.3
  numgpt align runs/instruct-1 pairs.jsonl --by reward   a score for each answer: what PPO learns from
  numgpt align runs/instruct-1 prompts.jsonl --by ppo --reward runs/reward-1 --max-kl 5
  numgpt align --by ppo                                  shorter answers again: a model to begin with, a reward model, and PPO
  numgpt align --resume runs/dpo-1                       goes on, bit for bit, from where it was interrupted

What is not named is made first, as its own command would make it: the model to begin with, as numgpt finetune --task
instruct (about 2 minutes on two cores), and for PPO the reward model, as --by reward (about 1). Of the options --seed,
--shards, --dtype and --recompute are for these too; --steps, --lr, --lora and all others for what --by says alone.
"""
START_CTX = 147  # the context of the model that is made where none is named, which no option changes
OWN = tuple(dict.fromkeys(name for way in WAYS for name in STAGES[way].own))
OTHERS = ("files", "by", "validation", "held_out", "skip_bad", "truncate", "tokenizer", "dtype", "out", *LORA, *OWN)


def register(commands) -> None:
    parser = commands.add_parser(
        COMMAND, help="have a model prefer what people prefer", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Have a model that follows instructions prefer the answers that were chosen to those that were rejected.\n"
                    "The run leaves a folder as numgpt train does.")
    add_data(parser, "the preferences", WAYS, option="--by", about="how it learns from them: a reward model, the policy itself (DPO), or the policy by a reward "
                                                                           "model (PPO)")
    add = parser.add_argument_group("the policy").add_argument
    add("--beta", type=float, metavar="B", help="DPO's: the price of a nat of KL to the start (default: 0.1, of drawn pairs 1)")
    add("--smoothing", type=float, metavar="SHARE", help="DPO's: of the choices, those that are taken to be mistakes (default: 0, of drawn pairs 0.02)")
    add("--max-kl", type=float, metavar="NATS", help="end where an evaluation finds a KL to the start above it, for each answer; "
                                                     "best.safetensors is from within (default: any, of drawn pairs 1.5; of PPO 10, of drawn prompts 2)")
    add = parser.add_argument_group("PPO").add_argument
    add("--reward", type=path, metavar="RUN", help="the reward model, as --by reward leaves it (default: one for drawn preferences, made first)")
    add("--kl-weight", type=float, metavar="B", help="the price of a nat of KL, in standard deviations of the rewards (default: 0.2); it rises "
                                                     "where the KL is above half of --max-kl")
    add("--response", type=int, metavar="N", help="tokens that an answer may have (default: what the longest prompt leaves of the context)")
    add("--rollout", type=int, metavar="N", help="prompts that are answered in a step (default: 64); --batch of them move the policy at once")
    add("--ppo-epochs", type=int, metavar="N", help="times that a step goes through its answers (default: 4)")
    add("--clip-ratio", type=float, metavar="E", help="how far a token's ratio to the rollout's probability may go from 1 (default: 0.2)")
    add("--gamma", type=float, metavar="G", help="what a reward is worth a token earlier (default: 1)")
    add("--lam", type=float, metavar="L", help="of the advantages: 0 trusts the values, 1 the rewards (default: 0.95)")
    add("--value-weight", type=float, metavar="W", help="of the values' loss beside the policy's (default: 0.5)")
    runs.add_how(parser, steps="as --epochs has it; of drawn examples " + _by("steps", drawn=True), epochs="times through the examples (default: 1)",
                 batch=f"examples in a batch (default: {_by('batch')})", tokens="",
                 rates=(f" (default: {_by('lr')}; of drawn examples {_by('lr', drawn=True)})", f" (default: {_by('min_lr')})"),
                 fall=_by("schedule"), warmup="none for reward, else a tenth of the run at most", decay=_by("weight_decay"))
    runs.add_where(parser, "WAY", eval_tokens=False)
    parser.set_defaults(run=run, error=parser.error)


def _by(name: str, *, drawn: bool = False) -> str:
    """A setting of each way, or the one that all have, as help says it."""
    usual = {way: (STAGES[way].drawn if drawn else STAGES[way]).settings.get(name) or "cosine" * (name == "schedule") or 0.0 for way in WAYS}
    return f"{usual[WAYS[0]]}" if len(set(usual.values())) == 1 else ", ".join(f"{value} for {way}" for way, value in usual.items())


def run(arguments) -> int:
    if arguments.resume is None:
        _check(arguments)
        if not arguments.files:
            status, folder = _before(arguments, "instruct", None, "first, as no MODEL is named, one that answers in a sentence as often as not:",
                                     drawn="instruct-mixed")
            if status:
                return status
            arguments.files = [str(folder)]
        if arguments.by == "ppo" and arguments.reward is None:
            status, arguments.reward = _before(arguments, "reward", arguments.files[0], "as no --reward is named, one that likes short answers:")
            if status:
                return status
    return runs.run(arguments, lambda report: _resumed(arguments, report) if arguments.resume else _prepared(arguments, report), shown)


def _check(arguments) -> None:
    """What is wrong in the options, before a start model has taken its minutes."""
    if arguments.by is None:
        arguments.error(f"say how with --by: {', '.join(WAYS)}")
    try:
        model, data = parted(arguments.files)
    except ValueError as error:
        arguments.error(said(error))
    of_files = tuple(name for name in ("validation", "held_out", "skip_bad", "truncate") if getattr(arguments, name))
    runs.refuse_idle(arguments, (
        without_lora(arguments), (arguments.validation and data, "--validation is what is held out", ("held_out",)),
        (not data, "it is for files of examples, and none is named", of_files),
        (model is None, "the tokenizer of drawn examples is made for them", ("tokenizer",)),
        (True, f"it is not of --by {arguments.by}", tuple(name for name in OWN if name not in STAGES[arguments.by].own))))
    if model is None and data:
        arguments.error("say which model is to learn from these preferences: one that follows instructions, such as numgpt finetune "
                        "MODEL --task instruct makes")
    if arguments.by != "reward" and model is not None and model.exists() and (files.told_at(model) or {}).get("kind") == "reward":
        raise FormatError(f"{model} is a reward model, which scores answers and was not taught to write any: name the model that it was made from"
                          + (", and this one with --reward" if arguments.by == "ppo" else ""))
    if data and arguments.by == "ppo" and arguments.reward is None:
        arguments.error("say with --reward what scores the answers: the run of numgpt align MODEL PAIRS --by reward")
    if model is None or arguments.by == "ppo" and arguments.reward is None:  # what is made first takes minutes
        n_ctx = START_CTX if model is None else formats.config_of(model).n_ctx
        base = GPT(GPTConfig(n_vocab=synthetic.TOKENIZER.n_vocab, n_ctx=n_ctx, n_layer=1, n_head=1, n_embd=4))
        try:
            beside = {"reward": lambda answers: np.zeros(len(answers))} if arguments.by == "ppo" else {}
            prepare(arguments.by, base, **{**_options(arguments), "tokenizer": synthetic.TOKENIZER, **beside}).close()
        except (ValueError, TypeError) as error:
            arguments.error(said(error))


def _before(arguments, stage: str, base, words: str, **more):
    """The status of a run that makes what is not named, a model to begin with or a reward model, and its folder."""
    begun, after = [], f"--by {arguments.by}"

    def alone() -> str:
        made = begun[0].folder.path
        return f"numgpt align {f'{made} {after}' if base is None else f'{base} {after} --reward {made}'}"

    def begin(report) -> Tuner:
        if report is not None:
            print(words, flush=True)
        begun.append(prepare(stage, base, folder=runs.numbered(stage), report=report, **more,
                             **runs.given(arguments, ("dtype", "seed", "shards", "recompute", "tokenizer"))))
        return begun[0]

    status = runs.run(arguments, begin, lambda trainer: f"then {after}, as {alone()} does alone:")
    if status and not arguments.quiet:  # it was interrupted
        print(f"the way on is numgpt {STAGES[stage].command} --resume {begun[0].folder.path}, and then {alone()}, with the other options that you gave")
    return status, begun[0].folder.path if begun else None


def _options(arguments) -> dict:
    return runs.given(arguments, ("validation", "held_out", "skip_bad", "truncate", "tokenizer", "dtype", "recompute", *LORA, *OWN, *runs.SETTINGS))


def _resumed(arguments, report) -> Tuner:
    return resumed(arguments, COMMAND, OTHERS, report)


def _prepared(arguments, report) -> Tuner:
    model, data = parted(arguments.files)
    trainer = prepare(arguments.by, model, data, folder=arguments.out or runs.numbered(arguments.by), report=report, **_options(arguments))
    say_bad(trainer, report)
    if report is not None and not trainer.source["known"]:
        print(f"{model} was not tuned to follow instructions, and has never seen where a prompt ends: numgpt finetune {model} FILE "
              "--task instruct should come first")
    return trainer
