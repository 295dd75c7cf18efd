from pathlib import Path

from buildup.store.run_dir import FINAL, attempt_folder, trained_weights
from buildup.trials.training import WEIGHTS


def leave(training: Path, attempt: int, *names: str) -> Path:
    folder = attempt_folder(training, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder / WEIGHTS


def test_the_weights_of_a_training_are_those_of_the_attempt_with_its_record(tmp_path: Path) -> None:
    recorded = leave(tmp_path, 1, WEIGHTS, FINAL)
    leave(tmp_path, 2, WEIGHTS)
    assert trained_weights(tmp_path) == recorded


def test_without_a_record_the_newest_weights_are_taken_in_the_order_of_numbers(tmp_path: Path) -> None:
    leave(tmp_path, 9, WEIGHTS)
    newest = leave(tmp_path, 10, WEIGHTS)
    leave(tmp_path, 11)
    assert trained_weights(tmp_path) == newest


def test_weights_that_were_removed_are_replaced_by_no_others(tmp_path: Path) -> None:
    assert trained_weights(tmp_path) is None
    leave(tmp_path, 1, WEIGHTS)
    leave(tmp_path, 2, FINAL)
    assert trained_weights(tmp_path) is None
