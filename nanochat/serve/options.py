"""Options of the server, as `nanochat serve` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Weights = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the server runs."""

    models: tuple[str, ...] = ("chat/latest",)
    """Aliases, `stage/key` or beginnings of keys; clients use them as model names. The first is the default."""
    follow: tuple[str, ...] = ()
    """Aliases that are served too; when one moves, its new model is loaded."""
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    """Engines for each model."""
    slots: int = 32
    """Answers that one engine generates at once."""
    queue: int = 128
    """Answers that may wait for a slot of one engine."""
    weights: Weights = "fp32"
    tokens: tuple[str, ...] = ()
    """Bearer tokens that are accepted; none: every client is."""
    allow_hosts: tuple[str, ...] = ()
    """Host names by which clients may address the server, besides names of this machine's loopback."""
    cors_origins: tuple[str, ...] = ()
    follow_every_s: float = 5.0
    drain_s: float = 30.0
    """Seconds that running answers have after SIGTERM."""
