"""The weights of a model in the layout that inference reads: cast, joined and reordered once.

- Query, key, value and value gate of a layer are one matrix. The gate reads only the first channels: the others have
  the weight 0.
- The token embedding is a table of normed rows, and smear's gate, which depends on the token alone, a table of numbers.
- On a CPU, fp32 matrices are in oneDNN's layout. Its product of a row is bitwise the same in a batch of any size
  (torch 2.15, AVX2, 1-257 rows), which `F.linear` with MKL does not guarantee below 8 rows.

Shapes: V vocabulary · C channels · H query heads · K key/value heads · D channels of a head · N rows · I inputs
O outputs
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from nanochat.model.fused import norm
from nanochat.model.gpt import GPT, Attention, Block


class Product(nn.Module):
    """x W^T of (N, I) by (O, I), in the dtype of the weight."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.weight_OI = nn.Parameter(weight_OI, requires_grad=False)
        self._packed: Tensor | None = None
        if weight_OI.device.type == "cpu" and weight_OI.dtype == torch.float32:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, None)

    def forward(self, x_NI: Tensor) -> Tensor:
        if self._packed is None or torch.compiler.is_compiling():
            return F.linear(x_NI.to(self.weight_OI.dtype), self.weight_OI)
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, None, "none", [], "")


class PackedLayer(nn.Module):
    """One layer: joined (queries, keys, values, value gates), attention's output, and the MLP."""

    def __init__(self, model: GPT, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        block = model.blocks[layer]
        assert isinstance(block, Block)
        attention: Attention = block.attention
        parts: list[Tensor] = [attention.query.weight, attention.key.weight, attention.value.weight]
        self.value_table_VKD: Tensor | None = None
        if attention.value_gate is not None:
            gate = attention.value_gate.weight
            parts.append(F.pad(gate, (0, model.architecture.width - gate.shape[1])))
            table = model.value_embeddings[str(layer)].weight
            assert isinstance(table, Tensor)
            self.value_table_VKD = table.detach().view(len(table), -1, attention.head_dim).to(model.activation_dtype)
        self.joined = Product(torch.cat([part.detach() for part in parts]).to(dtype))
        self.out = Product(attention.out.weight.detach().to(dtype))
        self.up = Product(block.mlp.up.weight.detach().to(dtype))
        self.down = Product(block.mlp.down.weight.detach().to(dtype))
        if model.architecture.model.residual_scalars:
            self.residual, self.first = float(model.residual_L[layer]), float(model.first_L[layer])


class PackedWeights(nn.Module):
    """All weights that a forward pass reads."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        super().__init__()
        architecture, settings = model.architecture, model.architecture.model
        table_VC = norm(model.embedding.weight.detach().to(model.activation_dtype))
        self.embedding_VC = F.pad(table_VC, (0, 0, 0, 1))
        """With one more row, of zeros: the token before the first."""
        self.smear_V: Tensor | None = None
        if settings.smear:
            gate_V = torch.sigmoid(model.smear_gate(table_VC[:, : architecture.smear_gate_channels]))[:, 0]
            self.smear_V = gate_V.detach() * model.smear.detach().to(gate_V.dtype)
        self.layers = nn.ModuleList(PackedLayer(model, layer, dtype) for layer in range(architecture.depth))
        self.residual_scalars = settings.residual_scalars
        self.backout = float(model.backout) if settings.backout else 0.0
        self.head = Product(model.head.weight.detach()[: architecture.vocab_size].to(dtype))
        self.softcap = settings.logit_softcap
