"""The files of one attempt at a training.

    checkpoint.pt        the state after the last finished epoch, while the training runs
    metrics.jsonl        the metrics, one line an epoch
    weights.safetensors  the weights, written at the end in place of the checkpoint
    reliability.json     the bins of the reliability diagram, written at the end
    log.txt              a log for people

An attempt only reads the folder of an earlier one that it resumes from, because the worker of that one may be alive.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from buildup.errors import RunError
from buildup.training.metrics import Bin
from buildup.trials.outcome import Epoch, epoch_from_values, epoch_to_values
from buildup.trials.training import CHECKPOINT, WEIGHTS

CURVE = "metrics.jsonl"
RELIABILITY = "reliability.json"
LOG = "log.txt"


def start_attempt(
    folder: str, earlier: str | None, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[Epoch]:
    """Make the folder, load the state of an earlier attempt, and return the epochs that it finished.

    The identity tells trainings apart: the state of another training is refused.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    curve = _load_earlier(Path(earlier), identity, model, optimizer) if earlier else []
    if curve:
        # At once, so that a third attempt finds the state here even if this one gets no further.
        save_checkpoint(folder, identity, model, optimizer, curve)
        append_log(folder, f"going on after epoch {len(curve)} of {earlier}")
    else:
        with _replacing(Path(folder) / CURVE) as temporary:
            temporary.write_bytes(b"")
    return curve


def save_checkpoint(
    folder: str, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, curve: Sequence[Epoch]
) -> None:
    """Save the state after the last epoch of a curve."""
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "curve": [epoch_to_values(epoch) for epoch in curve],
    }
    with _replacing(Path(folder) / CHECKPOINT) as temporary:
        torch.save(state, temporary)
    with _replacing(Path(folder) / CURVE) as temporary:
        temporary.write_bytes(_lines(curve))
    last = curve[-1]
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in last.metrics.items())
    append_log(folder, f"epoch {last.number}  {numbers}")


def finish_attempt(folder: str, identity: str, model: nn.Module, curve: Sequence[Epoch], bins: Sequence[Bin]) -> None:
    """Write the weights and delete the checkpoint.

    The file of the weights has the curve and the identity, so that a training is not repeated whose process died before
    its score was recorded.
    """
    place = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with _replacing(place / WEIGHTS) as temporary:
        save_file(tensors, temporary, {"identity": identity, "curve": _lines(curve).decode()})
    with _replacing(place / RELIABILITY) as temporary:
        temporary.write_bytes(json.dumps([asdict(bin) for bin in bins], indent=1).encode())
    (place / CHECKPOINT).unlink(missing_ok=True)
    append_log(folder, "finished")


def epochs_done(folder: str) -> int:
    """How many epochs an attempt has saved."""
    curve = Path(folder) / CURVE
    return len(curve.read_bytes().splitlines()) if curve.is_file() else 0


def append_log(folder: str, line: str) -> None:
    """Append a line to the log."""
    with (Path(folder) / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _load_earlier(place: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Epoch]:
    if not place.is_dir():
        raise RunError(f"{place} is not the folder of an earlier attempt, so there is nothing to resume from.")
    state: dict[str, Any]
    if (path := place / CHECKPOINT).is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
    elif (path := place / WEIGHTS).is_file():
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        curve = [json.loads(line) for line in metadata["curve"].splitlines()]
        state = {"identity": metadata["identity"], "model": weights, "curve": curve}
    else:
        return []
    if state["identity"] != identity:
        raise RunError(
            f"{path} belongs to another training: it is {state['identity']}, and {identity} is to be resumed. "
            "Network, seed, data, recipe or precision differ; train from the start instead."
        )
    model.load_state_dict(state["model"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    return [epoch_from_values(values) for values in state["curve"]]


def _lines(curve: Sequence[Epoch]) -> bytes:
    return "".join(f"{json.dumps(epoch_to_values(epoch))}\n" for epoch in curve).encode()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes a path when it is complete. After an error, half of it would fill the disk."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
