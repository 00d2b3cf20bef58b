"""Every layer: a class with an explicit forward and a backward derived by hand."""

from numgpt.layers.activation import ACTIVATIONS, GELU, GELUTanh, QuickGELU, ReLU, SiLU
from numgpt.layers.attention import CausalAttention, SelfAttention
from numgpt.layers.block import BLOCKS, PostNormBlock, PreNormBlock
from numgpt.layers.dropout import Dropout
from numgpt.layers.embedding import Embedding
from numgpt.layers.ffn import FeedForward
from numgpt.layers.heads import ClassHead, LastToken, ScoreHead, SimilarityHead, ValueHead
from numgpt.layers.kv import KV
from numgpt.layers.linear import Linear
from numgpt.layers.logprobs import HeadLogProbs
from numgpt.layers.lora import LoRA
from numgpt.layers.loss import HeadLoss, SoftmaxCrossEntropy
from numgpt.layers.norm import LayerNorm
from numgpt.layers.param import Layer, Param
from numgpt.layers.policy import ClippedPolicy, ClippedValue, TokenKL, estimated_kl
from numgpt.layers.position import LearnedPositions, SinusoidalPositions
from numgpt.layers.preference import DPO, LogisticPairs
from numgpt.layers.recompute import Recompute
from numgpt.layers.reward import GAE, KLReward, whitened
from numgpt.layers.softmax import Softmax

__all__ = ["ACTIVATIONS", "BLOCKS", "CausalAttention", "ClassHead", "ClippedPolicy", "ClippedValue", "DPO", "Dropout",
           "Embedding", "FeedForward", "GAE", "GELU", "GELUTanh", "HeadLogProbs", "HeadLoss", "KLReward", "KV", "LastToken",
           "Layer", "LayerNorm", "LearnedPositions", "Linear", "LoRA", "LogisticPairs", "Param", "PostNormBlock",
           "PreNormBlock", "QuickGELU", "ReLU", "Recompute", "ScoreHead", "SelfAttention", "SiLU", "SimilarityHead",
           "SinusoidalPositions", "Softmax", "SoftmaxCrossEntropy", "TokenKL", "ValueHead", "estimated_kl", "whitened"]
