"""The network: a decoder-only transformer with the additions of nanochat, each of which `ModelConfig` can switch off.

    x = norm(embedding(ids))                                              (B, T, C)
    x = x + smear * gate(x) * (x of the previous token)                   smear
    first = x
    for each layer:
        x = residual[layer] * x + first_[layer] * first                   residual scalars
        x = x + attention(norm(x))                                        rotary positions, normed queries and keys;
                                                                          values + gate * value embedding in every
                                                                          other layer
        x = x + mlp(norm(x))                                              squared ReLU
    x = norm(x - backout * (x after the middle layer))                    backout
    logits = softcap * tanh(head(x) / softcap)                            (B, T, V), untied head

Norms have no parameters, matrices no biases.

Shapes: B batch · T time · C channels · H query heads · K key/value heads · D channels of a head
L layers · V vocabulary
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from nanochat.model.architecture import Architecture
from nanochat.model.attention import BACKENDS, Backend, prepare_backend
from nanochat.model.float8 import float8_linear
from nanochat.model.fused import blend, norm, relu_squared, rotate
from nanochat.model.initial_weights import initialize
from nanochat.model.loss import Between, Reduction, between_products, head_loss
from nanochat.model.rotary import rotary_tables

QK_GAIN = 1.2
"""Factor on normed queries and on normed keys, which makes the softmax sharper: without it, a score is at most sqrt(D),
as both have the norm sqrt(D). The number is nanochat's choice, found by a sweep; QK-norm is of arXiv:2302.05442,
section 2, where parameters scale the norms instead."""
VALUE_GATE_GAIN = 3.0
"""Range of the gate of a value embedding, 0 to 3; it begins near 1.5 (gates are initialized near 0). nanochat's choice,
found by a sweep; value embeddings are a variant of value residuals (arXiv:2410.17897)."""


class Linear(nn.Module):
    """x W^T of (…, inputs) by (outputs, inputs) → (…, outputs), in the dtype of x.

    The weight is fp32; the product is computed in `dtype`, or while training with `float8` in 8 bits.
    """

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.float8 = False
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.float8 and self.training:
            return float8_linear(x.to(self.dtype), self.weight).to(x.dtype)
        return F.linear(x.to(self.dtype), self.weight.to(self.dtype)).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention over a window of earlier tokens, with grouped queries (arXiv:2305.13245).

    H query heads share K key/value heads of D channels. Rotary positions come before the norm of queries and keys.
    """

    def __init__(self, architecture: Architecture, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        C, kv = architecture.width, architecture.kv_width
        self.backend: Backend = BACKENDS["sdpa"]
        self.window = architecture.windows()[layer]
        self.head_dim = architecture.head_dim
        self.query = Linear(C, C, dtype)
        self.key = Linear(C, kv, dtype)
        self.value = Linear(C, kv, dtype)
        self.out = Linear(C, C, dtype)
        self.gate_channels = architecture.value_gate_channels
        gated = architecture.has_value_embedding(layer)
        self.value_gate = Linear(self.gate_channels, architecture.kv_heads, dtype) if gated else None

    def forward(self, x_BTC: Tensor, value_embedding_BTC: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C); the value embedding is (B, T, K D), cos and sin are (T, 1, D/2)."""
        B, T, C = x_BTC.shape
        q_BTHD = self.query(x_BTC).view(B, T, -1, self.head_dim)
        k_BTKD = self.key(x_BTC).view(B, T, -1, self.head_dim)
        v_BTKD = self.value(x_BTC).view(B, T, -1, self.head_dim)
        if value_embedding_BTC is not None and self.value_gate is not None:
            gate_BTK = VALUE_GATE_GAIN * torch.sigmoid(self.value_gate(x_BTC[..., : self.gate_channels]))
            v_BTKD = torch.addcmul(v_BTKD, gate_BTK[..., None], value_embedding_BTC.view_as(v_BTKD))
        q_BTHD, k_BTKD = norm(rotate(q_BTHD, cos, sin)), norm(rotate(k_BTKD, cos, sin))
        scale = QK_GAIN**2 / math.sqrt(self.head_dim)  # applies both gains without a pass over queries and keys
        y_BTHD = self.backend(q_BTHD, k_BTKD, v_BTKD, self.window, scale)
        return self.out(y_BTHD.reshape(B, T, C))


class MLP(nn.Module):
    """down(relu(up(x))^2) with 4 C hidden channels (Primer, arXiv:2109.08668); (B, T, C) → (B, T, C)."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = Linear(width, 4 * width, dtype)
        self.down = Linear(4 * width, width, dtype)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(relu_squared(self.up(x_BTC)))


class Block(nn.Module):
    """One layer: attention and MLP, each behind a norm and added to the residual stream; (B, T, C) → (B, T, C)."""

    def __init__(self, architecture: Architecture, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention = Attention(architecture, layer, dtype)
        self.mlp = MLP(architecture.width, dtype)

    def forward(self, x_BTC: Tensor, value_embedding_BTC: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x_BTC = x_BTC + self.attention(norm(x_BTC), value_embedding_BTC, cos, sin)
        return x_BTC + self.mlp(norm(x_BTC))


class GPT(nn.Module):
    """The whole network. Weights are fp32, and uninitialized until `init_weights` or until they are loaded.

    `compute_dtype` is the dtype of the matrix products. On a GPU, activations also have it; on a CPU, they are fp32,
    since bf16 is fast there only inside a product. The network can be built on the meta device.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, architecture: Architecture, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.architecture = architecture
        self.compute_dtype = compute_dtype
        self.between: Between = between_products
        """The operations on the logits between the matrix products of the head; `device_setup` may compile it."""
        settings, V, C, L = architecture.model, architecture.padded_vocab, architecture.width, architecture.depth
        self.embedding = nn.Embedding(V, C, _weight=torch.empty(V, C))
        self.blocks = nn.ModuleList(Block(architecture, layer, compute_dtype) for layer in range(L))
        self.head = Linear(C, V, compute_dtype)
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): nn.Embedding(V, architecture.kv_width, _weight=torch.empty(V, architecture.kv_width))
                for layer in range(L)
                if architecture.has_value_embedding(layer)
            }
        )
        if settings.residual_scalars:
            self.residual_L = nn.Parameter(torch.empty(L))
            self.first_L = nn.Parameter(torch.empty(L))
        if settings.smear:
            self.smear_gate = Linear(architecture.smear_gate_channels, 1, compute_dtype)
            self.smear = nn.Parameter(torch.empty(1))
        if settings.backout:
            self.backout = nn.Parameter(torch.empty(1))
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

    def init_weights(self, seed: int) -> None:
        """Sets all weights; see `initial_weights`."""
        initialize(dict(self.named_parameters()), self.architecture, seed)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: Reduction = "mean") -> Tensor:
        """Without targets, the logits, (B, T, V) fp32; with int64 targets (-1: not counted), the loss in nats, fp32.

        The loss is a scalar for "mean" (over counted targets) and "sum", and (B, T) for "none".
        """
        x_BTC = self.trunk(ids_BT)
        if targets_BT is None:
            return self.logits(x_BTC)
        loss = head_loss(
            x_BTC.to(self.compute_dtype).flatten(0, 1),
            self._head_weight(),
            targets_BT.flatten(),
            softcap=self.architecture.model.logit_softcap,
            reduction=reduction,
            between=self.between,
        )
        return loss.view_as(targets_BT) if reduction == "none" else loss

    def logits(self, x: Tensor) -> Tensor:
        """Output of the last layer, (…, C), to logits, (…, V) fp32."""
        softcap = self.architecture.model.logit_softcap
        logits = F.linear(x.to(self.compute_dtype), self._head_weight().to(self.compute_dtype)).float()
        return softcap * torch.tanh(logits / softcap) if softcap else logits

    def _head_weight(self) -> Tensor:
        """The weight of the head without the rows of padding, (V, C)."""
        weight_VC, V = self.head.weight, self.architecture.vocab_size
        return weight_VC[:V] if len(weight_VC) > V else weight_VC

    def attend_with(self, backend: str, sequence_len: int = 0) -> None:
        """Uses this backend (a name in `BACKENDS`) in all layers, for rows of `sequence_len` tokens.

        0 stands for the length of the rows that the architecture was made for.
        """
        T, device = sequence_len or self.architecture.sequence_len, self.embedding.weight.device
        kernel = prepare_backend(backend, T, self.architecture.windows(), device)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.backend = kernel

    @property
    def activation_dtype(self) -> torch.dtype:
        """Dtype of the activations between the matrix products, and of keys and values."""
        return torch.float32 if self.embedding.weight.device.type == "cpu" else self.compute_dtype

    def trunk(self, ids_BT: Tensor) -> Tensor:
        """Ids (B, T) to the normed output of the last layer, (B, T, C); `device_setup` may compile it."""
        settings, L = self.architecture.model, self.architecture.depth
        T = ids_BT.shape[1]
        self.prepare_positions(T)
        cos, sin = self.cos[:T, None], self.sin[:T, None]  # to broadcast over heads
        x_BTC = norm(self.embedding(ids_BT).to(self.activation_dtype))
        if settings.smear:
            x_BTC = self._smeared(x_BTC)
        first_BTC, middle_BTC = x_BTC, None
        for layer, block in enumerate(self.blocks):
            if settings.residual_scalars:
                a, b = self.residual_L[layer], self.first_L[layer]
                x_BTC = blend(x_BTC, first_BTC, a.to(x_BTC.dtype), b.to(x_BTC.dtype))
            value_embedding_BTC = None
            if self.architecture.has_value_embedding(layer):
                value_embedding_BTC = self.value_embeddings[str(layer)](ids_BT).to(self.activation_dtype)
            x_BTC = block(x_BTC, value_embedding_BTC, cos, sin)
            if layer == L // 2:
                middle_BTC = x_BTC
        if settings.backout and middle_BTC is not None:
            x_BTC = torch.addcmul(x_BTC, self.backout.to(x_BTC.dtype), middle_BTC, value=-1)
        return norm(x_BTC)

    def _smeared(self, x_BTC: Tensor) -> Tensor:
        """The embedding of each token plus a gated part of the embedding of the previous one, (B, T, C)."""
        gate_BT1 = torch.sigmoid(self.smear_gate(x_BTC[..., : self.architecture.smear_gate_channels]))
        previous_BTC = torch.cat([torch.zeros_like(x_BTC[:, :1]), x_BTC[:, :-1]], 1)
        return torch.addcmul(x_BTC, gate_BT1 * self.smear.to(x_BTC.dtype), previous_BTC)

    def prepare_positions(self, positions: int) -> None:
        """Computes the rotary tables for at least `positions` and T positions; before compilation and when needed."""
        device = self.embedding.weight.device
        if len(self.cos) < positions or self.cos.device != device:
            self.cos, self.sin = rotary_tables(
                max(positions, self.architecture.sequence_len), self.architecture.head_dim,
                self.architecture.model.rope_base, device, self.activation_dtype,
            )  # fmt: skip
