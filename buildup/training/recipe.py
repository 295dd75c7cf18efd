"""The recipe of a training: frozen settings that check themselves, read from a short YAML file.

>>> load_recipe("quick").resolved(train_images=1150).batch_size
35
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from buildup.errors import RecipeError, unknown
from buildup.files import is_file_name
from buildup.registry import Registry
from buildup.space.load import read_mapping

if TYPE_CHECKING:
    from buildup.training.augmentation import Augmentation

FOLDER = Path(__file__).parent / "recipes"
SMALLEST_BATCH = 8
"""Batch norm needs several images for its statistics."""
WARMUP = "warmup"
"""The epoch at which the warm-up ends, in `snapshots` and for `analyze`."""

AUGMENTATIONS: "Registry[Augmentation]" = Registry(
    "augmentation",
    group="buildup.augmentations",
    error=RecipeError,
    fill=partial(import_module, "buildup.training.augmentation"),
)
"""What `augmentations:` of a recipe may name. Only such a recipe loads torch when it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandAugment:
    """How many random operations an image gets, and how strong they are (timm's `rand-m9-n2-mstd1.0`)."""

    magnitude: float
    """0 to 10."""
    layers: int
    """Operations drawn for an image; each is then applied with probability 0.5."""
    std: float
    """Standard deviation of the magnitude."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of a training beside network, data and seed."""

    name: str
    description: str = ""
    epochs: int
    """The warm-up included."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate climbs from zero; may be a fraction of one."""
    batch_size: int
    """Images of a step."""
    eval_batch_size: int
    """Images that are validated at once."""
    min_steps: int = 1
    """The least steps of an epoch. On small sets the batch shrinks, and the learning rate with it."""

    optimizer: Literal["sgd", "adamw"]
    lr: float
    """The highest learning rate of the schedule."""
    weight_decay: float = 0.0
    """Of all weights, those of norms and biases included."""
    momentum: float = 0.0
    """For sgd only, as `nesterov`."""
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    """For adamw only, as `eps`."""
    eps: float = 1e-8
    schedule: Literal["onecycle", "cosine", "steps"]
    """After the warm-up, `onecycle` falls linearly to zero at the last step; `cosine` has one value an epoch."""
    milestones: tuple[int, ...] = ()
    """For steps only: at these epochs after the warm-up the rate is multiplied by `gamma`."""
    gamma: float = 0.1
    """The factor of the rate at each milestone."""
    clip_grad: float | None = None
    """Largest norm of the gradient; null for no limit."""

    crop_padding: int = 0
    """Pixels of padding before a random crop, for images of 32 px; other sizes in proportion."""
    resized_crop: tuple[float, float] | None = None
    """Instead of padding, for sets that are read from their files: the range of the share of the area that a random
    crop takes, with timm's aspect ratios and interpolations."""
    flip: bool = False
    """Whether to mirror half of the images, where the dataset allows it."""
    randaugment: RandAugment | None = None
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation each change by a factor within 1 +- this."""
    erasing: float = 0.0
    """Probability that a rectangle of an image is erased."""
    augmentations: Mapping[str, Any] = field(default_factory=dict)
    """Settings of further augmentations, by their names."""
    mixup: float = 0.0
    """Parameter of the beta distribution; 0 turns it off, as for cutmix."""
    cutmix: float = 0.0
    mix_prob: float = 1.0
    """Share of the batches that are mixed."""
    mix_switch_prob: float = 0.5
    """Where both are on, the share that gets cutmix."""
    label_smoothing: float = 0.0
    """The share of a target that is spread over all classes."""
    drop_path: float = 0.0
    """The rate at which the last block is left out of a step; it falls to zero towards the first block."""
    dropout: float = 0.0
    """Dropout rate before the last convolution of each block, for Monte Carlo dropout."""
    snapshots: tuple[int | str, ...] = ()
    """Epochs after which the weights are kept for `analyze`; `warmup` is the end of the warm-up."""
    transplant: float = 0.0
    """Where a network starts from pretrained weights: the epochs, as a share of `epochs`, in which new blocks alone
    learn to give the base's features. At 0 they start from random weights."""
    layer_decay: float = 1.0
    """The factor of the learning rate from each layer to the one before it, as timm numbers layers; 1 for one rate.
    Low layers of a pretrained network are good as they are."""
    ema: float = 0.0
    """Validate and keep the moving average of the weights, with this decay at each step; 0 for the last weights. The
    decay starts lower, as timm's warm-up of it does."""
    amp: bool = True
    """Whether the steps may run in bfloat16 where the device is fast at it."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """The accuracy of a well-trained base on the validation images, in percent, by `base dataset`."""

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise RecipeError(*problems)

    def with_epochs(self, epochs: int) -> "Recipe":
        """The recipe for another number of epochs. Warm-up, milestones and snapshots scale with it.

        The expected accuracies do not hold for fewer epochs, so they are left out then.
        """
        if problem := VALUE_CHECKS["epochs"](epochs):
            raise RecipeError(f"epochs is {epochs!r}; {problem}")
        factor = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * factor,
            milestones=tuple(sorted({max(1, round(milestone * factor)) for milestone in self.milestones})),
            snapshots=tuple(
                dict.fromkeys(at if isinstance(at, str) else max(1, round(at * factor)) for at in self.snapshots)
            ),
            expected=self.expected if factor >= 1 else {},
        )

    def resolved(self, *, train_images: int) -> "Recipe":
        """The recipe with the batch size and the learning rate for a training set of this size.

        The rate scales with the square root of the batch. Scaled linearly it is too low for the few steps of a small
        set: resnet18 on digits in 6 epochs, batch 35, one seed: 89.9 % against 99.0 %.
        """
        batch = min(self.batch_size, max(SMALLEST_BATCH, train_images // self.min_steps))
        return replace(self, batch_size=batch, lr=self.lr * math.sqrt(batch / self.batch_size), min_steps=1)

    @property
    def warmup_end(self) -> int:
        """The first epoch after which the warm-up is over."""
        # The small subtraction is against rounding, where a recipe was scaled.
        return math.ceil(self.warmup_epochs - 1e-9)

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """The epochs before the last after which the weights are kept."""
        epochs = {self.warmup_end if isinstance(at, str) else at for at in self.snapshots}
        return tuple(sorted(epochs - {self.epochs}))

    def setting(self, augmentation: str) -> Any:
        """The setting of an augmentation; None or a false value where it is off."""
        return self.augmentations.get(augmentation, getattr(self, augmentation, None))

    def expectation(self, base: str, dataset: str, fraction: float = 1.0) -> float | None:
        """The accuracy of a well-trained base on a dataset, in percent, where it is known."""
        return self.expected.get(f"{base} {dataset}") if fraction == 1 else None


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0. It has no state, so a resumed training needs no scheduler."""
    # One cycle takes the rate at the middle of each step, so that no step has a rate of zero. The paper's schedules
    # start at zero.
    epoch = (step + 0.5 * (recipe.schedule == "onecycle")) / steps_per_epoch
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    whole = recipe.epochs - recipe.warmup_epochs
    after = epoch - recipe.warmup_epochs
    if recipe.schedule == "onecycle":
        return recipe.lr * (1 - after / whole)
    # The small addition is against rounding, where a warm-up ends inside an epoch.
    after = math.floor(after + 1e-9)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * after / whole)) / 2
    return float(recipe.lr * recipe.gamma ** sum(after >= milestone for milestone in recipe.milestones))


def shipped_recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_recipe(name: str, changes: Sequence[str] = (), epochs: int | None = None) -> Recipe:
    """Load a recipe by its name or from a file, for another number of epochs, and with values changed as in `lr=0.1`.

    The values are changed last: what is typed is not scaled.
    """
    recipe = _unchanged(name)
    recipe = recipe.with_epochs(epochs) if epochs else recipe
    if not changes:
        return recipe
    values, problems = recipe_to_values(recipe), []
    for change in changes:
        key, mark, text = change.partition("=")
        if key == "epochs" and epochs:
            problems.append(f"--epochs {epochs} and --set {change}: leave one of them out.")
            continue
        if not mark or not key:
            problems.append(f"--set {change}: write it like lr=0.1.")
            continue
        if key in {"name", "extends"}:
            problems.append(f"--set {change}: {key} belongs to a recipe file.")
            continue
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            problems.append(f"--set {change}: {text} is not valid YAML.")
            continue
        if isinstance(values.get(key), str):  # YAML takes 1e-4 for a text
            with suppress(ValueError):
                values[key] = float(text)
    try:
        changed = recipe_from_values(values)
    except RecipeError as error:
        raise RecipeError(*problems, *(f"--set: {problem}" for problem in error.problems)) from None
    if problems:
        raise RecipeError(*problems)
    # The expected accuracies are those of the recipe as it ships.
    return changed if changed.expected != recipe.expected else replace(changed, expected={})


def _unchanged(name: str) -> Recipe:
    path = Path(name)
    if not is_file_name(name):
        if name not in RECIPES:
            known = unknown("recipe", name, RECIPES)
            raise RecipeError(f"{known} A recipe of your own is given as a path ending in .yaml.")
        return RECIPES[name]
    try:
        return recipe_from_values({"name": path.stem, **_read(path)})
    except RecipeError as error:
        where = f"{path}: "
        raise RecipeError(*(where + problem.removeprefix(where) for problem in error.problems)) from None


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file, on top of those of the recipe that it extends.

    Description and expected accuracies are those of a recipe alone. A null takes a setting back to its default.
    """
    own = read_mapping(path, RecipeError, "recipe file")
    if "extends" not in own:
        return own
    name, path = own.pop("extends"), path.resolve()
    if not isinstance(name, str):
        raise RecipeError(f"extends is {name!r}; the name of a recipe, or a YAML file, is needed.")
    parent = shipped_recipes().get(name, path.parent / name)
    if path in below or parent.resolve() == path:
        raise RecipeError(f"extends: {name} leads back to {path.name}. A recipe can't extend itself.")
    if parent.suffix in {".yaml", ".yml"}:
        values = _read(parent, (*below, path))
    else:
        values = recipe_to_values(load_recipe(name))
    inherited = {key: value for key, value in values.items() if key not in {"name", "description", "expected"}}
    return {key: value for key, value in (inherited | own).items() if value is not None}


def recipe_to_values(recipe: Recipe) -> dict[str, Any]:
    values = asdict(recipe)
    values["expected"] = dict(recipe.expected)
    # Unused, they leave older identities as they were.
    later: dict[str, Any] = {"augmentations": {}, "snapshots": (), "transplant": 0, "layer_decay": 1, "ema": 0}
    values = {key: value for key, value in values.items() if key not in later or value != later[key]}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def effective_values(recipe: Recipe) -> dict[str, Any]:
    """The values that affect a training: all but name, description and expected accuracies."""
    values = recipe_to_values(recipe)
    return {name: value for name, value in values.items() if name not in {"name", "description", "expected"}}


def recipe_from_values(values: Mapping[str, Any]) -> Recipe:
    """The recipe of a file's values. The error names all problems of the file at once."""
    known = {entry.name for entry in fields(Recipe)}
    problems = [unknown("key", key, known - {"name"} | {"extends"}, shown=40) for key in values if key not in known]
    needed = ("epochs", "batch_size", "eval_batch_size", "optimizer", "lr", "schedule")
    problems += [f"{key} is missing." for key in needed if key not in values]
    settings = {key: value for key, value in values.items() if key in known}
    for key in ("betas", "milestones", "resized_crop", "snapshots"):
        if isinstance(settings.get(key), list):
            settings[key] = tuple(settings[key])
    operations = settings.get("randaugment")
    if isinstance(operations, dict) and operations.keys() == {entry.name for entry in fields(RandAugment)}:
        settings["randaugment"] = RandAugment(**operations)
    # With stand-ins for missing values, the other values are checked too.
    stand_ins = {"epochs": 1_000_000, "batch_size": 2, "eval_batch_size": 1, "lr": 1.0}
    try:
        recipe = Recipe(**{"name": "", **stand_ins, "optimizer": "sgd", "schedule": "cosine", **settings})
    except RecipeError as error:
        raise RecipeError(*problems, *error.problems) from None
    if problems:
        raise RecipeError(*problems)
    return recipe


ValueCheck = Callable[[Any], str | None]
"""Takes a value and returns what would be right if it is wrong."""


def _number(least: float, most: float = math.inf, *, closed: bool = True) -> ValueCheck:
    """Check for a number in a range, which includes `least` where it is closed."""
    if math.isinf(most):
        wanted = f"a number {'of at least' if closed else 'above'} {least:g} is needed."
    else:
        span = f"from {least:g} to {most:g}" if closed else f"above {least:g} and up to {most:g}"
        wanted = f"a number {span} is needed."

    def check(value: Any) -> str | None:
        if isinstance(value, str):
            with suppress(ValueError):
                float(value)
                return "it is a text, and YAML reads a number only with a point, as in 1.0e-4."
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        return None if is_number and (least < value <= most or (closed and value == least)) else wanted

    return check


def _whole(least: int) -> ValueCheck:
    wanted = f"a whole number of at least {least} is needed."
    return lambda value: None if isinstance(value, int) and not isinstance(value, bool) and value >= least else wanted


def _instance(kind: type, wanted: str) -> ValueCheck:
    return lambda value: None if isinstance(value, kind) else wanted


def _choice(*choices: str) -> ValueCheck:
    return lambda value: None if value in choices else f"it must be one of {', '.join(choices)}."


def _pair(check: ValueCheck, wanted: str) -> ValueCheck:
    return lambda value: None if isinstance(value, tuple) and len(value) == 2 and not any(map(check, value)) else wanted


def _optional(check: ValueCheck) -> ValueCheck:
    return lambda value: None if value is None else check(value)


def _check_milestones(value: Any) -> str | None:
    whole = isinstance(value, tuple) and not any(map(_whole(1), value))
    return None if whole and sorted(set(value)) == [*value] else "a rising list of epochs is needed."


def _check_snapshots(value: Any) -> str | None:
    valid = isinstance(value, tuple) and all(at == WARMUP or not _whole(1)(at) for at in value)
    return None if valid and len(set(value)) == len(value) else f"a list of epochs and `{WARMUP}` is needed, each once."


CROP_WANTED = "two shares of the area above 0 and up to 1 are needed, such as [0.08, 1.0]."
VALUE_CHECKS: Mapping[str, ValueCheck] = {
    **dict.fromkeys(("name", "description"), _instance(str, "a text is needed.")),
    **dict.fromkeys(("nesterov", "flip", "amp"), _instance(bool, "true or false is needed.")),
    **dict.fromkeys(("epochs", "eval_batch_size", "min_steps"), _whole(1)),
    "batch_size": _whole(2),
    "crop_padding": _whole(0),
    "optimizer": _choice("sgd", "adamw"),
    "schedule": _choice("onecycle", "cosine", "steps"),
    **dict.fromkeys(("warmup_epochs", "weight_decay", "mixup", "cutmix"), _number(0)),
    **dict.fromkeys(("momentum", "colour_jitter", "erasing", "mix_prob", "mix_switch_prob"), _number(0, 1)),
    "transplant": _number(0, 1),
    "ema": _number(0, 0.99999),
    **dict.fromkeys(("label_smoothing", "drop_path", "dropout"), _number(0, 0.99)),
    **dict.fromkeys(("eps", "gamma", "layer_decay"), _number(0, 1, closed=False)),
    "lr": _number(0, closed=False),
    "clip_grad": _optional(_number(0, closed=False)),
    "betas": _pair(_number(0, 1), "two numbers from 0 to 1 are needed."),
    "milestones": _check_milestones,
    "snapshots": _check_snapshots,
    "resized_crop": _optional(_pair(_number(0, 1, closed=False), CROP_WANTED)),
    "randaugment": _optional(_instance(RandAugment, "a mapping with magnitude, layers and std is needed.")),
    "augmentations": _instance(Mapping, "a mapping of names to settings is needed."),
    "expected": _instance(Mapping, "a mapping of `base dataset` to percent is needed."),
}
RANDAUGMENT_CHECKS: Mapping[str, ValueCheck] = {"magnitude": _number(0, 10), "layers": _whole(1), "std": _number(0, 10)}


def _problems(recipe: Recipe) -> Iterator[str]:
    wrong = {name: problem for name, check in VALUE_CHECKS.items() if (problem := check(getattr(recipe, name)))}
    for name, problem in wrong.items():
        yield f"{name} is {getattr(recipe, name)!r}; {problem}"
    if not wrong.keys() & {"epochs", "warmup_epochs"} and recipe.warmup_epochs > recipe.epochs:
        yield f"warmup_epochs is {recipe.warmup_epochs!r}; a number from 0 to {recipe.epochs} is needed."
    if not wrong.keys() & {"epochs", "warmup_epochs", "snapshots"}:
        if WARMUP in recipe.snapshots and not recipe.warmup_epochs:
            yield f"snapshots has {WARMUP}, and this recipe has no warm-up. Leave it out, or set warmup_epochs."
        if late := [str(at) for at in recipe.snapshots if isinstance(at, int) and at > recipe.epochs]:
            yield f"snapshots has {', '.join(late)}, and a training has {recipe.epochs} epochs."
    if recipe.randaugment is not None and "randaugment" not in wrong:
        for name, check in RANDAUGMENT_CHECKS.items():
            if problem := check(value := getattr(recipe.randaugment, name)):
                yield f"randaugment.{name} is {value!r}; {problem}"
    if recipe.resized_crop is not None:
        if "resized_crop" not in wrong and recipe.resized_crop[0] > recipe.resized_crop[1]:
            yield f"resized_crop is {recipe.resized_crop!r}; the smaller share comes first."
        if recipe.crop_padding:
            yield f"crop_padding is {recipe.crop_padding!r} beside a resized_crop; an image is cropped in one way only."
    if "augmentations" not in wrong:
        yield from _augmentation_problems(recipe.augmentations)
    if "expected" not in wrong:
        for pair, percent in recipe.expected.items():
            if len(str(pair).split()) != 2 or _number(0, 100)(percent):
                yield f"expected has {pair!r}: {percent!r}; a line like `resnet50 cifar100: 68.6` is needed."
    yield from _ineffective(recipe)


def _augmentation_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    own = {entry.name for entry in fields(Recipe)}
    for name, setting in settings.items():
        if name in own:
            yield f"augmentations.{name}: {name} is a setting of the recipe itself. Move it there."
            continue
        try:
            problem = AUGMENTATIONS[name].check(setting)
        except RecipeError as error:
            yield from error.problems
        else:
            if problem or not setting:
                yield f"augmentations.{name} {problem or f'is {setting!r}, which has no effect. Leave it out.'}"


def _ineffective(recipe: Recipe) -> Iterator[str]:
    """Refuse settings that have no effect beside the others, so that nobody relies on them."""
    defaults = {entry.name: entry.default for entry in fields(Recipe)}
    for name, needs, active in (
        ("momentum", "optimizer: sgd", recipe.optimizer == "sgd"),
        ("nesterov", "optimizer: sgd with a momentum above 0", recipe.optimizer == "sgd" and recipe.momentum != 0),
        ("betas", "optimizer: adamw", recipe.optimizer == "adamw"),
        ("eps", "optimizer: adamw", recipe.optimizer == "adamw"),
        ("milestones", "schedule: steps", recipe.schedule == "steps"),
        ("gamma", "schedule: steps", recipe.schedule == "steps"),
        ("mix_prob", "mixup or cutmix", bool(recipe.mixup or recipe.cutmix)),
        ("mix_switch_prob", "mixup and cutmix", bool(recipe.mixup and recipe.cutmix)),
    ):
        if not active and getattr(recipe, name) != defaults[name]:
            yield f"{name} is {getattr(recipe, name)!r}, which has no effect without {needs}. Leave it out."
    if recipe.schedule == "steps" and recipe.milestones == ():
        yield "milestones is missing, and schedule: steps needs it."


def _register_shipped() -> None:
    for path in shipped_recipes().values():
        RECIPES.register(load_recipe(str(path)))


RECIPES = Registry[Recipe]("recipe", group="buildup.recipes", error=RecipeError, fill=_register_shipped)
