"""What the hub reads of a model card."""

import subprocess
import sys
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard, ModelCardData

from buildup.graph.serialize import fingerprint
from buildup.models.pretrained import origin_of
from buildup.report.card import model_card
from buildup.report.findings import Findings
from buildup.trials.final_result import Contender, Final
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Pretrained, WeightsOrigin

EXPORTED = Score(accuracy=84.0, images=5000, metrics={"nll": 0.61})


def with_settings(findings: Findings, **settings: object) -> Findings:
    return replace(findings, settings={**findings.settings, **settings})


def read(findings: Findings, origin: WeightsOrigin | None = None) -> ModelCardData:
    """What the hub finds in a card."""
    data = ModelCard(model_card(findings, findings.winner, EXPORTED, origin=origin)).data
    assert isinstance(data, ModelCardData)
    return data


def final_of(findings: Findings) -> Final:
    winner = Contender(
        part="winner",
        layout="",
        fingerprint=fingerprint(findings.winner),
        params=1,
        macs=1,
        scores={"10": 80.5, "11": 80.7},
        ci=(79.33, 81.87),
        failures={},
    )
    other = replace(winner, part="base", fingerprint=fingerprint(findings.base), scores={"10": 70.0}, ci=None)
    return Final(
        contenders=(other, winner),
        claims=(),
        seeds=(10, 11),
        recipe="quick",
        epochs=14,
        train_images=50_000,
        test_images=10_000,
        opened="then",
    )


def test_the_head_says_what_the_hub_filters_by(published: Findings) -> None:
    data = read(published)
    assert (data.license, data.library_name, data.datasets) == ("apache-2.0", "timm", ["uoft-cs/cifar100"])
    assert data.tags == ["image-classification", "timm", "alternet", "buildup"]
    assert data.get("base_model") is None


def test_trained_weights_of_the_base_are_named_and_have_terms_of_their_own(published: Findings) -> None:
    origin = origin_of(Pretrained(source="resnetv2_50", hash="0"))
    assert origin is not None
    ours = with_settings(published, pretrained="resnetv2_50")
    data = read(ours, origin)
    assert (data.base_model, data.license) == ("timm/resnetv2_50.a1h_in1k", "apache-2.0")
    text = model_card(ours, published.winner, EXPORTED, origin=origin)
    assert "started from timm's weights resnetv2_50.a1h_in1k (license apache-2.0)." in text
    others = replace(origin, license="cc-by-nc-4.0", hub_id="")
    assert (read(ours, others).get("base_model"), read(ours, others).license) == (None, "cc-by-nc-4.0")


def test_weights_of_a_file_are_named_and_their_license_is_unknown(published: Findings) -> None:
    assert origin_of(None) is origin_of(Pretrained(source="/home/me/weights.pth", hash="0")) is None
    ours = with_settings(published, pretrained="/home/me/weights.pth", pretrained_hash="abcdef0123456789")
    data = read(ours)
    assert (data.get("base_model"), data.license) == (None, "unknown")
    text = model_card(ours, published.winner, EXPORTED)
    assert "from the weights in the file weights.pth (hash abcdef012345), whose license is unknown." in text


def test_before_a_final_only_validation_images_are_spoken_of(published: Findings) -> None:
    (found,) = read(published).eval_results or []
    assert (found.metric_type, found.metric_value, found.dataset_split) == ("accuracy", 84.0, "validation")
    assert found.metric_name == "accuracy in %, these weights, the best of 3 seeds"


def test_a_final_adds_its_mean_and_interval_on_test_images(published: Findings) -> None:
    known = read(replace(published, final=final_of(published))).eval_results or []
    test = next(found for found in known if found.dataset_split == "test")
    assert test.metric_value == 80.6
    assert test.metric_name == "accuracy in %, mean of 2 trainings with fresh seeds, 95 % CI 79.33 to 81.87"
    assert [found.dataset_split for found in known] == ["test", "validation"]


def test_another_objective_stands_beside_accuracy(published: Findings) -> None:
    findings = with_settings(replace(published, history=History()), objective="nll", dataset="folder:/home/me/pets")
    known = read(findings).eval_results or []
    assert {found.metric_type: found.metric_value for found in known} == {"accuracy": 84.0, "nll": 61.0}
    assert {found.dataset_name for found in known} == {"folder:pets"}


@pytest.mark.parametrize(
    ("module", "absent"), [("buildup.report.card", "torch"), ("buildup.cli.main", "huggingface_hub")]
)
def test_cards_load_no_torch_and_help_loads_no_hub(module: str, absent: str) -> None:
    code = f"import sys, {module}; assert {absent!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
