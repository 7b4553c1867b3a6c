"""The forward pass for inference: `GPT.forward` on packed weights, with keys and values in slots.

All rows of a pass go through the matrix products together. Attention reads only the columns in use. Its products have
at least 8 rows per head, a multiple of 8, and sum over keys in blocks of 128: MKL then gives a row bitwise the same
result whatever the number of rows, columns and heads is (torch 2.15, AVX2; with 1 row per head, it does not). So a
token has the same output in a decoding step as in a prompt, in any batch, and for any division of a prompt.

Shapes: B slots · T tokens of each · N = B T rows · C channels · H query heads · K key/value heads · G = H / K
D channels of a head · P slots of the cache · S columns · M = G T, rounded up
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from nanochat.inference.packed import PackedLayer, PackedWeights
from nanochat.inference.slots import KEY_BLOCK, Slots, mask
from nanochat.model.fused import NORM_EPSILON
from nanochat.model.gpt import QK_GAIN, VALUE_GATE_GAIN

ROWS = 8
"""Products of attention have a multiple of this number of rows."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a pass are in the layers with one window."""

    rows: slice | Tensor
    """The slots, (B,)."""
    columns: tuple[Tensor, Tensor]
    """Slot and column that the keys and values of each row go to, (N,) each."""
    used: int
    """The first columns, which attention reads."""
    mask_BTS: Tensor  # noqa: N815 - the suffix is its shape


def forward(
    weights: PackedWeights,
    slots: Slots,
    places: dict[int, Place],
    ids_N: Tensor,
    previous_N: Tensor,
    rotation: tuple[Tensor, Tensor],
) -> Tensor:
    """Ids, and the ids before them, to the normed output of the last layer, (N, C); adds the rows to their slots.

    `rotation` is cos and sin of each row, to broadcast to (N, heads, D); see `rotation_tables`.
    """
    x_NC = F.embedding(ids_N, weights.embedding_VC)
    if weights.smear_V is not None:
        previous_NC = F.embedding(previous_N, weights.embedding_VC)
        x_NC = torch.addcmul(x_NC, weights.smear_V[ids_N][:, None], previous_NC)
    first_NC, middle_NC = x_NC, x_NC
    for number, (layer, window) in enumerate(zip(weights.layers, slots.windows, strict=True)):
        layer = cast(PackedLayer, layer)
        if weights.residual_scalars:
            x_NC = (x_NC * layer.residual).add_(first_NC, alpha=layer.first)
        x_NC = x_NC + _attention(layer, slots.layers[number], places[window], normed(x_NC), ids_N, rotation)
        x_NC = x_NC + layer.down(F.relu(layer.up(normed(x_NC))).square()).to(x_NC.dtype)
        if number == len(weights.layers) // 2:
            middle_NC = x_NC
    if weights.backout:
        x_NC = x_NC.sub(middle_NC, alpha=weights.backout)
    return normed(x_NC)


def logits(weights: PackedWeights, hidden_NC: Tensor) -> Tensor:
    """(N, V) fp32."""
    logits_NV = weights.head(hidden_NC).float()
    return weights.softcap * torch.tanh(logits_NV / weights.softcap) if weights.softcap else logits_NV


def normed(x: Tensor) -> Tensor:
    """As `norm` of the model, without gradients and with fewer passes."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * length.square_().div_(x.shape[-1]).add_(NORM_EPSILON).rsqrt_()


def rotation_tables(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Tables (positions, D/2) as (positions, 1, D): a rotation is x cos + (x with its halves swapped) sin."""
    return torch.cat([cos, cos], -1)[:, None], torch.cat([sin, -sin], -1)[:, None]


def _attention(
    layer: PackedLayer, cache: Tensor, place: Place, x_NC: Tensor, ids_N: Tensor, rotation: tuple[Tensor, Tensor]
) -> Tensor:
    K, D = cache.shape[2], cache.shape[4]
    width = x_NC.shape[1]
    joined_NO = layer.joined(x_NC).to(x_NC.dtype)
    rotated_NHD = joined_NO[:, : width + K * D].unflatten(1, (-1, D))
    swapped_NHD = rotated_NHD.unflatten(2, (2, D // 2)).flip(2).flatten(2)
    rotated_NHD = normed(torch.addcmul(rotated_NHD * rotation[0], swapped_NHD, rotation[1]))
    q_NHD, k_NKD = rotated_NHD[:, :-K], rotated_NHD[:, -K:]
    v_NKD = joined_NO[:, width + K * D : width + 2 * K * D].unflatten(1, (K, D))
    if layer.value_table_VKD is not None:
        gate_NK = torch.sigmoid(joined_NO[:, -K:]) * VALUE_GATE_GAIN
        v_NKD = torch.addcmul(v_NKD, gate_NK[..., None], layer.value_table_VKD[ids_N])
    slots_N, columns_N = place.columns
    cache[0][slots_N, :, columns_N] = k_NKD
    cache[1][slots_N, :, columns_N] = v_NKD
    y_NC = attend(q_NHD * (QK_GAIN**2 / math.sqrt(D)), cache[:, place.rows, :, : place.used], place.mask_BTS)
    return layer.out(y_NC).to(x_NC.dtype)


def attend(q_NHD: Tensor, kv_2BKSD: Tensor, mask_BTS: Tensor) -> Tensor:
    """Softmax of q k + mask, times v, (N, C). Rows of a slot are together; S is a multiple of 128."""
    N, H, D = q_NHD.shape
    _, B, K, S, _ = kv_2BKSD.shape
    G, T = H // K, N // B
    q_BMD = q_NHD.view(B, T, K, G, D).permute(0, 2, 3, 1, 4).reshape(B * K, G * T, D)
    k_BSD, v_BSD = kv_2BKSD.flatten(1, 2)
    padding = -G * T % ROWS
    if padding:
        q_BMD = F.pad(q_BMD, (0, 0, 0, padding))
    scores_BMS = torch.bmm(q_BMD, k_BSD.transpose(1, 2))[:, : G * T]
    scores_BMS.unflatten(0, (B, K)).unflatten(2, (G, T)).add_(mask_BTS[:, None, None])
    weights_BMS = scores_BMS.softmax(-1)
    if padding:
        weights_BMS = F.pad(weights_BMS, (0, 0, 0, padding))
    y_BMD = torch.bmm(weights_BMS[..., :KEY_BLOCK], v_BSD[:, :KEY_BLOCK])
    for start in range(KEY_BLOCK, S, KEY_BLOCK):
        stop = start + KEY_BLOCK
        y_BMD += torch.bmm(weights_BMS[..., start:stop], v_BSD[:, start:stop])
    return y_BMD[:, : G * T].view(B, K, G, T, D).permute(0, 3, 1, 2, 4).reshape(N, H * D)


def place(
    slots: Slots, window: int, rows: slice | Tensor, slots_N: Tensor, positions_BT: Tensor, longest: int
) -> Place:
    """Places of the rows at these positions in the layers with this window; `longest` is one more than the last."""
    columns = slots.columns[window]
    used = min(columns, math.ceil(longest / KEY_BLOCK) * KEY_BLOCK)
    return Place(
        rows, (slots_N, (positions_BT % columns).flatten()), used, mask(positions_BT, window, columns, used)
    )  # fmt: skip
