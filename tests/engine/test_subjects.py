"""`analyze` measures the training loss on the images that a network was trained on, and the rest on none of them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from buildup.diagnostics.analysis import QUICK, Subject
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.measurements import find_measurements
from buildup.engine.analysis.analyze import analyze_model
from buildup.engine.analysis.subjects import find_models, make_subject
from buildup.engine.graph_cache import costs_of
from buildup.engine.load_state import state_of
from buildup.errors import DataError, RequestError
from buildup.graph.network import Network
from buildup.graph.serialize import network_to_values
from buildup.models.build import build
from buildup.models.export import export_network
from buildup.models.read import read_network
from buildup.settings import AnalyzeSettings
from buildup.store.run_record import open_record
from buildup.store.study_writer import StudyWriter
from buildup.training.augmentation import normalise
from buildup.training.data import load_data
from buildup.training.dataset import Dataset, split
from buildup.training.recipe import Recipe, recipe_to_values
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Record, Score
from buildup.trials.training import Training

PLAIN = Recipe(name="plain", epochs=1, batch_size=32, eval_batch_size=32, optimizer="sgd", lr=0.1, schedule="cosine")
"""Without augmentation, so that an image can be recognised in a batch."""
SEED, FRACTION = 3, 1 / 10


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


@pytest.fixture(scope="module")
def network() -> Network:
    return read_network("test_resnet", input_shape=(1, 16, 16), num_classes=10)


def facts(digits: Dataset, **other: Any) -> dict[str, Any]:
    training = {"dataset": "digits", "data_hash": digits.hash, "seed": SEED, "fraction": FRACTION}
    return {"recipe": recipe_to_values(PLAIN), "data_dir": None, "image_size": 16} | training | other


def trained(place: Path, network: Network, values: dict[str, Any]) -> Path:
    """The folder that a training leaves, here of first weights."""
    (place / "attempt-1").mkdir(parents=True)
    save_file(build(network, seed=0).state_dict(), place / "attempt-1" / "weights.safetensors")
    (place / "training.json").write_text(json.dumps({"network": network_to_values(network)} | values))
    return place


def exported(place: Path, network: Network, values: dict[str, Any]) -> Path:
    export_network(network, build(network, seed=0).state_dict(), place, card="", training=values)
    return place


def subject_of(place: Path) -> Subject:
    (found,) = find_models(str(place), AnalyzeSettings())
    return make_subject(found, QUICK, find_measurements(["landscape"]), 0, torch.device("cpu"))


def pixels(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("left", [trained, exported])
def test_the_loss_is_measured_on_the_images_of_the_training(
    left: Any, tmp_path: Path, digits: Dataset, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildup.models.export._check", lambda *_: None)  # it starts a process
    subject = subject_of(left(tmp_path / "net", network, facts(digits)))
    train, val = (
        pixels(normalise(digits.part(index).images, digits.mean, digits.std))
        for index in split(digits, SEED, fraction=FRACTION)
    )
    seen = pixels(torch.cat([images for images, _ in subject.train_batches]))
    assert len(seen) > 100
    assert seen <= train
    assert pixels(normalise(subject.images.images, digits.mean, digits.std)) <= val


WARM = replace(PLAIN, epochs=9, warmup_epochs=2, snapshots=("warmup", 5))


@pytest.fixture
def phased(tmp_path: Path, digits: Dataset, network: Network) -> Path:
    """A training of which each phase has the weights of another seed."""
    place = trained(tmp_path / "net", network, facts(digits, recipe=recipe_to_values(WARM)))
    for epoch in (2, 5):
        save_file(build(network, seed=epoch).state_dict(), place / "attempt-1" / f"weights-{epoch}.safetensors")
    return place


def test_a_phase_of_a_training_has_its_own_weights(phased: Path, network: Network) -> None:
    everything = AnalyzeSettings()
    found = find_models(f"{phased}@all", everything)
    assert [(one.label, one.series, one.epoch) for one in found] == [
        ("net@warmup", "net", 2), ("net@5", "net", 5), ("net@9", "net", 9)
    ]  # fmt: skip
    for one, seed in zip(found, (2, 5, 0), strict=True):
        assert weights_digest(one.model) == weights_digest(build(network, seed=seed))
    (alone,) = find_models(f"{phased}@warmup", everything)
    assert weights_digest(alone.model) == weights_digest(found[0].model)
    (plain,) = find_models(str(phased), everything)
    assert (plain.label, plain.epoch) == ("net", 9)


def test_a_folder_whose_name_has_an_at_sign_is_found(phased: Path) -> None:
    place = phased.rename(phased.with_name("net@home"))
    assert [one.label for one in find_models(str(place), AnalyzeSettings())] == ["net@home"]
    assert [one.label for one in find_models(f"{place}@5", AnalyzeSettings())] == ["net@home@5"]


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("4", "were not kept; there are those of warmup, 5 and of the end, 9. `snapshots: [4]` in a recipe"),
        ("10", "the training has the epochs 1 to 9"),
        ("0", "the training has the epochs 1 to 9"),
        ("early", "a phase is warmup, an epoch, or all"),
    ],
)
def test_a_phase_that_is_not_there_gets_a_sentence(phased: Path, phase: str, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        find_models(f"{phased}@{phase}", AnalyzeSettings())


def test_what_has_no_phases_says_so(tmp_path: Path, digits: Dataset, network: Network) -> None:
    plain = trained(tmp_path / "net", network, facts(digits))
    for name, said in (
        (f"{plain}@warmup", "its recipe plain has no warm-up"),
        ("resnet10t@3", "resnet10t is neither a run nor the folder of a training"),
    ):
        with pytest.raises(RequestError, match=said):
            find_models(name, AnalyzeSettings(dataset="digits"))


def test_an_analysis_on_other_training_images_is_another_one(
    tmp_path: Path, digits: Dataset, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    settings = AnalyzeSettings(what="variance", quick=True, images=8, device="cpu", out=str(tmp_path / "out"))
    caplog.set_level("INFO", "buildup")
    found = []
    for number, values in enumerate([facts(digits), facts(digits, fraction=1 / 2), facts(digits, fraction=1 / 2)]):
        place = trained(tmp_path / str(number) / "net", network, values)
        found.append(analyze_model(str(place), settings).identity["training images"]["net"])
        assert ("kept from before" in caplog.text) == (number == 2)
    assert found[0].startswith("116 of 1438 images of digits, those of its training")
    assert found[0] != found[1] == found[2]


def test_a_training_that_does_not_name_its_images_is_measured_with_a_warning(
    tmp_path: Path, digits: Dataset, network: Network
) -> None:
    values = facts(digits)
    del values["fraction"], values["seed"]
    (found,) = find_models(str(trained(tmp_path / "net", network, values)), AnalyzeSettings())
    assert "does not say which images it was trained on" in found.note


def test_other_data_than_it_was_trained_on_is_refused(tmp_path: Path, digits: Dataset, network: Network) -> None:
    place = trained(tmp_path / "net", network, facts(digits, data_hash="0" * 64))
    with pytest.raises(DataError, match="not the data that net was trained on"):
        subject_of(place)


def test_the_page_says_of_the_first_and_of_the_last_phase_whether_the_paper_agrees(
    phased: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = AnalyzeSettings(what="noise", quick=True, images=4, device="cpu", out=str(out))
    found = analyze_model(f"{phased}@all", settings)
    assert [*found.summaries["noise"]] == ["net@warmup", "net@5", "net@9"]
    page = (out / "index.html").read_text()
    assert "First phase: The paper&#x27;s claim is about a model with more attention and one with less" in page
    assert "Last phase: " in page


def test_a_candidate_of_a_run_has_its_phases(tried: Path, tmp_path: Path) -> None:
    place = shutil.copytree(tried, tmp_path / "tried")
    (run,) = find_models(f"{place}:0", AnalyzeSettings())
    last = run.epoch
    assert (run.trained_here, run.seed) == (True, 3)
    with pytest.raises(RequestError, match=f"there are only those of the end, {last}"):
        find_models(f"{place}:0@2", AnalyzeSettings())
    for weights in place.glob("trainings/*/*/weights.safetensors"):
        shutil.copyfile(weights, weights.with_name("weights-2.safetensors"))
    (kept,) = find_models(f"{place}:0@2", AnalyzeSettings())
    assert (kept.label, kept.series, kept.epoch) == (f"{run.label}@2", run.label, 2)


def test_networks_of_a_run_are_compared_on_the_images_of_one_seed(tried: Path, tmp_path: Path) -> None:
    """The best trainings of two networks may have other seeds, and so other images."""
    place = Path(shutil.copytree(tried, tmp_path / "tried"))
    run = open_record(str(place))
    view, history = state_of(run)
    base, *_ = view.candidates
    (row,) = [one for key, one in history.outcomes.items() if key == f"{base.id}-s3"]
    assert isinstance(row, Score)
    writer = StudyWriter.open(
        folder=place, storage_url=None, study_name=run.study_name, base=run.network, costs=costs_of
    )
    better = Training(candidate=base, seed=4)
    record = Record(outcome=replace(row, accuracy=99.0), curve=())
    for update in (Started(attempt=1, host="", pid=1), record):
        history = writer.record(history, Event(training=better, update=update))
    writer.close()
    shutil.copytree(place / "trainings" / f"{base.id}-s3", place / "trainings" / f"{base.id}-s4", dirs_exist_ok=True)
    seeds = [find_models(f"{place}:{name}", AnalyzeSettings())[0].seed for name in ("0", "1", "0/s4")]
    assert seeds == [3, 3, 4]
    with pytest.raises(RequestError, match="was not trained with this seed; it has 3, 4"):
        find_models(f"{place}:0/s7", AnalyzeSettings())
