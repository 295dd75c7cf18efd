"""The files of one attempt at a training.

    checkpoint.pt        the state after an epoch, or in the middle of a long one, while the training runs
    metrics.jsonl        the metrics, one line an epoch
    weights-N.safetensors the weights after epoch N, for each snapshot of the recipe
    weights.safetensors  the weights, written at the end in place of the checkpoint
    log.txt              a log for people

An attempt only reads the folders of earlier ones that it resumes from, because their workers may be alive.
"""

import json
import pickle
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from buildup.errors import RunError
from buildup.files import replacing, write_atomic
from buildup.trials.outcome import Epoch, epoch_from_values, epoch_to_values
from buildup.trials.training import CHECKPOINT, SNAPSHOTS, WEIGHTS

CURVE = "metrics.jsonl"
LOG = "log.txt"
TIME_SHARE = 0.02
"""The share of the time of a training that checkpoints may take. A state of 270 MB that takes a second to write is
written about once in 50 s; that of a small network after nearly every epoch."""
UNREADABLE_CHECKPOINT = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""The errors of files that are empty, cut off or damaged. What they were written for is trained again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialEpoch:
    """How far an epoch has got."""

    step: int = 0
    """The step that comes next, counted from 0."""
    sums: Tensor = field(default_factory=lambda: torch.zeros(2))
    """Of the losses and the hits so far."""
    seconds: float = 0.0
    known: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the epoch that were measured before it."""


class Checkpoints:
    """Loads and saves the state of one attempt.

    States are copied after an epoch and written by a thread. The next one is written when the last took at most
    `TIME_SHARE` of the time since. A stop in order, by leaving the context between two epochs, writes the last state.
    """

    devices: tuple[str, ...]
    """The kinds of device that the training ran on, those of earlier attempts first."""

    def __init__(
        self,
        folder: str,
        identity: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: str = "",
        snapshots: Sequence[int] = (),
        kept: nn.Module | None = None,
    ) -> None:
        """The identity tells trainings apart: the state of another training is refused. `device` is a kind.

        `snapshots` are the epochs after which the weights are kept. An attempt that resumes has those of earlier ones.
        `kept` has the weights to keep where these are not the model's, but their moving average.
        """
        self.devices = (device,)
        self._folder = Path(folder)
        self._identity, self._model, self._optimizer, self._kept = identity, model, optimizer, kept or model
        self._snapshots = snapshots
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._started = self._cost = 0.0
        self._unsaved: Sequence[Epoch] = ()
        self._curve: Sequence[Epoch] = ()
        self.part: PartialEpoch | None = None
        """How far the epoch after those of an earlier attempt had got."""

    def start(self, earlier: Sequence[str]) -> list[Epoch]:
        """Make the folder, load the newest state of earlier attempts that can be read, and return its epochs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        place, curve = self._load(earlier)
        if curve or self.part:
            # At once, so that a third attempt finds the state here even if this one gets no further.
            self._save(curve, self.part)
            self._wait()
            where = f"{f'step {self.part.step} after ' if self.part else ''}epoch {len(curve)}"
            append_log(self._folder, f"going on after {where} of {place}")
            self._take_snapshots(earlier, len(curve))
        write_atomic(self._folder / CURVE, _lines(curve).encode())
        self._curve = curve
        return curve

    def add(self, curve: Sequence[Epoch], *, last: bool) -> None:
        """Note an epoch. The state is saved unless that was done recently, or the weights will follow at once."""
        write_atomic(self._folder / CURVE, _lines(curve).encode())
        epoch = curve[-1]
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in epoch.metrics.items())
        append_log(self._folder, f"epoch {epoch.number}  {numbers}")
        if epoch.number in self._snapshots:
            with replacing(self._folder / snapshot_name(epoch.number)) as temporary:
                save_file(_tensors(self._kept), temporary)
        self._unsaved = self._curve = tuple(curve)
        if self._is_due() and not last:
            self._save(curve)

    def add_part(self, part: PartialEpoch) -> None:
        if self._is_due():
            self._save(self._curve, part)

    def finish(self) -> None:
        """Write the weights and delete the checkpoint.

        The file of the weights has the curve and the identity, so that a training is not repeated whose process died
        before its score was recorded.
        """
        with replacing(self._folder / WEIGHTS) as temporary:
            save_file(_tensors(self._kept), temporary, {"identity": self._identity, "curve": _lines(self._curve)})
        (self._folder / CHECKPOINT).unlink(missing_ok=True)
        append_log(self._folder, "finished")

    def _is_due(self) -> bool:
        if self._writing is not None and not self._writing.done():
            return False
        self._wait()
        return time.monotonic() - self._started >= self._cost / TIME_SHARE

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait()
            if kind is GeneratorExit and self._unsaved:
                self._save(self._unsaved)
                self._wait()
        except (OSError, RuntimeError):
            if kind is None:
                raise
        finally:
            self._thread.shutdown()

    def _load(self, earlier: Sequence[str]) -> tuple[str, list[Epoch]]:
        """Load the first state that there is and that can be read; returns where it was and its epochs."""
        for place in earlier:
            try:
                state = _read_state(Path(place))
            except UNREADABLE_CHECKPOINT as error:
                said = str(error).partition("\n")[0] or type(error).__name__
                append_log(self._folder, f"the state in {place} can't be read and is left out: {said}")
                continue
            if state is None:
                continue
            if state["identity"] != self._identity:
                raise RunError(
                    f"{place} belongs to another training: it is {state['identity']}, and {self._identity} is to be "
                    "resumed. Network, seed, data, recipe or precision differ; train from the start instead."
                )
            self._model.load_state_dict(state["model"])
            if self._kept is not self._model:
                self._kept.load_state_dict(state.get("kept", state["model"]))
            if "optimizer" in state:
                self._optimizer.load_state_dict(state["optimizer"])
                self.devices = tuple(dict.fromkeys((*state.get("devices", ()), *self.devices)))
            self.part = PartialEpoch(**state["part"]) if state.get("part") else None
            return place, state["curve"]
        return "", []

    def _take_snapshots(self, earlier: Sequence[str], epochs: int) -> None:
        for name in (snapshot_name(epoch) for epoch in self._snapshots if epoch <= epochs):
            found = next((path for place in earlier if (path := Path(place) / name).is_file()), None)
            if found is None:
                append_log(self._folder, f"{name}: no earlier attempt has it, so it stays missing")
            elif not (ours := self._folder / name).exists():
                try:
                    ours.hardlink_to(found)
                except OSError:
                    shutil.copyfile(found, ours)

    def _save(self, curve: Sequence[Epoch], part: PartialEpoch | None = None) -> None:
        self._started = time.monotonic()
        state = {
            "identity": self._identity,
            # Copies: the next step changes the tensors while they are written.
            "model": _on_host(self._model.state_dict()),
            "optimizer": _on_host(self._optimizer.state_dict()),
            **({"kept": _on_host(self._kept.state_dict())} if self._kept is not self._model else {}),
            "curve": [epoch_to_values(epoch) for epoch in curve],
            "devices": list(self.devices),
            "part": _on_host(asdict(part)) if part else None,
        }
        self._writing = self._thread.submit(self._write, state)
        self._unsaved = ()

    def _write(self, state: dict[str, Any]) -> None:
        with replacing(self._folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)
        self._cost = time.monotonic() - self._started

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def snapshot_name(epoch: int) -> str:
    return SNAPSHOTS.replace("*", str(epoch))


def append_log(folder: str | Path, line: str) -> None:
    with (Path(folder) / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _read_state(place: Path) -> dict[str, Any] | None:
    """The whole state in the folder of an attempt; None if there is none."""
    if not place.is_dir():
        raise RunError(f"{place} is not the folder of an earlier attempt, so there is nothing to resume from.")
    if (path := place / CHECKPOINT).is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        values = state["curve"]
    elif (path := place / WEIGHTS).is_file():
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            state = {"model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
        values = [json.loads(line) for line in metadata["curve"].splitlines()]
        state["identity"] = metadata["identity"]
    else:
        return None
    return {**state, "identity": state["identity"], "curve": [epoch_from_values(one) for one in values]}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _on_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(one) for key, one in value.items()}
    return [_on_host(one) for one in value] if isinstance(value, list) else value


def _lines(curve: Sequence[Epoch]) -> str:
    return "".join(f"{json.dumps(epoch_to_values(epoch))}\n" for epoch in curve)
