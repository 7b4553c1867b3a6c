"""The network: a decoder-only transformer with the ideas of nanochat, each of which `ModelConfig` can switch off.

Pre-norm without parameters, rotary positions, normed queries and keys, squared-ReLU MLP, untied head, soft-capped
logits; token embeddings added to the values of every other layer, learnt weights on the residual stream and on the
first embedding at each layer, a little of the previous token's embedding in each token's, and a part of the middle
layer's output taken off before the last norm.

Shapes: B batch · T time · C channels · H query heads · K key/value heads · D channels of a head
L layers · V vocabulary
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from nanochat.model.architecture import Architecture
from nanochat.model.attention import BACKENDS, Backend, KVCache, attend, prepare_backend
from nanochat.model.float8 import float8_linear
from nanochat.model.fused import blend, norm, relu_squared, rotate
from nanochat.model.loss import Between, Reduction, between_products, head_loss

QK_GAIN = 1.2
VALUE_GATE_GAIN = 3.0


class Linear(nn.Module):
    """A matrix without bias, kept in fp32, whose product is computed in a dtype and given in that of the input.

    With `float8`, products are in 8 bits while training, and in the dtype in evaluation.
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
    def __init__(self, architecture: Architecture, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        C, kv = architecture.width, architecture.kv_width
        self.layer = layer
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

    def forward(
        self, x_BTC: Tensor, value_embedding_BTC: Tensor | None, cos: Tensor, sin: Tensor, cache: KVCache | None
    ) -> Tensor:
        B, T, C = x_BTC.shape
        q_BTHD = self.query(x_BTC).view(B, T, -1, self.head_dim)
        k_BTKD = self.key(x_BTC).view(B, T, -1, self.head_dim)
        v_BTKD = self.value(x_BTC).view(B, T, -1, self.head_dim)
        if value_embedding_BTC is not None and self.value_gate is not None:
            gate_BTK = VALUE_GATE_GAIN * torch.sigmoid(self.value_gate(x_BTC[..., : self.gate_channels]))
            v_BTKD = torch.addcmul(v_BTKD, gate_BTK[..., None], value_embedding_BTC.view_as(v_BTKD))
        q_BTHD, k_BTKD = norm(rotate(q_BTHD, cos, sin)), norm(rotate(k_BTKD, cos, sin))
        scale = QK_GAIN**2 / math.sqrt(self.head_dim)  # the gain of queries and keys, without a pass over them
        if cache is None:
            y_BTHD = self.backend(q_BTHD, k_BTKD, v_BTKD, self.window, scale)
        else:
            k_BSKD, v_BSKD = cache.insert(self.layer, k_BTKD, v_BTKD)
            y_BTHD = attend(q_BTHD, k_BSKD, v_BSKD, window=self.window, scale=scale, positions_B=cache.positions_B)
        return self.out(y_BTHD.reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = Linear(width, 4 * width, dtype)
        self.down = Linear(4 * width, width, dtype)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(relu_squared(self.up(x_BTC)))


class Block(nn.Module):
    def __init__(self, architecture: Architecture, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention = Attention(architecture, layer, dtype)
        self.mlp = MLP(architecture.width, dtype)

    def forward(
        self, x_BTC: Tensor, value_embedding_BTC: Tensor | None, cos: Tensor, sin: Tensor, cache: KVCache | None
    ) -> Tensor:
        x_BTC = x_BTC + self.attention(norm(x_BTC), value_embedding_BTC, cos, sin, cache)
        return x_BTC + self.mlp(norm(x_BTC))


class GPT(nn.Module):
    """The whole network; weights are fp32 and unset until `init_weights` or a loaded file.

    `compute_dtype` is that of the matrix products. On a GPU it is that of the activations too; on a CPU they stay in
    fp32, as bf16 is fast there only inside a product. May be built on the meta device.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, architecture: Architecture, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.architecture = architecture
        self.compute_dtype = compute_dtype
        self.between: Between = between_products
        """What happens to the logits between the head's matrix products; a compiled version may take its place."""
        knobs, V, C, L = architecture.model, architecture.padded_vocab, architecture.width, architecture.depth
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
        if knobs.residual_scalars:
            self.residual_L = nn.Parameter(torch.empty(L))
            self.first_L = nn.Parameter(torch.empty(L))
        if knobs.smear:
            self.smear_gate = Linear(architecture.smear_gate_channels, 1, compute_dtype)
            self.smear = nn.Parameter(torch.empty(1))
        if knobs.backout:
            self.backout = nn.Parameter(torch.empty(1))
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """The same weights for the same seed, drawn on the CPU whatever the device.

        Matrices into the residual stream start at 0, so that a fresh block passes its input on.
        """
        dice = torch.Generator().manual_seed(seed)
        knobs, C, L = self.architecture.model, self.architecture.width, self.architecture.depth
        bound = math.sqrt(3 / C)  # of a uniform distribution with standard deviation 1/sqrt(C)

        def normal(weight: Tensor, deviation: float) -> None:
            weight.copy_(torch.empty(weight.shape).normal_(0, deviation, generator=dice))

        def uniform(weight: Tensor, low: float, high: float) -> None:
            weight.copy_(torch.empty(weight.shape).uniform_(low, high, generator=dice))

        normal(self.embedding.weight, 0.8)
        normal(self.head.weight, 0.001)
        for block in self.blocks:
            assert isinstance(block, Block)
            for matrix in (block.attention.query, block.attention.key, block.attention.value):
                uniform(matrix.weight, -bound, bound)
            uniform(block.mlp.up.weight, -0.4 * bound, 0.4 * bound)
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
            if block.attention.value_gate is not None:
                uniform(block.attention.value_gate.weight, 0, 0.02)
        for table in self.value_embeddings.values():
            assert isinstance(table, nn.Embedding)
            uniform(table.weight, -bound, bound)
        last = max(L - 1, 1)
        if knobs.residual_scalars:
            self.residual_L.copy_(1.15 - 0.10 * torch.arange(L) / last)
            self.first_L.copy_(0.20 - 0.15 * torch.arange(L) / last)
        if knobs.smear:
            uniform(self.smear_gate.weight, 0, 0.02)
            self.smear.zero_()
        if knobs.backout:
            self.backout.fill_(0.2)

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
        cache: KVCache | None = None,
    ) -> Tensor:
        """Without targets the logits, (B, T, V) fp32; with int64 targets (-1 ignored) the loss in nats.

        The loss is a scalar for "mean" (over the targets that count) and "sum", (B, T) for "none".
        A cache makes the ids a continuation of what it holds, and takes them in.
        """
        x_BTC = self.trunk(ids_BT, cache).to(self.compute_dtype)
        weight_VC = self.head.weight
        if self.architecture.vocab_size < self.architecture.padded_vocab:
            weight_VC = weight_VC[: self.architecture.vocab_size]
        softcap = self.architecture.model.logit_softcap
        if targets_BT is not None:
            loss = head_loss(
                x_BTC.flatten(0, 1),
                weight_VC,
                targets_BT.flatten(),
                softcap=softcap,
                reduction=reduction,
                between=self.between,
            )
            return loss.view_as(targets_BT) if reduction == "none" else loss
        logits_BTV = F.linear(x_BTC, weight_VC.to(x_BTC.dtype)).float()
        return softcap * torch.tanh(logits_BTV / softcap) if softcap else logits_BTV

    def attend_with(self, backend: str) -> None:
        """Use that one of `BACKENDS` in every layer, for whole sequences; a cache is always read by SDPA."""
        T, device = self.architecture.sequence_len, self.embedding.weight.device
        kernel = prepare_backend(backend, T, self.architecture.windows(), device)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.backend = kernel

    @property
    def activation_dtype(self) -> torch.dtype:
        """Dtype of what flows between the matrix products, and of keys and values."""
        return torch.float32 if self.embedding.weight.device.type == "cpu" else self.compute_dtype

    def trunk(self, ids_BT: Tensor, cache: KVCache | None) -> Tensor:
        """Ids to the normed output of the last layer, (B, T, C); a compiled version may take its place."""
        knobs, L = self.architecture.model, self.architecture.depth
        cos, sin = self._rotation(ids_BT.shape[1], cache)
        x_BTC = norm(self.embedding(ids_BT).to(self.activation_dtype))
        if knobs.smear:
            x_BTC = self._smeared(x_BTC, cache)
        first_BTC, middle_BTC = x_BTC, None
        for layer, block in enumerate(self.blocks):
            if knobs.residual_scalars:
                a, b = self.residual_L[layer], self.first_L[layer]
                x_BTC = blend(x_BTC, first_BTC, a.to(x_BTC.dtype), b.to(x_BTC.dtype))
            value_embedding_BTC = None
            if self.architecture.has_value_embedding(layer):
                value_embedding_BTC = self.value_embeddings[str(layer)](ids_BT).to(self.activation_dtype)
            x_BTC = block(x_BTC, value_embedding_BTC, cos, sin, cache)
            if layer == L // 2:
                middle_BTC = x_BTC
        if knobs.backout and middle_BTC is not None:
            x_BTC = torch.addcmul(x_BTC, self.backout.to(x_BTC.dtype), middle_BTC, value=-1)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        return norm(x_BTC)

    def _smeared(self, x_BTC: Tensor, cache: KVCache | None) -> Tensor:
        """Each token's embedding plus a gated part of the one before it."""
        before_B1C = torch.zeros_like(x_BTC[:, :1])
        if cache is not None:
            if cache.previous_embedding is not None:
                before_B1C = cache.previous_embedding.to(x_BTC.dtype)
            cache.previous_embedding = x_BTC[:, -1:]
        gate_BT1 = torch.sigmoid(self.smear_gate(x_BTC[..., : self.architecture.smear_gate_channels]))
        previous_BTC = torch.cat([before_B1C, x_BTC[:, :-1]], 1)
        return torch.addcmul(x_BTC, gate_BT1 * self.smear.to(x_BTC.dtype), previous_BTC)

    def prepare_positions(self, needed: int) -> None:
        """Angles of so many positions, and of T at least; called by itself, and before the network is compiled."""
        device = self.embedding.weight.device
        if len(self.cos) < needed or self.cos.device != device:
            D = self.architecture.head_dim
            channel = torch.arange(0, D, 2, device=device, dtype=torch.float32)
            position = torch.arange(max(needed, self.architecture.sequence_len), device=device, dtype=torch.float32)
            angle_TD = torch.outer(position, self.architecture.model.rope_base ** (-channel / D))
            self.cos, self.sin = angle_TD.cos().to(self.activation_dtype), angle_TD.sin().to(self.activation_dtype)

    def _rotation(self, T: int, cache: KVCache | None) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions asked for, (T, 1, D/2), or (B, T, 1, D/2) with a cache."""
        self.prepare_positions(T if cache is None else max(T, cache.length))
        if cache is None:
            return self.cos[:T, None], self.sin[:T, None]
        position_BT = cache.positions_B[:, None] + torch.arange(T, device=self.cos.device)
        return self.cos[position_BT][:, :, None], self.sin[position_BT][:, :, None]
