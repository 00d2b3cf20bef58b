"""What a format cannot say of a config, by name."""

from numgpt.config import GPTConfig
from numgpt.files import FormatError


def beyond_gpt2(config: GPTConfig) -> dict[str, bool]:
    """What neither GPT-1 nor GPT-2 has: the words for it, and whether the config asks for it."""
    c = config
    return {f"positions={c.positions!r}": c.positions != "learned",
            "bias=False": not c.bias,
            "head_bias=True": c.head_bias,
            f"head_size={c.head_size} with {c.n_head} heads in a width of {c.n_embd}": c.n_head * c.head_dim != c.n_embd,
            f"window={c.window}": any((c.window_of(i) or c.n_ctx) < c.n_ctx for i in range(c.n_layer))}


def refuse(form: str, cannot: dict[str, bool]) -> None:
    said = [what for what, asked in cannot.items() if asked]
    if said:
        raise FormatError(f"{form} cannot say {', '.join(said)}; model.save can")
