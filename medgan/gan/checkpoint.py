"""Safetensors in, safetensors out: one file holds the whole state of a run and replaces the last one atomically.

Nothing is unpickled. The position in the run travels in the file's own header, so state and position cannot disagree.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from medgan.collection import durable
from medgan.errors import IntegrityError
from medgan.gan.step import Best, Ladder, Optimiser, Players


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands: rounds played, retreats made, seconds spent, and the configuration it belongs to."""

    step: int
    retreats: int
    seconds: float
    config_sha256: str
    ladder: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)


def save_network(path: Path, network: nn.Module) -> None:
    """Write one network's tensors to `path`; `StoreUnavailable` when the disk refuses."""
    _save(path, {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, {})


def load_network(path: Path, network: nn.Module) -> None:
    """Fill `network` from `path`; `IntegrityError` when the file is another network's."""
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError):
        raise IntegrityError("the stored weights do not belong to this network: train the model again") from None


def save_state(path: Path, players: Players, *, seconds: float, config_sha256: str) -> None:
    """Write everything a run needs to go on; `StoreUnavailable` when the disk refuses."""
    tensors: dict[str, Tensor] = {}
    for name, network in _networks(players).items():
        tensors |= {f"{name}/{key}": tensor.contiguous() for key, tensor in network.state_dict().items()}
    for name, optimiser in _optimisers(players).items():
        for index, slots in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": torch.as_tensor(slot).contiguous() for key, slot in slots.items()}
    position = {
        "step": players.step,
        "retreats": players.retreats,
        "seconds": seconds,
        "config_sha256": config_sha256,
        "ladder": asdict(players.ladder),
        "best": asdict(players.best),
    }
    _save(path, tensors, {"position": json.dumps(position)})


def load_state(path: Path, players: Players, *, config_sha256: str, weights_only: bool = False) -> Position | None:
    """Fill `players` from `path` and return the position; None when there is no state of this configuration.

    `weights_only` leaves the optimisers as they are, for a fresh start after a roll-back.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            position = Position(**json.loads(file.metadata()["position"]))
        if position.config_sha256 != config_sha256:
            return None
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None  # half of a file can only be left by a broken disk: begin again
    for name, network in _networks(players).items():
        network.load_state_dict(_below(tensors, name))
    players.step, players.retreats = position.step, position.retreats
    players.ladder, players.best = Ladder(**position.ladder), Best(**position.best)
    if weights_only:
        return position
    for name, optimiser in _optimisers(players).items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below(tensors, name).items():
            index, _, slot = key.partition("/")
            state.setdefault(int(index), {})[slot] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        _lay_out(optimiser)
    return position


def _lay_out(optimiser: Optimiser) -> None:
    """Give moments the memory order of their weights: fused Adam walks both as they lie, and files hold rows."""
    for parameter, slots in optimiser.state.items():
        for name, slot in slots.items():
            if slot.shape == parameter.shape and slot.stride() != parameter.stride():
                slots[name] = torch.empty_like(parameter, dtype=slot.dtype).copy_(slot)


def _networks(players: Players) -> dict[str, nn.Module]:
    return {"g": players.generator, "d": players.discriminator, "ema": players.average}


def _optimisers(players: Players) -> dict[str, Optimiser]:
    return {"og": players.optimiser_g, "od": players.optimiser_d}


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Through memory: a file that safetensors writes itself has a temporary name that nobody sweeps after a kill."""
    durable.write_bytes(path, save(tensors, metadata))
