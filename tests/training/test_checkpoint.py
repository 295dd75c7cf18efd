"""Checkpoints: what is kept, when, and what is left after any end."""

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from buildup.files import replacing
from buildup.training.checkpoint import CURVE, LOG, Checkpoints
from buildup.trials.outcome import Epoch
from buildup.trials.training import CHECKPOINT, WEIGHTS


def made(rate: float = 0.1) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return model, torch.optim.AdamW(model.parameters(), lr=rate)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(12.0).reshape(4, 3)).square().sum().backward()
    optimizer.step()


def epochs(count: int) -> list[Epoch]:
    return [Epoch(number=number, metrics={"nll": 1 / number}) for number in range(1, count + 1)]


def loaded(folder: Path, to: Path) -> tuple[list[Epoch], dict[str, torch.Tensor]]:
    model, optimizer = made()
    with Checkpoints(str(to), "one", model, optimizer) as saved:
        return saved.start([str(folder)]), model.state_dict()


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_state_after_an_epoch_is_saved_although_the_next_step_changes_it(tmp_path: Path) -> None:
    model, optimizer = made()
    with Checkpoints(str(tmp_path / "a"), "one", model, optimizer) as saved:
        assert saved.start([]) == []
        step(model, optimizer)
        then = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        saved.add(epochs(1), last=False)
        for _ in range(20):
            step(model, optimizer)
    curve, state = loaded(tmp_path / "a", tmp_path / "b")
    assert curve == epochs(1)
    assert all(torch.equal(state[name], then[name]) for name in then)


def test_the_kinds_of_device_of_all_attempts_are_known(tmp_path: Path) -> None:
    for attempt, device in (("1", "T4"), ("2", "A100"), ("3", "T4")):
        model, optimizer = made()
        with Checkpoints(str(tmp_path / attempt), "one", model, optimizer, device) as saved:
            saved.start([str(tmp_path / str(int(attempt) - 1))] if attempt > "1" else [])
            if attempt == "1":
                saved.add(epochs(1), last=False)
    assert saved.devices == ("T4", "A100")


def test_writing_does_not_hold_up_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    really = torch.save
    monkeypatch.setattr(torch, "save", lambda state, place: (release.wait(20), really(state, place)))
    model, optimizer = made()
    with Checkpoints(str(tmp_path), "one", model, optimizer) as saved:
        saved.start([])
        saved.add(epochs(1), last=False)  # would wait for ever
        saved.add(epochs(2), last=False)
        assert len((tmp_path / CURVE).read_text().splitlines()) == 2
        assert not (tmp_path / CHECKPOINT).exists()
        release.set()
    assert (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(("cost", "writes"), [(0.0, 5), (100.0, 1)])
def test_states_are_written_as_often_as_their_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, writes: int
) -> None:
    written: list[int] = []
    model, optimizer = made()
    with Checkpoints(str(tmp_path), "one", model, optimizer) as saved:
        saved.start([])
        monkeypatch.setattr(saved, "_write", lambda state: written.append(len(state["curve"])))
        for count in range(1, 6):
            saved.add(epochs(count), last=False)
            saved._wait()
            saved._cost = cost
    assert written == list(range(1, writes + 1))


def test_a_stop_between_two_epochs_loses_none(tmp_path: Path) -> None:
    model, optimizer = made()

    def training() -> object:
        with Checkpoints(str(tmp_path / "a"), "one", model, optimizer) as saved:
            saved.start([])
            saved._cost = 1e9  # none is due after the first
            for count in (1, 2, 3, 4):
                step(model, optimizer)
                saved.add(epochs(count), last=False)
                yield count

    steps = training()
    assert [next(steps) for _ in range(3)] == [1, 2, 3]  # type: ignore[call-overload]
    steps.close()  # type: ignore[attr-defined]
    curve, state = loaded(tmp_path / "a", tmp_path / "b")
    assert curve == epochs(3)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_an_error_in_an_epoch_leaves_the_last_whole_state(tmp_path: Path) -> None:
    model, optimizer = made()

    def training() -> None:
        with Checkpoints(str(tmp_path / "a"), "one", model, optimizer) as saved:
            saved.start([])
            saved.add(epochs(1), last=False)
            wait_for(tmp_path / "a" / CHECKPOINT)
            saved._wait()
            saved._cost = 1e9
            saved.add(epochs(2), last=False)
            step(model, optimizer)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training()
    assert loaded(tmp_path / "a", tmp_path / "b")[0] == epochs(1)


def test_a_third_attempt_finds_the_state_in_the_folder_of_the_second(tmp_path: Path) -> None:
    model, optimizer = made()
    with Checkpoints(str(tmp_path / "1"), "one", model, optimizer) as saved:
        saved.start([])
        saved.add(epochs(1), last=False)
    assert loaded(tmp_path / "1", tmp_path / "2")[0] == epochs(1)
    assert loaded(tmp_path / "2", tmp_path / "3")[0] == epochs(1)


def test_no_state_is_written_right_before_the_weights(tmp_path: Path) -> None:
    model, optimizer = made()
    with Checkpoints(str(tmp_path), "one", model, optimizer) as saved:
        saved.start([])
        saved.add(epochs(1), last=True)
    assert not (tmp_path / CHECKPOINT).exists()
    assert len((tmp_path / CURVE).read_text().splitlines()) == 1


@pytest.mark.parametrize("name", [CHECKPOINT, WEIGHTS])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_state_that_is_cut_off_is_left_out_for_the_one_before_it(tmp_path: Path, name: str, share: float) -> None:
    model, optimizer = made()
    for attempt, count in (("1", 1), ("2", 2)):
        with Checkpoints(str(tmp_path / attempt), "one", model, optimizer) as saved:
            saved.start([])
            saved.add(epochs(count), last=False)
    if name == WEIGHTS:
        saved.finish()
    damaged = tmp_path / "2" / name
    damaged.write_bytes(damaged.read_bytes()[: int(share * damaged.stat().st_size)])
    for before, found in (([tmp_path / "1"], 1), ([], 0)):
        to = tmp_path / f"to-{found}"
        with Checkpoints(str(to), "one", model, optimizer) as saved:
            assert saved.start([str(place) for place in (tmp_path / "2", *before)]) == epochs(found)
        assert f"{tmp_path / '2'} can't be read and is left out" in (to / LOG).read_text()


def test_two_writers_of_one_file_leave_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with replacing(path) as slow:
        slow.write_bytes(b"half")
        with replacing(path) as fast:
            fast.write_bytes(b"whole")
        assert path.read_bytes() == b"whole"
        slow.write_bytes(b"later")
    assert path.read_bytes() == b"later"
    assert list(tmp_path.iterdir()) == [path]
