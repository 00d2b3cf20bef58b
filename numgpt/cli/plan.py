"""numgpt plan: what a model costs, before it is built."""

from dataclasses import MISSING, fields

from numgpt.cli.configs import config_named
from numgpt.cli.options import changed
from numgpt.config import PRESETS, GPTConfig
from numgpt.files import FormatError
from numgpt.plan import human


def register(commands) -> None:
    parser = commands.add_parser(
        "plan", help="what a model costs, without building it",
        description="Print the parameters, FLOPs a token, and bytes for weights, gradients, moments and the values kept "
                    "for backward, with and without Recompute. Without a name, print the presets.")
    parser.add_argument("model", nargs="?", metavar="PRESET|PATH",
                        help="a preset, a config in JSON, or weights: numgpt's or llm.c's file, or Hugging Face's folder")
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="sequences in a batch (default: 1)")
    parser.add_argument("--tokens", type=int, metavar="T", help="tokens in a sequence (default: the context)")
    parser.add_argument("--dtype", choices=("float16", "float32", "float64"), default="float32", help="type of the numbers (default: float32)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
                        help="change a field of the config, as in --set n_ctx=256 --set norm=post; may be repeated")
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    if arguments.model is None:
        if arguments.changes or arguments.json or arguments.tokens or arguments.batch != 1:
            arguments.error("of what? name a preset or a path")
        print(_table(), end="")
        return 0
    try:
        config = config_named(arguments.model).change(**dict(changed(text) for text in arguments.changes))
        plan = config.plan(batch=arguments.batch, n_tokens=arguments.tokens, dtype=arguments.dtype)
    except FormatError:
        raise
    except (ValueError, TypeError) as error:
        arguments.error(str(error))
    print(plan.to_json() if arguments.json else f"{arguments.model}: {_summary(config)}\n{plan}")
    return 0


def _summary(c: GPTConfig) -> str:
    parts = [f"{c.n_layer} layers, {c.n_head} heads of {c.head_dim}, width {c.n_embd}, hidden {c.hidden_dim}, context {c.n_ctx}, "
             f"vocabulary {c.n_vocab}"]
    usual = {field.name: field.default for field in fields(c) if field.default is not MISSING}
    parts += [f"{name} {getattr(c, name)}" for name in ("norm", "activation", "positions", "tied", "head_bias", "bias", "window")
              if getattr(c, name) != usual[name]]
    return ", ".join(parts)


def _table() -> str:
    lines = [("preset", "parameters", "layers", "width", "heads", "context", "vocabulary", "a training token")]
    for name in PRESETS:
        c = GPTConfig.preset(name)
        lines.append((name, f"{c.n_params:,}", c.n_layer, c.n_embd, f"{c.n_head} x {c.head_dim}", c.n_ctx, c.n_vocab,
                      human(c.flops_per_token(training=True), "FLOP")))
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(lines[0]))]
    return "".join(f"{line[0]:{widths[0]}}  " + "  ".join(f"{item:>{width}}" for item, width in zip(line[1:], widths[1:])) + "\n"
                   for line in lines)
