"""The same GPT as a plain torch module, of torch's own fused operations."""

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {"gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu, "relu": F.relu, "silu": F.silu}


class Attention(nn.Module):
    def __init__(self, c, layer: int):
        super().__init__()
        self.n_head, self.head_dim, self.scale = c.n_head, c.head_dim, c.scale(layer)
        self.qkv = nn.Linear(c.n_embd, 3 * c.n_head * c.head_dim, bias=c.bias)
        self.out = nn.Linear(c.n_head * c.head_dim, c.n_embd, bias=c.bias)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (part.view(B, T, self.n_head, self.head_dim).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.out(z.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.up = nn.Linear(c.n_embd, c.hidden_dim, bias=c.bias)
        self.down = nn.Linear(c.hidden_dim, c.n_embd, bias=c.bias)
        self.activation = ACTIVATIONS[c.activation]

    def forward(self, x):
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    def __init__(self, c, layer: int):
        super().__init__()
        self.pre = c.norm == "pre"
        self.norm1 = nn.LayerNorm(c.n_embd, eps=c.norm_eps, bias=c.bias)
        self.attention = Attention(c, layer)
        self.norm2 = nn.LayerNorm(c.n_embd, eps=c.norm_eps, bias=c.bias)
        self.ffn = FeedForward(c)

    def forward(self, x):
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.ffn(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.ffn(x))


class TorchGPT(nn.Module):
    """Its modules have numgpt's names."""

    def __init__(self, c):
        super().__init__()
        if c.positions != "learned" or c.window is not None or c.activation not in ACTIVATIONS:
            raise ValueError("this module has learned positions, no window, and one of the activations "
                             f"{', '.join(ACTIVATIONS)}; got {c}")
        self.embedding = nn.Embedding(c.n_vocab, c.n_embd)
        self.positions = nn.Embedding(c.n_ctx, c.n_embd)
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.n_layer))
        self.norm = nn.LayerNorm(c.n_embd, eps=c.norm_eps, bias=c.bias) if c.norm == "pre" else nn.Identity()
        self.head = nn.Linear(c.n_embd, c.n_vocab, bias=c.head_bias)
        if c.tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids, targets):
        x = self.embedding(ids) + self.positions.weight[:ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def load(self, model) -> None:
        """Take over the weights of a numgpt.GPT; each of them has a place here, and each place is filled."""
        places = dict(self.named_parameters())
        for name, param in model.named_params():
            layer, _, kind = name.rpartition(".")
            value = torch.from_numpy(param.value)
            places.pop(f"{layer}.{'bias' if kind == 'bias' else 'weight'}").copy_(value.T if kind == "weight" else value)
        if places:
            raise ValueError(f"numgpt's model has nothing for {', '.join(places)}")
