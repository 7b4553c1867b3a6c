"""The decoder on a CPU: native code, `rustbpe/src/network`, on a copy of the weights in its layout.

A step of a small model takes less time than torch needs to start its operations, and of a large one as long as its
weights need to be read; so weights can have 16 or 8 bits, with sums in 32.

Shapes: N rows · C channels · V vocabulary · K key/value heads · D channels of a head
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from nanochat import _rustbpe, settings
from nanochat.inference.costs import WEIGHT_BYTES
from nanochat.inference.decoder import Block, Rows, WeightFormat
from nanochat.model.architecture import Architecture
from nanochat.model.fused import NORM_EPSILON, norm
from nanochat.model.gpt import GPT, QK_GAIN, VALUE_GATE_GAIN
from nanochat.model.gpt import Block as ModelBlock

COLUMN_BLOCK = 128
"""Caches are allocated in multiples of this number of positions."""
LONGEST_RUN_TOKENS = 128
"""Most tokens of one slot in a pass: a ring has room for them beside the window."""


class NativeDecoder:
    """A model with `slots` caches of `context_tokens` positions. A layer with a window keeps a ring."""

    @torch.inference_mode()
    def __init__(
        self, model: GPT, slots: int, context_tokens: int, weights: WeightFormat = "fp32", threads: int = 0
    ) -> None:
        """`threads` of 0 uses all cores."""
        architecture, recipe = model.architecture, model.architecture.model
        windows = [min(window, context_tokens) for window in architecture.windows()]
        columns = [_columns(window, context_tokens) for window in windows]
        self.context_tokens = context_tokens
        self.longest_run_tokens = LONGEST_RUN_TOKENS
        self.kept_tokens = min(columns)
        self._softcap = recipe.logit_softcap
        model.prepare_positions(context_tokens)
        table_VC = norm(F.pad(model.embedding.weight, (0, 0, 0, 1)))  # one more row, of zeros: before the first token
        smear_V: Tensor | None = None
        if recipe.smear:
            gate_V1 = torch.sigmoid(model.smear_gate(table_VC[:, : architecture.smear_gate_channels]))
            smear_V = gate_V1[:, 0] * model.smear
        layers = [
            _rustbpe.Layer(
                _matrices(model, layer),
                _value_table(model, layer),
                (float(model.residual_L[layer]), float(model.first_L[layer])) if recipe.residual_scalars else None,
                windows[layer],
                columns[layer],
                weights,
            )
            for layer in range(architecture.depth)
        ]
        self._network = _rustbpe.Network(
            (architecture.heads, architecture.kv_heads, architecture.head_dim),
            _array(table_VC),
            None if smear_V is None else _array(smear_V),
            (_array(model.cos), _array(model.sin)),
            (
                float(model.backout) if recipe.backout else 0.0,
                QK_GAIN**2 / math.sqrt(architecture.head_dim),
                VALUE_GATE_GAIN,
                NORM_EPSILON,
            ),
            layers,
            _array(model.head.weight[: architecture.vocab_size]),
            weights,
            slots,
            threads or settings.cores(),
        )
        self._before_first = len(table_VC) - 1

    def forward(self, rows: Rows) -> Tensor:
        """The normed output of the last layer, (N, C) fp32. Other threads run meanwhile."""
        previous = [self._before_first if token is None else token for token in rows.previous]
        return torch.from_numpy(self._network.forward(rows.slots, rows.positions, rows.ids, previous))

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Output of the last layer to logits, (N, V) fp32."""
        return torch.from_numpy(self._network.logits(hidden_NC.numpy(), self._softcap))

    def save(self, slot: int, start: int, stop: int) -> Block:
        """A copy of positions `start` to `stop`, which are among the last `kept_tokens` of the slot."""
        return self._network.save(slot, start, stop)

    def load(self, slot: int, start: int, block: Block) -> None:
        """Writes the positions from `start` on. Blocks are loaded in order, so that a ring has the last ones."""
        self._network.load(slot, start, block)

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values of all slots."""
        return self._network.bytes[0]


def needed_bytes(architecture: Architecture, slots: int, context_tokens: int, weights: WeightFormat) -> int:
    """Memory of a decoder: matrices in their format; tables, keys and values in fp32."""
    windows = [min(window, context_tokens) for window in architecture.windows()]
    columns = sum(_columns(window, context_tokens) for window in windows)
    tables = architecture.head_parameters + architecture.value_table_parameters
    numbers = tables + slots * columns * 2 * architecture.kv_width
    return 4 * numbers + WEIGHT_BYTES[weights] * architecture.scaling_parameters


def _columns(window: int, context_tokens: int) -> int:
    needed = min(window + LONGEST_RUN_TOKENS, context_tokens)
    return math.ceil(needed / COLUMN_BLOCK) * COLUMN_BLOCK


def _value_table(model: GPT, layer: int) -> np.ndarray[Any, Any] | None:
    """(V, K D); None if the layer has no value embedding."""
    if not model.architecture.has_value_embedding(layer):
        return None
    table = model.value_embeddings[str(layer)].weight
    assert isinstance(table, Tensor)
    return _array(table)


def _matrices(model: GPT, layer: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Queries, keys, values and value gates in one; attention's output; both of the MLP."""
    block = model.blocks[layer]
    assert isinstance(block, ModelBlock)
    attention = block.attention
    parts: list[Tensor] = [attention.query.weight, attention.key.weight, attention.value.weight]
    if attention.value_gate is not None:  # reads the first channels only: the others have the weight 0
        gate = attention.value_gate.weight
        parts.append(F.pad(gate, (0, model.architecture.width - gate.shape[1])))
    matrices = torch.cat(parts), attention.out.weight, block.mlp.up.weight, block.mlp.down.weight
    return tuple(_array(matrix) for matrix in matrices)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().float().contiguous().numpy()
