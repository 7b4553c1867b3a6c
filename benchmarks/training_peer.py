"""nanochat's pretraining step, rewritten: the peer of `training.py`.

It has the structure of nanochat's code, not its text: activations in the compute dtype (nanochat's choice is fp32 on a
CPU and bf16 on a GPU; `training.py` measures bf16 on a CPU too), logits of the whole micro-batch in fp32 for the soft
cap and the cross-entropy, the network and the two optimizer kernels compiled with static shapes, moments in the dtype
of their parameter. Attention windows are dense masks, as in nanochat without FlashAttention; after `attend_with`, one
of our kernels computes attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from nanochat.config.training import OptimizerConfig
from nanochat.model.architecture import Architecture
from nanochat.model.attention import Backend, prepare_backend
from nanochat.model.gpt import GPT
from nanochat.optim.muon import POLAR_EXPRESS
from nanochat.optim.parameter_groups import parameter_groups
from nanochat.optim.schedule import StepRates
from nanochat.scaling import Hyperparameters


class PeerNetwork(nn.Module):
    """The network, with the weights of one of our models under the same names."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        super().__init__()
        self.architecture: Architecture = model.architecture
        self.dtype = dtype
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): parameter.detach().clone() for name, parameter in model.named_parameters()}
        )
        for name, weight in self.weights.items():  # embeddings are in the compute dtype
            if name.startswith(("embedding", "value_embeddings")):
                weight.data = weight.data.to(dtype)
        T, D = self.architecture.sequence_len, self.architecture.head_dim
        angle = torch.outer(torch.arange(T).float(), 100_000.0 ** (-torch.arange(0, D, 2).float() / D))
        self.register_buffer("cos", angle.cos().to(dtype)[None, :, None])
        self.register_buffer("sin", angle.sin().to(dtype)[None, :, None])
        distance = torch.arange(T)[:, None] - torch.arange(T)
        for layer, window in enumerate(self.architecture.windows()):
            self.register_buffer(f"mask_{layer}", (distance >= 0) & (distance <= window))
        self.kernel: Backend | None = None

    def attend_with(self, backend: str) -> None:
        """Uses one of our kernels (a name in `BACKENDS`); call it when the network is on its device."""
        shape, device = self.architecture, self.weights["embedding_weight"].device
        self.kernel = prepare_backend(backend, shape.sequence_len, shape.windows(), device)

    def forward(self, ids: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        w, network = self.weights, self.architecture

        def product(x: Tensor, name: str) -> Tensor:
            return F.linear(x, w[name].to(x.dtype))

        def norm(x: Tensor) -> Tensor:
            return F.rms_norm(x, (x.shape[-1],))

        def rotate(x: Tensor) -> Tensor:
            a, b = x.chunk(2, -1)
            return torch.cat([a * self.cos + b * self.sin, b * self.cos - a * self.sin], -1)

        x = norm(F.embedding(ids, w["embedding_weight"]).to(self.dtype))
        gate = w["smear"].to(x.dtype) * torch.sigmoid(product(x[:, 1:, :24], "smear_gate_weight"))
        x = torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], 1)
        first = middle = x
        for layer in range(network.depth):
            at = f"blocks_{layer}_"
            x = w["residual_L"][layer].to(x.dtype) * x + w["first_L"][layer].to(x.dtype) * first
            h = norm(x)
            heads = (*ids.shape, network.heads, network.head_dim)
            q, k, v = (product(h, f"{at}attention_{part}_weight").view(heads) for part in ("query", "key", "value"))
            if network.has_value_embedding(layer):
                table = F.embedding(ids, w[f"value_embeddings_{layer}_weight"]).to(x.dtype).view(heads)
                share = 3 * torch.sigmoid(product(h[..., :12], f"{at}attention_value_gate_weight"))
                v = v + share[..., None] * table
            q, k = norm(rotate(q)) * 1.2, norm(rotate(k)) * 1.2
            y = self._attention(q, k, v, layer)
            x = x + product(y.reshape(x.shape), f"{at}attention_out_weight")
            x = x + product(F.relu(product(norm(x), f"{at}mlp_up_weight")).square(), f"{at}mlp_down_weight")
            if layer == network.depth // 2:
                middle = x
        x = norm(x - w["backout"].to(x.dtype) * middle)
        logits = product(x, "head_weight")[..., : network.vocab_size].float()
        logits = 15 * torch.tanh(logits / 15)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=reduction)
        return loss.view_as(targets) if reduction == "none" else loss

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """(B, T, H, D) each."""
        window, T, D = self.architecture.windows()[layer], q.shape[1], q.shape[-1]
        if self.kernel is not None:
            return self.kernel(q, k, v, window, D**-0.5)
        long = window >= T
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
            attn_mask=None if long else getattr(self, f"mask_{layer}"), is_causal=long,
        )  # fmt: skip
        return y.transpose(1, 2)


@torch.compile(dynamic=False, fullgraph=True)
def _adamw(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, step: Tensor, lr: Tensor, beta1: Tensor,
    beta2: Tensor, decay: Tensor,
) -> None:  # fmt: skip
    wide, one, two, g = weight.float(), first.float(), second.float(), grad.float()
    wide.mul_(1 - lr * decay)
    one.lerp_(g, 1 - beta1)
    two.lerp_(g.square(), 1 - beta2)
    wide.sub_(lr / (1 - beta1**step) * one / ((two / (1 - beta2**step)).sqrt() + 1e-10))
    weight.copy_(wide)
    first.copy_(one)
    second.copy_(two)


@torch.compile(dynamic=False, fullgraph=True)
def _muon(
    weight: Tensor, grad: Tensor, average: Tensor, second: Tensor, momentum: Tensor, lr: Tensor, decay: Tensor,
    along: int, dtype: torch.dtype,
) -> None:  # fmt: skip
    average.lerp_(grad, 1 - momentum)
    x = grad.lerp(average, momentum)
    x = x.to(dtype)
    row = x.float().norm(dim=-1, keepdim=True).clamp_min(1e-6)
    x = x * (x.float().norm(dim=(-2, -1), keepdim=True) / x.shape[-2] ** 0.5 / row).to(x.dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-6)
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in POLAR_EXPRESS:
        gram = x.mT @ x if tall else x @ x.mT
        poly = b * gram + c * (gram @ gram)
        x = a * x + (x @ poly if tall else poly @ x)
    g = x.to(weight.dtype)
    g = g * (min(g.shape[-2:]) ** 0.5 / g.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-6))
    square = g.square().mean(along, keepdim=True)
    second.lerp_(square, 0.1)
    scale = second.clamp_min(1e-10).rsqrt()
    before, after = square.sum((-2, -1), keepdim=True), (square * scale.square()).sum((-2, -1), keepdim=True)
    g = g * scale * (before / after.clamp_min(1e-10)).sqrt()
    weight.sub_(lr * g + lr * decay * weight * (g * weight >= 0))


class PeerOptimizer:
    """AdamW a parameter at a time, Muon a stack of equal shapes at a time."""

    def __init__(
        self, network: PeerNetwork, model: GPT, config: OptimizerConfig, hyperparameters: Hyperparameters
    ) -> None:
        self._weights = {name: network.weights[name.replace(".", "_")] for name, _ in model.named_parameters()}
        self._dtype = network.dtype
        self._groups = parameter_groups(model, config, hyperparameters)
        self._state: dict[str, list[Tensor]] = {}
        self._steps = 0

    @torch.no_grad()
    def step(self, rates: StepRates) -> None:
        self._steps += 1

        def number(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float32)  # 0-d, on the CPU: no recompilation

        for group in self._groups:
            lr = group.lr * rates.lr_multiplier
            if group.kind == "adamw":
                for name in group.names:
                    weight = self._weights[name]
                    state = self._state.setdefault(name, [torch.zeros_like(weight), torch.zeros_like(weight)])
                    betas = (number(beta) for beta in group.betas)
                    decay = number(group.weight_decay)
                    _adamw(weight, weight.grad, *state, number(self._steps), number(lr), *betas, decay)
                continue
            for shape in sorted({self._weights[name].shape for name in group.names}):
                mine = [self._weights[name] for name in group.names if self._weights[name].shape == shape]
                rows, columns = shape
                narrow = (len(mine), rows, 1) if rows >= columns else (len(mine), 1, columns)
                fresh = [mine[0].new_zeros(len(mine), *shape), mine[0].new_zeros(narrow)]
                stack = torch.stack(mine)
                _muon(
                    stack, torch.stack([weight.grad for weight in mine]), *self._state.setdefault(str(shape), fresh),
                    number(rates.muon_momentum), number(lr * max(1, rows / columns) ** 0.5),
                    number(rates.muon_weight_decay), -1 if rows >= columns else -2, self._dtype,
                )  # fmt: skip
                torch._foreach_copy_(mine, list(stack.unbind(0)))
        for weight in self._weights.values():
            weight.grad = None
