"""How a network is trained: a frozen recipe that checks itself, read from a short YAML file.

>>> load_recipe("quick").resolved(train_images=1150).batch_size
35
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from buildup.errors import RecipeError, unknown
from buildup.registry import Registry
from buildup.space.load import read_mapping
from buildup.training.augmentation import AUGMENTATIONS

FOLDER = Path(__file__).parent / "recipes"
SMALLEST_BATCH = 8
"""Batch norm needs some images to take its statistics from."""


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
    """All that a training needs to know beside network, data and seed."""

    name: str
    description: str = ""
    epochs: int
    """All of them, the warm-up included."""
    warmup_epochs: float = 0.0
    """The learning rate climbs from zero during the first of them; a part of an epoch is fine."""
    batch_size: int
    eval_batch_size: int
    min_steps: int = 1
    """An epoch has at least so many steps: on smaller sets the batch shrinks, and the learning rate with it."""

    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    """For sgd only, as `nesterov`."""
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    """For adamw only, as `eps`."""
    eps: float = 1e-8
    schedule: Literal["onecycle", "cosine", "steps"]
    """After the warm-up: `onecycle` falls linearly to zero at the last step, `cosine` has one value an epoch."""
    milestones: tuple[int, ...] = ()
    """For steps only: epochs after the warm-up from which the rate is `gamma` times what it was."""
    gamma: float = 0.1
    clip_grad: float | None = None
    """Largest norm of the gradient; none where left out."""

    crop_padding: int = 0
    """A random crop after padding by so many pixels of a 32 px image; other sizes in proportion."""
    resized_crop: tuple[float, float] | None = None
    """In its place, for sets that are read from their files: a random crop of so large a share of the area, scaled to
    the input size, with timm's aspect ratios and interpolations."""
    flip: bool = False
    """Mirror half of the images, where the dataset allows it."""
    randaugment: RandAugment | None = None
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation each change by a factor within 1 +- this."""
    erasing: float = 0.0
    """Probability that a rectangle of an image is erased."""
    augmentations: Mapping[str, Any] = field(default_factory=dict)
    """Settings of augmentations that are no field here, by their names."""
    mixup: float = 0.0
    """Parameter of the beta distribution; 0 turns it off, as for cutmix."""
    cutmix: float = 0.0
    mix_prob: float = 1.0
    """Share of the batches that are mixed."""
    mix_switch_prob: float = 0.5
    """Where both are on, the share that gets cutmix."""
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    dropout: float = 0.0
    """Rate of the values that are dropped before the last convolution of each block, for Monte Carlo dropout."""
    amp: bool = True
    """Whether the steps may run in bfloat16 where the device is good at it."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """What a sound base reaches on the validation images, in percent, by `base dataset`."""

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise RecipeError(*problems)

    def with_epochs(self, epochs: int) -> "Recipe":
        """The same recipe over another number of epochs: warm-up and milestones scale with it.

        What the recipe expects no longer holds for fewer epochs, so it is left out then.
        """
        if not _is_whole(epochs, 1):
            raise RecipeError(f"epochs is {epochs!r}; a whole number of at least 1 is needed.")
        factor = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * factor,
            milestones=tuple(sorted({max(1, round(milestone * factor)) for milestone in self.milestones})),
            expected=self.expected if factor >= 1 else {},
        )

    def resolved(self, *, train_images: int) -> "Recipe":
        """The recipe with the batch and the learning rate that it means for a training set of this size.

        The rate goes with the square root of the batch. In proportion to it, a small set's few steps get too little
        done: resnet18 on digits in 6 epochs, batch 35, one seed: 89.9 % against 99.0 %.
        """
        batch = min(self.batch_size, max(SMALLEST_BATCH, train_images // self.min_steps))
        return replace(self, batch_size=batch, lr=self.lr * math.sqrt(batch / self.batch_size), min_steps=1)

    def setting(self, augmentation: str) -> Any:
        """How it is set; None or something false where it is not."""
        return self.augmentations.get(augmentation, getattr(self, augmentation, None))

    def expectation(self, base: str, dataset: str, fraction: float = 1.0) -> float | None:
        """What a sound base reaches on a dataset by this recipe, in percent, where that is known."""
        return self.expected.get(f"{base} {dataset}") if fraction == 1 else None


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0: a pure function, so a resumed training needs no scheduler."""
    # One cycle takes the middle of each step, so that neither its first nor its last one is lost on a rate of zero;
    # the paper's schedules start at zero.
    epoch = (step + 0.5 * (recipe.schedule == "onecycle")) / steps_per_epoch
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    whole = recipe.epochs - recipe.warmup_epochs
    after = epoch - recipe.warmup_epochs
    if recipe.schedule == "onecycle":
        return recipe.lr * (1 - after / whole)
    # A warm-up that ends inside an epoch would shift the whole epochs against rounding, hence the small addition.
    after = math.floor(after + 1e-9)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * after / whole)) / 2
    return float(recipe.lr * recipe.gamma ** sum(after >= milestone for milestone in recipe.milestones))


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_recipe(name: str) -> Recipe:
    """The recipe of a name or a file."""
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} and len(path.parts) <= 1:
        if name not in RECIPES:
            known = unknown("recipe", name, RECIPES)
            raise RecipeError(f"{known} A recipe of your own is given as a path ending in .yaml.")
        return RECIPES[name]
    try:
        return recipe_from_values({"name": path.stem, **read_mapping(path, RecipeError, "recipe file")})
    except RecipeError as error:
        where = f"{path}: "
        raise RecipeError(*(where + problem.removeprefix(where) for problem in error.problems)) from None


def recipe_to_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, for files."""
    values = asdict(recipe)
    values["expected"] = dict(recipe.expected)
    if not recipe.augmentations:
        del values["augmentations"]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def recipe_from_values(values: Mapping[str, Any]) -> Recipe:
    """The recipe that a file holds, with every problem of the file named at once."""
    known = {entry.name for entry in fields(Recipe)}
    problems = [unknown("key", key, known - {"name"}, shown=40) for key in values if key not in known]
    needed = ("epochs", "batch_size", "eval_batch_size", "optimizer", "lr", "schedule")
    problems += [f"{key} is missing." for key in needed if key not in values]
    settings = {key: value for key, value in values.items() if key in known}
    for key in ("betas", "milestones", "resized_crop"):
        if isinstance(settings.get(key), list):
            settings[key] = tuple(settings[key])
    if isinstance(operations := settings.get("randaugment"), dict):
        keys = {entry.name for entry in fields(RandAugment)}
        if operations.keys() == keys:
            settings["randaugment"] = RandAugment(**operations)
    # Stand-ins for what is missing let the rest be checked in the same go.
    stand_ins = {"epochs": 1_000_000, "batch_size": 2, "eval_batch_size": 1, "lr": 1.0}
    try:
        recipe = Recipe(**{"name": "", **stand_ins, "optimizer": "sgd", "schedule": "cosine", **settings})
    except RecipeError as error:
        raise RecipeError(*problems, *error.problems) from None
    if problems:
        raise RecipeError(*problems)
    return recipe


def _problems(recipe: Recipe) -> Iterator[str]:
    yield from _wrong_types(recipe)
    numbers = (
        ("lr", 0.0, math.inf, False),
        ("warmup_epochs", 0.0, recipe.epochs if _is_whole(recipe.epochs, 1) else math.inf, True),
        ("weight_decay", 0.0, math.inf, True),
        ("momentum", 0.0, 1.0, True),
        ("eps", 0.0, 1.0, False),
        ("gamma", 0.0, 1.0, False),
        ("colour_jitter", 0.0, 1.0, True),
        ("erasing", 0.0, 1.0, True),
        ("mixup", 0.0, math.inf, True),
        ("cutmix", 0.0, math.inf, True),
        ("mix_prob", 0.0, 1.0, True),
        ("mix_switch_prob", 0.0, 1.0, True),
        ("label_smoothing", 0.0, 0.99, True),
        ("drop_path", 0.0, 0.99, True),
        ("dropout", 0.0, 0.99, True),
    )
    for name, least, most, closed in numbers:
        if problem := _number(getattr(recipe, name), least, most, closed):
            yield f"{name} {problem}"
    if recipe.clip_grad is not None and (problem := _number(recipe.clip_grad, 0.0, math.inf, False)):
        yield f"clip_grad {problem}"
    betas: object = recipe.betas
    if not isinstance(betas, tuple) or len(betas) != 2 or any(_number(beta, 0.0, 1.0) for beta in betas):
        yield f"betas is {betas!r}; two numbers from 0 to 1 are needed."
    yield from _crop_problems(recipe)
    operations: object = recipe.randaugment
    if operations is not None and not isinstance(operations, RandAugment):
        yield f"randaugment is {operations!r}; a mapping with magnitude, layers and std is needed."
    elif operations is not None:
        for name, most in (("magnitude", 10.0), ("std", 10.0)):
            if problem := _number(getattr(operations, name), 0.0, most):
                yield f"randaugment.{name} {problem}"
        if not _is_whole(operations.layers, 1):
            yield f"randaugment.layers is {operations.layers!r}; a whole number of at least 1 is needed."
    yield from _augmentation_problems(recipe)
    expected: object = recipe.expected
    if not isinstance(expected, Mapping):
        yield f"expected is {expected!r}; a mapping of `base dataset` to percent is needed."
    else:
        for pair, percent in expected.items():
            if len(str(pair).split()) != 2 or _number(percent, 0.0, 100.0):
                yield f"expected has {pair!r}: {percent!r}; a line like `resnet50 cifar100: 68.6` is needed."
    yield from _ignored(recipe)


def _augmentation_problems(recipe: Recipe) -> Iterator[str]:
    settings: object = recipe.augmentations
    if not isinstance(settings, Mapping):
        yield f"augmentations is {settings!r}; a mapping of names to settings is needed."
        return
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


def _crop_problems(recipe: Recipe) -> Iterator[str]:
    share: object = recipe.resized_crop
    if share is None:
        return
    if not isinstance(share, tuple) or len(share) != 2 or any(_number(end, 0.0, 1.0, False) for end in share):
        yield f"resized_crop is {share!r}; two shares of the area above 0 and up to 1 are needed, such as [0.08, 1.0]."
    elif share[0] > share[1]:
        yield f"resized_crop is {share!r}; the smaller share comes first."
    if recipe.crop_padding:
        yield f"crop_padding is {recipe.crop_padding!r} beside a resized_crop; an image is cropped in one way only."


def _wrong_types(recipe: Recipe) -> Iterator[str]:
    for name in ("name", "description"):
        if not isinstance(getattr(recipe, name), str):
            yield f"{name} is {getattr(recipe, name)!r}; a text is needed."
    for name in ("nesterov", "flip", "amp"):
        if not isinstance(getattr(recipe, name), bool):
            yield f"{name} is {getattr(recipe, name)!r}; true or false is needed."
    for name, least in (
        ("epochs", 1),
        ("batch_size", 2),
        ("eval_batch_size", 1),
        ("min_steps", 1),
        ("crop_padding", 0),
    ):
        if not _is_whole(getattr(recipe, name), least):
            yield f"{name} is {getattr(recipe, name)!r}; a whole number of at least {least} is needed."
    for name, choices in (("optimizer", ("sgd", "adamw")), ("schedule", ("onecycle", "cosine", "steps"))):
        if getattr(recipe, name) not in choices:
            yield f"{name} is {getattr(recipe, name)!r}; it must be one of {', '.join(choices)}."
    steps: object = recipe.milestones
    if not isinstance(steps, tuple) or not all(_is_whole(step, 1) for step in steps) or sorted(set(steps)) != [*steps]:
        yield f"milestones is {steps!r}; a rising list of epochs is needed."


def _ignored(recipe: Recipe) -> Iterator[str]:
    """Settings that would have no effect beside the others: they are refused, so that nobody relies on them."""
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


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object, least: float, most: float, closed: bool = True) -> str | None:
    """What is wrong with a number, if anything; the ends of its range count when it is closed."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if least < value <= most or (closed and value == least):
            return None
    elif isinstance(value, str) and _reads_as_number(value):
        return f"is the text {value!r}; YAML reads a number only with a point, as in 1.0e-4."
    if math.isinf(most):
        return f"is {value!r}; a number {'of at least' if closed else 'above'} {least:g} is needed."
    wanted = f"from {least:g} to {most:g}" if closed else f"above {least:g} and up to {most:g}"
    return f"is {value!r}; a number {wanted} is needed."


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


RECIPES = Registry[Recipe]("recipe", group="buildup.recipes", error=RecipeError)
for _path in shipped_recipes().values():
    RECIPES.register(load_recipe(str(_path)))
