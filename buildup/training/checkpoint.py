"""The files of one attempt at a training: checkpoint, curve, log and, at its end, the weights.

    checkpoint.pt        the last finished epoch, while it runs
    metrics.jsonl        one line an epoch
    weights.safetensors  at the end, in place of the checkpoint
    reliability.json     the bins of the reliability diagram, at the end
    log.txt              the same for people

An attempt that goes on from an earlier one only reads that one's folder, for its worker may still be alive.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from buildup.errors import RunError
from buildup.training.metrics import Bin
from buildup.trials.outcome import Epoch, epoch_from_values, epoch_to_values
from buildup.trials.training import CHECKPOINT, WEIGHTS

CURVE = "metrics.jsonl"
RELIABILITY = "reliability.json"
LOG = "log.txt"


def begin(
    folder: str, earlier: str | None, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[Epoch]:
    """Make the folder, take over what an earlier attempt left, and give back the epochs that are done."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    curve = _take_over(Path(earlier), identity, model, optimizer) if earlier else []
    if curve:
        # At once, so that a third attempt finds it here even if this one gets no further.
        save(folder, identity, model, optimizer, curve)
        log(folder, f"going on after epoch {len(curve)} of {earlier}")
    else:
        _write(place / CURVE, b"")
    return curve


def save(
    folder: str, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, curve: Sequence[Epoch]
) -> None:
    """Keep the state after the last epoch of a curve."""
    place = Path(folder)
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "curve": [epoch_to_values(epoch) for epoch in curve],
    }
    temporary = place / f"{CHECKPOINT}.tmp"
    try:
        torch.save(state, temporary)
        os.replace(temporary, place / CHECKPOINT)
    finally:
        temporary.unlink(missing_ok=True)  # half a checkpoint would keep a full disk full
    _write(place / CURVE, _lines(curve))
    last = curve[-1]
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in last.metrics.items())
    log(folder, f"epoch {last.number}  {numbers}")


def finish(folder: str, identity: str, model: nn.Module, curve: Sequence[Epoch], bins: Sequence[Bin]) -> None:
    """Put the weights in the place of the checkpoint.

    They carry the curve and say whose they are, so that a training whose process died between its end and its record
    is not repeated.
    """
    place = Path(folder)
    temporary = place / f"{WEIGHTS}.tmp"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        save_file(tensors, temporary, {"identity": identity, "curve": _lines(curve).decode()})
        os.replace(temporary, place / WEIGHTS)
    finally:
        temporary.unlink(missing_ok=True)
    _write(place / RELIABILITY, json.dumps([asdict(bin) for bin in bins], indent=1).encode())
    (place / CHECKPOINT).unlink(missing_ok=True)
    log(folder, "finished")


def epochs_done(folder: str) -> int:
    """How many epochs an attempt has kept."""
    curve = Path(folder) / CURVE
    return len(curve.read_bytes().splitlines()) if curve.is_file() else 0


def log(folder: str, line: str) -> None:
    """One more line for people."""
    with (Path(folder) / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _take_over(place: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Epoch]:
    if not place.is_dir():
        raise RunError(f"{place} is not the folder of an earlier attempt, so there is nothing to go on from.")
    if (place / CHECKPOINT).is_file():
        state = torch.load(place / CHECKPOINT, map_location="cpu", weights_only=True)
        _check_identity(place / CHECKPOINT, state["identity"], identity)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return [epoch_from_values(values) for values in state["curve"]]
    if (place / WEIGHTS).is_file():
        with safe_open(place / WEIGHTS, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata()
            _check_identity(place / WEIGHTS, metadata["identity"], identity)
            weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        model.load_state_dict(weights)
        return [epoch_from_values(json.loads(line)) for line in metadata["curve"].splitlines()]
    return []


def _check_identity(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise RunError(
            f"{path} belongs to another training: it is {found}, and {wanted} is to go on. "
            "Network, seed, data, recipe or precision differ; train from the start instead."
        )


def _lines(curve: Sequence[Epoch]) -> bytes:
    return "".join(f"{json.dumps(epoch_to_values(epoch))}\n" for epoch in curve).encode()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
