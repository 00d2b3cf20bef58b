"""config.json of Hugging Face's GPT-2 and GPT-1, read into a GPTConfig and written from one."""

from collections.abc import Mapping

from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.formats.limits import beyond_gpt2, refuse

# Their field, ours, and what a file that leaves it out means.
COMMON = {"vocab_size": ("n_vocab", None), "n_positions": ("n_ctx", None), "n_embd": ("n_embd", 768),
          "n_layer": ("n_layer", 12), "n_head": ("n_head", 12), "layer_norm_epsilon": ("norm_eps", 1e-5),
          "embd_pdrop": ("dropout_embd", 0.1), "attn_pdrop": ("dropout_attn", 0.1), "resid_pdrop": ("dropout_resid", 0.1),
          "initializer_range": ("std", 0.02), "tie_word_embeddings": ("tied", True)}
FIELDS = {"gpt2": {**COMMON, "vocab_size": ("n_vocab", 50257), "n_positions": ("n_ctx", 1024),
                   "n_inner": ("n_hidden", None), "scale_attn_weights": ("scale_attn", True),
                   "scale_attn_by_inverse_layer_idx": ("scale_attn_by_layer", False)},
          "openai-gpt": {**COMMON, "vocab_size": ("n_vocab", 40478), "n_positions": ("n_ctx", 512)}}
ALIASES = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions",
           "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}

# Their names of activations; the first of each kind is the one that is written.
ACTIVATIONS = {"gpt2": {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
                        "gelu_accurate": "gelu_tanh", "gelu_python_tanh": "gelu_tanh",
                        "gelu": "gelu", "gelu_python": "gelu", "quick_gelu": "quick_gelu",
                        "relu": "relu", "silu": "silu", "swish": "silu"},
               "openai-gpt": {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}}  # "gelu" is the tanh form
ACTIVATION_FIELD = {"gpt2": ("activation_function", "gelu_new"), "openai-gpt": ("afn", "gelu")}
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "openai-gpt": "OpenAIGPTLMHeadModel"}

# Fields that change the mathematics into what a GPT here does not have, unless they say so.
MUST_BE = {"is_causal": (True, None), "add_cross_attention": (False, None), "is_encoder_decoder": (False, None), "pruned_heads": ({}, [], None),
           "quantization_config": (None,)}


def read_config(description: Mapping, source: str) -> tuple[str, GPTConfig]:
    """Which of the two it is, and its config. A value that cannot be followed is refused by its name."""
    kind = description.get("model_type", _family(description.get("architectures")))
    if not isinstance(kind, str) or kind not in FIELDS:
        raise FormatError(f"{source}: model_type is {kind!r}; numgpt reads {' and '.join(map(repr, FIELDS))}")
    for field, allowed in MUST_BE.items():
        if description.get(field) not in allowed:
            raise FormatError(f"{source}: {field} is {description[field]!r}, which a GPT here does not have")
    said = dict(description)
    for alias, field in ALIASES.items():
        if alias in said and said.setdefault(field, said[alias]) != said[alias]:
            raise FormatError(f"{source}: {field} is {said[field]!r} and {alias}, its other name, is {said[alias]!r}")
    field, default = ACTIVATION_FIELD[kind]
    activation = said.get(field, default)
    if not isinstance(activation, str) or activation not in ACTIVATIONS[kind]:
        raise FormatError(f"{source}: {field} is {activation!r}; numgpt has {', '.join(ACTIVATIONS[kind])}")
    values = {ours: said.get(theirs, default) for theirs, (ours, default) in FIELDS[kind].items()}
    if kind == "openai-gpt":  # whose weights all start alike
        values |= {"norm": "post", "std_residual": values["std"]}
    try:
        return kind, GPTConfig(activation=ACTIVATIONS[kind][activation], **values)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{source}: its config is not one that numgpt can follow: {error}") from None


def _family(architectures) -> str | None:
    """What the oldest files say in place of model_type: ["GPT2LMHeadModel"]."""
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return "gpt2" if name.startswith("GPT2") else "openai-gpt" if name.startswith("OpenAIGPT") else None


def write_config(config: GPTConfig) -> dict:
    """The config.json of a config: GPT-2's if it is pre-norm, GPT-1's if it is post-norm."""
    kind = "gpt2" if config.norm == "pre" else "openai-gpt"
    cannot = beyond_gpt2(config) | {f"activation={config.activation!r}": config.activation not in ACTIVATIONS[kind].values()}
    if kind == "openai-gpt":
        cannot |= {f"n_hidden={config.n_hidden}": config.hidden_dim != 4 * config.n_embd,
                   "scale_attn=False": not config.scale_attn, "scale_attn_by_layer=True": config.scale_attn_by_layer}
    refuse(f"Hugging Face's {kind}", cannot)
    field, _ = ACTIVATION_FIELD[kind]
    activation = next(theirs for theirs, ours in ACTIVATIONS[kind].items() if ours == config.activation)
    end = 50256 if kind == "gpt2" and config.n_vocab == 50257 else None  # GPT-2's own <|endoftext|>
    return {"architectures": [ARCHITECTURES[kind]], "model_type": kind,
            **{theirs: getattr(config, ours) for theirs, (ours, _) in FIELDS[kind].items()},
            field: activation, "bos_token_id": end, "eos_token_id": end}
