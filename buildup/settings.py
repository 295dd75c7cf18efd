"""Every request as a typed dataclass: its fields are the flags, the keyword arguments of the Python API and, for a
search, the keys of `run.yaml`.

A field's docstring is the help of its flag. None means "not given"; the docstring says what follows then. Values are
checked in `engine/request.py`, where all problems of a request are found together.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

_NETWORK = Parameter(group=Group("Network and data", sort_key=1))
_TRAINING = Parameter(group=Group("Training", sort_key=2))
_DECIDING = Parameter(group=Group("What is tried and how it is judged", sort_key=3))
_LIMITS = Parameter(group=Group("Limits", sort_key=4))
_MACHINES = Parameter(group=Group("Machines and storage", sort_key=5))


BOUNDS: Mapping[str, tuple[int, int]] = {
    "cpus_per_trial": (0, 4096),
    "disk_budget": (1, 10**18),
    "epochs": (1, 100_000),
    "gpus": (1, 1024),
    "gpus_per_trial": (0, 1024),
    "image_size": (1, 4096),
    "max_macs": (1, 10**15),
    "max_params": (1, 10**12),
    "max_trials": (1, 1_000_000),
    "seed": (0, 2**31 - 1),
    "seeds": (1, 1000),
    "stall_timeout": (1, 10**9),
    "threads": (1, 4096),
    "time_budget": (0, 10**9),
    "workers": (1, 100_000),
}
"""The least and the most of each number, as a flag and in `run.yaml`."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search is asked for."""

    base: Annotated[str, _NETWORK] = ""
    """A timm model that `buildup models` lists, such as resnet50 or 'resnet18(channels=[16, 32, 64, 96])'. Required."""
    dataset: Annotated[str, _NETWORK] = ""
    """digits, cued-digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR; or readable:NAME,
    one of these without the images that can't be read. Required."""
    data_dir: Annotated[str | None, _NETWORK] = None
    """Where cifar10 and cifar100 are, or are downloaded to."""
    image_size: Annotated[int | None, _NETWORK] = None
    """Side of the images in pixels (default: their own up to 64, else 224)."""
    skip_unreadable: Annotated[bool, _NETWORK] = False
    """Leave out images that can't be read; a warning lists them."""
    fraction: Annotated[str, _NETWORK] = "1"
    """Share of the training images, such as 1/16."""
    pretrained: Annotated[str | bool | None, _NETWORK] = None
    """Start the base's own blocks from timm's weights, or from those of a file."""

    recipe: Annotated[str, _TRAINING] = "quick"
    """quick, quick-plain, quick-adamw, standard, finetune (for --pretrained), paper, paper-weak, cifar100_vit_noaug,
    imagenet, or a YAML file."""
    set: Annotated[tuple[str, ...], _TRAINING] = ()
    """A value of the recipe to change, such as lr=0.1; repeat the flag for others."""
    epochs: Annotated[int | None, _TRAINING] = None
    """Epochs of each training (default: the recipe's)."""
    seeds: Annotated[int, _TRAINING] = 3
    """Trainings of each candidate before the first verdict."""
    seed: Annotated[int, _TRAINING] = 0
    """The first seed."""
    execution: Annotated[str | None, _TRAINING] = None
    """How steps are computed: float32 or bf16, channels-first or channels-last, eager, captured or compiled,
    deterministic; joined by commas (default: bf16 where the device has matrix units for it, channels-last)."""
    threads: Annotated[int | None, _TRAINING] = None
    """CPU threads of a training (default: 1, and 4 beside a GPU)."""

    space: Annotated[str, _DECIDING] = "alternet"
    """What may be searched: a name that `buildup spaces` lists, or a YAML file."""
    strategy: Annotated[str, _DECIDING] = "alternet"
    """alternet (the build-up rule), or a control: random, tpe, nsga2 (weighs MACs), nsga2-params, exhaustive."""
    places: Annotated[str | None, _DECIDING] = None
    """Where a control may put blocks: rule (where alternet may), or any (anywhere in a stage, at most as many;
    default: the space's)."""
    judge: Annotated[str | None, _DECIDING] = None
    """likely, proven or point (default: the space's; point for one seed)."""
    objective: Annotated[str, _DECIDING] = "accuracy"
    """What is judged: accuracy, nll or ece (less is better)."""
    look_ahead: Annotated[bool, _DECIDING] = False
    """Try one more block on top of a dropped one, as the paper did."""
    allow_weak_base: Annotated[bool, _DECIDING] = False
    """Go on when the base did not learn, and mark the run."""
    no_base_checks: Annotated[bool, _DECIDING] = False
    """Leave out the additional trainings of the base that show whether it still climbs, how much rounding matters and,
    with --pretrained, what a higher learning rate or a new last block gains."""

    max_trials: Annotated[int | None, _LIMITS] = None
    """Stop after so many trainings."""
    time_budget: Annotated[str | float | None, _LIMITS] = None
    """Stop after this long, such as 90m or 2h30m."""
    max_params: Annotated[int | None, _LIMITS] = None
    """Drop candidates with more parameters, such as 10M, untrained."""
    max_macs: Annotated[int | None, _LIMITS] = None
    """Drop candidates with more multiply-accumulates, such as 2G, untrained."""
    disk_budget: Annotated[int | str | None, _LIMITS] = None
    """Bytes that the run's folder may have, such as 20G: above that, the weights of all but
    base and best are removed."""

    run: Annotated[str | None, _MACHINES] = None
    """Name of the run, kept in runs/NAME, or a folder (default: BASE-DATASET)."""
    workers: Annotated[int | None, _MACHINES] = None
    """Trainings side by side (default: as many as the GPUs have room for; on a CPU one a core, at most one a
    seed; on a cluster one a seed)."""
    gpus_per_trial: Annotated[float | None, _MACHINES] = None
    """GPUs of one training: a share of one, or a whole number that share each batch (default: 1 where there is one)."""
    device: Annotated[str, _MACHINES] = "auto"
    """auto, cpu, cuda or mps."""
    accelerator: Annotated[str | None, _MACHINES] = None
    """Kind of GPU to train on, as the Ray cluster names it, such as A100 (default: the one that it has most of)."""
    cpus_per_trial: Annotated[float | None, _MACHINES] = None
    """CPUs that Ray reserves for one training (default: its threads)."""
    ray: Annotated[str | None, _MACHINES] = None
    """Address of a Ray cluster, or `local` to start Ray on this machine (default: RAY_ADDRESS, else local)."""
    stall_timeout: Annotated[float | None, _MACHINES] = None
    """End a worker that has reported nothing for so many seconds, which must be more than an epoch takes; its training
    goes on from its checkpoint."""
    storage: Annotated[str | None, _MACHINES] = None
    """An Optuna storage, such as postgresql://... (default: study.db in the run)."""
    storage_path: Annotated[str | None, _MACHINES] = None
    """Where trainings write, as s3://BUCKET/FOLDER, gs://... or a folder; machines then need not share the run's."""
    keep_weights: Annotated[str, _MACHINES] = "all"
    """Whose weights stay when the search has ended: all, or winners (base and winner), which take much less space."""
    reuse: Annotated[bool, _MACHINES] = False
    """Take over finished trainings of other runs in the same folder or storage, instead of training again."""
    track: Annotated[tuple[str, ...], _MACHINES] = ()
    """Follow the search in tensorboard, mlflow, wandb or trackio, if installed; repeat the flag for others."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(SearchSettings):
    """The settings of a search with every default filled in, as `run.yaml` keeps them."""

    image_size: int
    epochs: int
    judge: str
    workers: int
    gpus_per_trial: float = 0.0
    threads: int
    """CPU threads of one training. Sums depend on it in their last digits."""
    execution: str = "float32,channels-first,eager"
    """How steps are computed, the same for candidate and parent on every machine of the run."""
    time_budget: float | None = None
    """Seconds."""
    disk_budget: int | None = None
    """Bytes."""
    pretrained: str | None = None
    """A file's absolute path, or a timm name with the tag of its weights."""
    pretrained_hash: str | None = None
    """Of these weights."""
    no_base_checks: bool = True
    """Runs before version 0.3.0 have none."""


def asked_weights(base: Any, kept: Any) -> dict[str, Any]:
    """What `--base` and `--pretrained` of a search were, from what its `run.yaml` keeps of them.

    A name of timm's weights was that of the base, with the bare flag.

    >>> asked_weights("resnet18", "resnet18.tv_in1k")
    {'base': 'resnet18.tv_in1k', 'pretrained': True}
    >>> asked_weights("resnet18", "/home/me/weights.pth")
    {'base': 'resnet18', 'pretrained': '/home/me/weights.pth'}
    """
    if not isinstance(kept, str) or Path(kept).is_absolute():
        return {"base": base, "pretrained": kept}
    name, mark, arguments = str(base).partition("(")
    return {"base": f"{kept if kept.startswith(name) else name}{mark}{arguments}", "pretrained": True}


def with_texts(settings: SearchSettings) -> SearchSettings:
    """The same settings with paths as texts, as a script may give them.

    >>> with_texts(SearchSettings(run=Path("runs/a"))).run
    'runs/a'
    """
    texts: dict[str, Any] = {name: str(value) for name, value in vars(settings).items() if isinstance(value, Path)}
    return replace(settings, **texts)


def misfits(settings: SearchSettings) -> Iterator[str]:
    """Settings that are neither texts, nor true or false, where they should be: a script may give anything.

    Numbers may be texts here, such as 500k.

    >>> list(misfits(SearchSettings(reuse="no", set=[3])))
    ['--set [3]: a list of texts is needed.', '--reuse no: true or false is needed.']
    """
    hints = get_type_hints(SearchSettings)
    for name, value in vars(settings).items():
        if name not in BOUNDS and (needed := _needed(hints[name], value)):
            is_short = value is None or isinstance(value, str | int | float | list | tuple)
            yield f"--{name.replace('_', '-')} {value if is_short else type(value).__name__}: {needed} is needed."


def problems_of(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the settings of a file, which anyone may have edited.

    >>> list(problems_of({"workers": -3, "base": "resnet18"}))
    ['workers is -3; a whole number from 1 to 100,000 is needed.']
    """
    hints = get_type_hints(RunSettings)
    for name, value in values.items():
        if name not in hints:
            yield f"{name}: no setting has this name."
        elif needed := _needed(hints[name], value, BOUNDS.get(name)):
            yield f"{name} is {value!r}; {needed} is needed."


def _needed(hint: Any, value: object, bounds: tuple[int, int] | None = None) -> str:
    """What a setting needs in place of a value; empty if the value fits."""
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return ""
    if bounds:
        number, (least, most) = int if int in kinds else int | float, bounds
        fits = isinstance(value, number) and not isinstance(value, bool) and least <= value <= most
        return "" if fits else f"a {'whole ' if int in kinds else ''}number from {least} to {most:,}"
    if get_origin(hint) is tuple:
        fits = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        return "" if fits else "a list of texts"
    words = [word for kind, word in ((str, "a text"), (bool, "true or false")) if kind in kinds]
    return "" if isinstance(value, kinds) else " or ".join(words)


@dataclass(frozen=True, kw_only=True)
class ResumeSettings:
    """What may change when a search goes on."""

    seeds: int | None = None
    """More trainings of each candidate; all verdicts are made anew."""
    epochs: int | None = None
    """Epochs of each training; these are new trainings in the same study."""
    judge: str | None = None
    """likely, proven or point, in place of the former judge."""
    space: str | None = None
    """Another space from the same base; verdicts are made anew."""
    retry_failed: bool = False
    """Do the trainings anew that raised an exception or lacked memory; all verdicts are made anew."""
    allow_weak_base: bool = False
    """Go on although the base did not learn, and mark the run."""
    max_trials: int | None = None
    """Stop after so many trainings."""
    time_budget: str | float | None = None
    """Stop after this long, such as 90m or 2h30m."""
    disk_budget: int | str | None = None
    """Bytes that the run's folder may have, such as 20G (default: as before)."""
    workers: int | None = None
    """Trainings side by side (default: as before)."""
    ray: str | None = None
    """Address of a Ray cluster, or local, if it is another one now (default: RAY_ADDRESS, else as before)."""
    stall_timeout: float | None = None
    """End a worker that has reported nothing for so many seconds (default: as before)."""
    track: tuple[str, ...] = ()
    """Follow the search in tensorboard, mlflow, wandb or trackio, if installed; repeat the flag for others (default: as
    before)."""
    rebuild: bool = False
    """Make study.db anew from the files of the trainings first, where it is lost or damaged."""


@dataclass(frozen=True, kw_only=True)
class FinalSettings:
    """How winner and base are trained anew for the claim on the test set."""

    seeds: int | None = None
    """Fresh seeds of each network, at least 3 (default: 5)."""
    fraction: str = "same"
    """Training images: same (as many as in the search) or all."""
    control: bool = False
    """Train a base with more blocks of its own, as large as the winner, too."""
    epochs: int | None = None
    """Epochs of each training (default: as in the search)."""
    recipe: str | None = None
    """Another recipe (default: that of the search)."""
    workers: int | None = None
    """Trainings side by side (default: as in the search)."""
    ray: str | None = None
    """Address of a Ray cluster, or local, if it is another one now (default: RAY_ADDRESS, else as before)."""
    stall_timeout: float | None = None
    """End a worker that has reported nothing for so many seconds (default: as before)."""


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """What is repeated, and where to."""

    training: str | None = None
    """Repeat one training: its folder's name in trainings/, or how that begins (default: the whole search)."""
    to: str = ""
    """The new folder (default: RUN-again)."""
    device: str | None = None
    """auto, cpu, cuda or mps (default: as in the run)."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is exported, and where to."""

    to: str = ""
    """The folder to make. Required, unless --push is given."""
    push: str = ""
    """Publish it: hf-hub:USER/NAME on the Hugging Face Hub, or a folder laid out the same. Without NAME, the repository
    is named after base, layout and cost."""
    candidate: str | int | None = None
    """A step number, a layout or a fingerprint (default: the winner)."""
    onnx: bool = False
    """Write model.onnx, too; it needs `pip install '.[onnx]'` in a clone."""


@dataclass(frozen=True, kw_only=True)
class SimulateSettings:
    """A search whose scores come from a table."""

    scores: str = ""
    """CSV file with the columns layout,score[,seconds]. Required."""
    base: str | None = None
    """A timm model to start from."""
    layout: str | None = None
    """Where to start, in place of --base: CCC|CCCC|CCCCCC|CCCC. It needs neither torch nor timm."""
    space: str = "alternet"
    """What may be searched: a name that `buildup spaces` lists, or a YAML file."""
    strategy: str = "alternet"
    """alternet (the build-up rule), or a control: random, tpe, nsga2, nsga2-params, exhaustive."""
    places: str | None = None
    """Where a control may put blocks: rule (where alternet may), or any (anywhere in a stage, at most as many;
    default: the space's)."""
    judge: str | None = None
    """likely, proven or point (default: the space's; point for one seed)."""
    objective: str = "accuracy"
    """What a score is: accuracy in percent, nll or ece."""
    look_ahead: bool = False
    """Try one more block on top of a dropped one, as the paper did."""
    seeds: int = 1
    """Trainings of each candidate."""
    workers: int = 1
    """Simulated workers."""
    noise: float = 0.0
    """Standard deviation of a score around its row, in points."""
    seed: int = 0
    """First seed, and that of the noise."""
    default_score: float | None = None
    """Score of layouts that the table lacks (default: such a layout is an error)."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One training of a timm model or a layout of it."""

    layout: str | None = None
    """Train this layout of it, such as 'CC|CC|CM|CM'."""
    space: str | None = None
    """What the layout's letters mean (default: alternet)."""
    dataset: str = ""
    """digits, cued-digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR. Required."""
    data_dir: str | None = None
    """Where cifar10 and cifar100 are, or are downloaded to."""
    fraction: str = "1"
    """Share of the training images, such as 1/16."""
    image_size: int | None = None
    """Side of the images in pixels (default: their own up to 64, else 224)."""
    skip_unreadable: bool = False
    """Leave out images that can't be read; a warning lists them."""
    recipe: str = "quick"
    """quick, quick-plain, quick-adamw, standard, finetune (for --pretrained), paper, paper-weak, cifar100_vit_noaug,
    imagenet, or a YAML file."""
    set: tuple[str, ...] = ()
    """A value of the recipe to change, such as lr=0.1; repeat the flag for others."""
    epochs: int | None = None
    """Epochs (default: the recipe's)."""
    pretrained: str | bool | None = None
    """Start from timm's weights, or from those of a file."""
    seed: int = 0
    """Seed of weights, order of images and augmentation."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpus: int = 1
    """GPUs of this machine that share each batch."""
    threads: int | None = None
    """CPU threads, for each GPU (default: all cores)."""
    execution: str | None = None
    """How steps are computed: float32 or bf16, channels-first or channels-last, eager, captured or compiled,
    deterministic; joined by commas (default: bf16 where the device has matrix units for it, channels-last)."""
    to: str | None = None
    """Where it is kept (default: trainings/NAME-DATASET-sSEED)."""


@dataclass(frozen=True, kw_only=True)
class PlacesSettings:
    """Where new blocks of a pretrained network come nearest to what they replace."""

    dataset: str = ""
    """digits, cued-digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR. Required."""
    data_dir: str | None = None
    """Where cifar10 and cifar100 are, or are downloaded to."""
    fraction: str = "1"
    """Share of the training images, such as 1/16."""
    image_size: int | None = None
    """Side of the images in pixels (default: their own up to 64, else 224)."""
    skip_unreadable: bool = False
    """Leave out images that can't be read; a warning lists them."""
    space: str = "alternet"
    """What may be searched: a name that `buildup spaces` lists, or a YAML file."""
    everywhere: bool = False
    """Every place that the rule may try, not only the first of each stage."""
    recipe: str = "finetune"
    """A recipe with imitation: finetune, or a YAML file."""
    set: tuple[str, ...] = ()
    """A value of the recipe to change, such as batch_size=64; repeat the flag for others."""
    epochs: int | None = None
    """Epochs of the trainings, of which imitation is a share (default: the recipe's)."""
    pretrained: str | None = None
    """Start from the weights of a file (default: timm's)."""
    seed: int = 0
    """Seed of new weights, order of images and augmentation."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: int | None = None
    """CPU threads (default: all cores)."""
    execution: str | None = None
    """How steps are computed: float32 or bf16, channels-first or channels-last, deterministic; joined by commas
    (default: bf16 where the device has matrix units for it, channels-last)."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings:
    """Which measurements are made, on which images."""

    dataset: str | None = None
    """digits, cued-digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR
    (default: the run's)."""
    data_dir: str | None = None
    """Where cifar10 and cifar100 are, or are downloaded to."""
    what: str = "all"
    """all, or names joined by commas: hessian, landscape, fourier, variance, lesion, cka, equivariance, noise, shape,
    corruption, calibration; and on request robustness, training, ensemble."""
    compare: str | None = None
    """Other models to draw beside it, joined by commas."""
    out: str | None = None
    """Where numbers and figures go (default: analyses/MODEL-DATASET)."""
    recipe: str | None = None
    """How training images are augmented (default: as it was trained, or paper)."""
    pretrained: str | bool | None = None
    """Of a timm model: timm's weights, or those of a file."""
    quick: bool = False
    """512 images (128 for corruptions), 4 Hessian batches, a landscape of 7 x 7 points on 128 images."""
    images: int | None = None
    """Images to look at (default: 10,000 or all there are)."""
    scaling: str = "filter"
    """Normalise directions of the landscape per output filter (filter), or per column of its weights, as the reference
    code does (column)."""
    decay: str = "squares"
    """What the landscape adds to the cross-entropy, times the weight decay: squares (half the squared norm of all
    weights), norms (the sum of the norms of all tensors, as in the reference code) or none."""
    corruptions: str | None = None
    """The unpacked files of CIFAR-10-C or CIFAR-100-C (default: the same kinds, made here)."""
    mc_dropout: int | None = None
    """Measure the calibration also of so many passes averaged, with dropout as in the training (MC dropout)."""
    verdicts: bool = False
    """Compare parent and candidate of each verdict of a run, and correlate the measurements with the gains."""
    seed: int = 0
    """Of order, augmentation and the choice of images."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def parse_duration(text: str) -> float:
    """Seconds of a duration.

    >>> parse_duration("1h30m")
    5400.0
    """
    match = re.fullmatch(
        r"\s*(?:(\d+(?:\.\d+)?)d)?\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m)?\s*(?:(\d+(?:\.\d+)?)s?)?\s*", text
    )
    units = (86400, 3600, 60, 1)
    seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), units, strict=True)) if match else 0
    if not seconds > 0:
        raise ValueError(f"{text!r} is not a duration; write it like 90m, 2h30m or 45s.")
    return float(seconds)
