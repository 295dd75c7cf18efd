import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from buildup.errors import BaseError
from buildup.graph.kinds import GatedAttention, LocalAttention
from buildup.graph.network import Append, Network, apply, replacement
from buildup.models.build import build
from buildup.models.pretrained import check_pretrained, find_pretrained, fresh_parts
from buildup.models.read import read_network

THIN: dict[str, Any] = {"channels": [16, 16, 32, 64]}


def trained(**arguments: Any) -> dict[str, Tensor]:
    """Weights of a thin ResNet-18 that no fresh one has."""
    model = timm.create_model("resnet18", **{"num_classes": 7, **THIN, **arguments})
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(weight.shape, generator=generator) + 0.1 if weight.is_floating_point() else weight + 5
        for name, weight in model.state_dict().items()
    }


@pytest.fixture
def file(tmp_path: Path) -> str:
    save_file(trained(), tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


def network_of(*, size: int = 96, channels: int = 3, num_classes: int = 7, edited: bool = True) -> Network:
    network = read_network("resnet18", input_shape=(channels, size, size), num_classes=num_classes, base_args=THIN)
    if edited:
        network = apply(network, Append(stage="layer4"))
        network = apply(network, replacement(network, "layer3.1", LocalAttention(heads=2, head_size=8, window=3)))
    return network


def test_blocks_of_the_bases_own_start_as_trained_and_all_others_as_without(file: str) -> None:
    network = network_of()
    started = build(network, seed=3, start=find_pretrained(network, "resnet18", file)).state_dict()
    fresh, weights = build(network, seed=3).state_dict(), trained()
    for name, weight in started.items():
        changed = name.startswith(("layer3.1.", "layer4.2."))
        assert torch.equal(weight, fresh[name] if changed else weights[name]), name


def test_a_base_as_it_is_answers_as_what_was_trained(file: str) -> None:
    network = network_of(edited=False)
    theirs = timm.create_model("resnet18", num_classes=7, **THIN)
    theirs.load_state_dict(trained())
    images = torch.randn(2, 3, 96, 96)
    ours = build(network, start=find_pretrained(network, "resnet18", file))
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_other_classes_start_with_a_fresh_classifier_and_other_channels_as_timm_adapts_them(file: str) -> None:
    network = network_of(channels=1, num_classes=4)
    started = build(network, seed=3, start=find_pretrained(network, "resnet18", file)).state_dict()
    fresh, weights = build(network, seed=3).state_dict(), trained()
    assert all(torch.equal(started[name], fresh[name]) for name in ("fc.weight", "fc.bias"))
    torch.testing.assert_close(started["conv1.weight"], weights["conv1.weight"].sum(dim=1, keepdim=True))
    assert torch.equal(started["layer4.1.conv1.weight"], weights["layer4.1.conv1.weight"])


def test_a_small_stem_starts_fresh(file: str) -> None:
    network = network_of(size=32)
    started = build(network, seed=3, start=find_pretrained(network, "resnet18", file)).state_dict()
    assert torch.equal(started["conv1.weight"], build(network, seed=3).state_dict()["conv1.weight"])
    assert torch.equal(started["bn1.weight"], trained()["bn1.weight"])


@pytest.mark.parametrize("num_classes", [7, 5])
def test_weights_of_a_training_with_the_small_stem_keep_it(num_classes: int, tmp_path: Path) -> None:
    theirs = build(network_of(size=32, edited=False), seed=3)
    path = tmp_path / "small.safetensors"
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, path)
    network = network_of(size=32, num_classes=num_classes)
    found = build(network, seed=0, start=find_pretrained(network, "resnet18", str(path))).state_dict()
    own = theirs.state_dict()
    new = ("layer3.1.", "layer4.2.") + (() if num_classes == 7 else ("fc.",))
    assert network.shrunk
    assert all(torch.equal(found[name], own[name]) for name in found if not name.startswith(new))


def test_gated_attention_starts_as_what_was_trained_in_its_place(file: str) -> None:
    base = network_of(edited=False)
    network = apply(base, replacement(base, "layer2.1", GatedAttention()))
    start = find_pretrained(network, "resnet18", file)
    theirs, ours = (build(one, seed=3, start=start).eval() for one in (base, network))
    images = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=0)


def test_attention_starts_as_the_identity_whatever_was_trained_in_its_place(file: str) -> None:
    network = network_of()
    model = build(network, seed=3, start=find_pretrained(network, "resnet18", file))
    assert not model.get_parameter("layer3.1.norm2.weight").any()


def test_a_checkpoint_of_a_training_is_read_too(file: str, tmp_path: Path) -> None:
    torch.save({"state_dict": trained(), "epoch": 3}, tmp_path / "last.pth")
    network = network_of()
    found = find_pretrained(network, "resnet18", str(tmp_path / "last.pth"))
    assert found.hash == find_pretrained(network, "resnet18", file).hash


def test_weights_for_another_number_of_channels_are_taken_as_they_are(tmp_path: Path) -> None:
    weights = trained(in_chans=1)
    save_file(weights, tmp_path / "grey.safetensors")
    network = network_of(channels=1)
    model = build(network, start=find_pretrained(network, "resnet18", str(tmp_path / "grey.safetensors")))
    assert torch.equal(model.get_parameter("conv1.weight"), weights["conv1.weight"])


def test_the_callers_random_numbers_are_left_alone(file: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network = network_of()
    build(network, seed=1, start=find_pretrained(network, "resnet18", file))
    assert torch.equal(torch.rand(3), expected)


def refusal(path: Path) -> str:
    with pytest.raises(BaseError) as caught:
        find_pretrained(network_of(), "resnet18", str(path))
    return str(caught.value)


def test_weights_of_another_network_are_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    weights = trained() | {"layer9.weight": torch.zeros(2)}
    weights["bn1.weight"] = torch.zeros(5)
    for index in range(2):
        del weights[f"layer2.{index}.conv1.weight"], weights[f"layer2.{index}.conv2.weight"]
    save_file(weights, tmp_path / "other.safetensors")
    text = refusal(tmp_path / "other.safetensors")
    assert "not weights of resnet18(channels=[16, 16, 32, 64]): it lacks layer2.0.conv1.weight, " in text
    assert "layer2.1.conv1.weight and 1 more; it has besides layer9.weight; of another shape are" in text
    assert text.endswith("of another shape are bn1.weight (5 in the file, 64 in the base).")


def test_weights_without_the_statistics_of_norms_say_what_to_save(tmp_path: Path) -> None:
    weights = {name: value for name, value in trained().items() if "running" not in name and "tracked" not in name}
    save_file(weights, tmp_path / "parameters.safetensors")
    text = refusal(tmp_path / "parameters.safetensors")
    assert "its norms have no statistics (it lacks bn1.running_mean, bn1.running_var" in text
    assert text.endswith("Save the whole state_dict, which has buffers too.")


def test_what_starts_anew_beside_trained_weights_is_said(file: str) -> None:
    def said(**changes: Any) -> str | None:
        network = network_of(**changes)
        return fresh_parts(network, find_pretrained(network, "resnet18", file))

    assert said() is None
    assert str(said(num_classes=4)).endswith("fc, which told 7 classes apart, and the data has 4.")
    assert "conv1, which has another shape for images of 32 px (a space with `stem: base` keeps it)." in str(
        said(size=32)
    )


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "none.safetensors")


def test_an_empty_name_is_no_wish_for_timms_weights() -> None:
    with pytest.raises(BaseError, match="--pretrained is empty"):
        find_pretrained(network_of(), "resnet18", "")


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors", "attempt-12/weights.safetensors"])
def test_the_folder_of_an_export_or_a_training_names_its_weights(name: str, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / name).parent.mkdir(parents=True)
    (folder / "attempt-2").mkdir(exist_ok=True)
    Path(file).rename(folder / name)
    if "attempt" in name:
        save_file({"a": torch.zeros(1)}, folder / "attempt-2" / "weights.safetensors")
    assert find_pretrained(network_of(), "resnet18", str(folder)).source == str(folder / name)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith(
        "without model.safetensors or weights.safetensors. Name the file of weights in it."
    )


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda weights: {f"model.{name}": weight for name, weight in weights.items()},
        lambda weights: {"state_dict": {f"backbone.{name}": weight for name, weight in weights.items()}},
        lambda weights: {f"module.{name}": weight for name, weight in weights.items()},
        lambda weights: {"model_state_dict": weights, "optimizer": {"lr": 0.1}, "epoch": 3},
    ],
)
def test_weights_are_found_under_the_names_that_trainers_give_them(wrapped: Any, file: str, tmp_path: Path) -> None:
    torch.save(wrapped(trained()), tmp_path / "theirs.pth")
    network = network_of()
    found = find_pretrained(network, "resnet18", str(tmp_path / "theirs.pth"))
    assert found.hash == find_pretrained(network, "resnet18", file).hash


def test_weights_without_a_classifier_start_with_a_new_one(file: str, tmp_path: Path) -> None:
    headless = {name: weight for name, weight in trained().items() if not name.startswith("fc.")}
    save_file(headless, tmp_path / "headless.safetensors")
    network = network_of()
    start = find_pretrained(network, "resnet18", str(tmp_path / "headless.safetensors"))
    started, fresh = build(network, seed=3, start=start).state_dict(), build(network, seed=3).state_dict()
    assert torch.equal(started["fc.weight"], fresh["fc.weight"])
    assert torch.equal(started["layer1.0.conv1.weight"], trained()["layer1.0.conv1.weight"])
    assert str(fresh_parts(network, start)).endswith("fc, which is not among them.")


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (4, 3), (3, 1), (1, 2), (2, 2)])
def test_weights_for_any_number_of_channels_are_adapted(theirs: int, ours: int, tmp_path: Path) -> None:
    weights = trained(in_chans=theirs)
    save_file(weights, tmp_path / "w.safetensors")
    network = network_of(channels=ours)
    started = build(network, start=find_pretrained(network, "resnet18", str(tmp_path / "w.safetensors")))
    first = started.get_parameter("conv1.weight")
    assert first.shape[1] == ours
    # A constant image gives the same, whatever the number of channels.
    if ours >= theirs and ours % theirs == 0:
        torch.testing.assert_close(first.sum(1), weights["conv1.weight"].sum(1))
    assert torch.equal(started.get_parameter("fc.weight"), weights["fc.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: weight * float("nan"), "1 of its tensors hold what is no number, bn1.running_var first."),
        (lambda weight: -weight, "1 of its tensors hold negative variances, bn1.running_var first."),
        (lambda weight: weight.to(torch.int8), "1 of its tensors hold whole numbers, bn1.running_var first."),
    ],
)
def test_values_that_no_training_leaves_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    weights = trained()
    weights["bn1.running_var"] = change(weights["bn1.running_var"])
    save_file(weights, tmp_path / "broken.safetensors")
    assert refusal(tmp_path / "broken.safetensors").endswith(said)


def test_weights_of_a_network_with_attention_say_why_they_do_not_fit(tmp_path: Path) -> None:
    weights = build(network_of(), seed=0).state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, tmp_path / "alternet.safetensors")
    assert refusal(tmp_path / "alternet.safetensors").endswith(
        "weights of a network with replaced blocks can't start its base."
    )


def test_a_whole_model_says_what_to_save(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", **THIN), tmp_path / "model.pth")
    said = refusal(tmp_path / "model.pth")
    assert "save `model.state_dict()` alone" in said
    assert "weights_only" not in said


def test_files_of_other_kinds_are_told_by_their_first_bytes(file: str, tmp_path: Path) -> None:
    (tmp_path / "code.pth").write_text("import torch\n")
    assert "(torch did not write it)" in refusal(tmp_path / "code.pth")
    (tmp_path / "renamed.pth").write_bytes(Path(file).read_bytes())
    assert "it is a .safetensors file; give it that ending" in refusal(tmp_path / "renamed.pth")
    torch.save({"state_dict": trained(), "best": np.float64(76.1)}, tmp_path / "best.pth")
    assert "or a number of numpy" in refusal(tmp_path / "best.pth")


def test_files_that_are_empty_or_cut_off_say_so(file: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    assert "(it is empty)" in refusal(tmp_path / "empty.pth")
    torch.save(trained(), tmp_path / "whole.pth")
    for name, whole in (("cut.pth", tmp_path / "whole.pth"), ("cut.safetensors", Path(file))):
        (tmp_path / name).write_bytes(whole.read_bytes()[:-1000])
        assert "may be cut off" in refusal(tmp_path / name)


def test_a_file_that_is_gone_names_its_hash(file: str) -> None:
    network = network_of()
    found = find_pretrained(network, "resnet18", file)
    Path(file).unlink()
    with pytest.raises(BaseError, match=rf"it is gone. Put it back \(hash {found.hash[:12]}\), or start a new run"):
        check_pretrained(network, found)


class Rogue:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("rogue"),)


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps([1, 2], 2), pickle.dumps(Rogue(), 2)])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_holds_no_weights_is_refused_and_nothing_in_it_is_run(
    content: bytes, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert "no file of weights" in refusal(tmp_path / name)
    assert not (tmp_path / "rogue").exists()


def test_a_saved_list_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    assert "no file of weights" in refusal(tmp_path / "list.pth")


def test_weights_that_changed_since_are_refused(file: str) -> None:
    network = network_of()
    found = find_pretrained(network, "resnet18", file)
    check_pretrained(network, found)
    changed = trained()
    changed["bn1.weight"] += 1
    save_file(changed, file)
    with pytest.raises(BaseError, match="not the weights that the run began with"):
        check_pretrained(network, found)
    with pytest.raises(BaseError, match="not the weights that the run began with"):
        build(network, start=found)


def test_a_base_without_weights_in_timm_says_what_to_give_instead() -> None:
    network = read_network("resnet50t", input_shape=(3, 64, 64), num_classes=7)
    with pytest.raises(BaseError, match=r"weights of resnet50t can't be had: No pretrained .* --pretrained FILE"):
        find_pretrained(network, "resnet50t")
