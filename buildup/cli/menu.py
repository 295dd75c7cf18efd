"""What can be typed: every command with its flags, as values. `cli.py` calls them."""

from dataclasses import dataclass

from buildup.diagnostics.registry import SHIPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One option of a command."""

    name: str
    help: str
    metavar: str | None = None
    """None for a switch; in brackets where the flag may stand without a value, which is then empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command, with what is called when it is typed."""

    name: str
    help: str
    example: str
    run: str
    """The function of `buildup.commands` that is called with what was typed, as `module:function`."""
    late: tuple[str, ...] = ()
    """Functions that are handed to it, and loaded when they are called: torch and timm take seconds to load."""
    positional: tuple[tuple[str, str], ...] = ()
    """Names and helps; a name in brackets may be left out, and one with dots may be given several times."""
    flags: tuple[Flag, ...] = ()


JSON = Flag(name="json", help="print one JSON document on stdout; messages go to stderr")
VERBOSE = Flag(name="verbose", help="show what Ray says, too")
BASE = Flag(name="base", metavar="NAME", help="a timm model that `buildup models` lists, such as resnet50")
DATASET = Flag(
    name="dataset", metavar="NAME", help="digits, cifar10, cifar100, folder:DIR, torch/NAME, hfds/NAME or wds:DIR"
)
DATA_DIR = Flag(name="data-dir", metavar="DIR", help="where cifar10 and cifar100 are, or are downloaded to")
SPACE = Flag(name="space", metavar="NAME|FILE", help="what may be searched: a name of `buildup spaces` or a YAML file")
RECIPE = Flag(
    name="recipe",
    metavar="NAME|FILE",
    help="quick (default), quick-adamw, standard, paper, paper-weak, imagenet, or a YAML file",
)
STEM = Flag(name="stem", metavar="WORD", help="auto, small or base (default: auto, small at up to 64 px)")
STRATEGY = Flag(
    name="strategy",
    metavar="NAME",
    help="alternet (default), or a control: random, tpe, nsga2 (weighs MACs), nsga2-params, exhaustive",
)
PRETRAINED = Flag(
    name="pretrained", metavar="[FILE]", help="start the base's own blocks from timm's weights, or from those of a file"
)
EXECUTION = Flag(
    name="execution",
    metavar="WORD,WORD",
    help="what is not measured but settled: float32 or bf16, channels-first or channels-last, eager, captured or "
    "compiled, deterministic",
)
LIMITS = (
    Flag(name="max-trials", metavar="N", help="stop after so many trainings"),
    Flag(name="time-budget", metavar="DURATION", help="stop after this long, such as 90m or 2h30m"),
)
SEARCH_FLAGS = (
    BASE,
    DATASET,
    DATA_DIR,
    SPACE,
    RECIPE,
    Flag(name="epochs", metavar="N", help="epochs of each training (default: the recipe's)"),
    Flag(name="fraction", metavar="F", help="share of the training images, such as 1/16 (default: 1)"),
    PRETRAINED,
    Flag(name="seeds", metavar="N", help="trainings of each candidate (default: 3)"),
    STRATEGY,
    Flag(name="judge", metavar="NAME", help="likely, proven or point (default: the space's; point for one seed)"),
    Flag(name="objective", metavar="NAME", help="what is judged: accuracy (default), nll or ece (less is better)"),
    Flag(name="look-ahead", help="try one more block on top of a dropped one, as the paper did"),
    Flag(name="max-params", metavar="N", help="drop candidates with more parameters, untrained"),
    Flag(name="max-macs", metavar="N", help="drop candidates with more multiply-accumulates, untrained"),
    Flag(name="workers", metavar="N", help="trainings side by side (default: one a GPU; on a CPU up to one a core)"),
    Flag(name="gpus-per-trial", metavar="F", help="GPUs of one training (default: 1 where there is one)"),
    Flag(name="device", metavar="NAME", help="auto (default), cpu, cuda or mps"),
    EXECUTION,
    Flag(name="run", metavar="NAME|DIR", help="name of the run, kept in runs/NAME (default: BASE-DATASET)"),
    Flag(
        name="storage", metavar="URL", help="an Optuna storage, such as postgresql://... (default: study.db in the run)"
    ),
    Flag(name="ray", metavar="ADDRESS", help="a Ray cluster; without it Ray is started on this machine"),
    Flag(name="seed", metavar="N", help="first seed (default: 0)"),
    *LIMITS,
    Flag(name="allow-weak-base", help="go on when the base did not learn, and mark the run"),
)


COMMANDS = (
    Command(
        name="search",
        help="search where attention helps, to the end",
        example="buildup search --base resnet18 --dataset digits --epochs 6 --seeds 2 --run demo",
        run="search:search",
        flags=(
            *SEARCH_FLAGS,
            Flag(name="reuse", help="take over trainings that a run beside this one, or in its storage, has finished"),
            VERBOSE,
            JSON,
        ),
    ),
    Command(
        name="resume",
        help="go on with a run after any stop, kill or crash, or take it further",
        example="buildup resume demo --seeds 6",
        run="search:resume",
        positional=(("run", "a name in runs/, or a run's folder"),),
        flags=(
            *LIMITS,
            Flag(name="workers", metavar="N", help="trainings side by side, if it is another number now"),
            Flag(name="ray", metavar="ADDRESS", help="a Ray cluster, if it is another one now"),
            Flag(name="allow-weak-base", help="go on although the base did not learn, and mark the run"),
            Flag(name="seeds", metavar="N", help="more trainings of each candidate; all verdicts are made anew"),
            Flag(name="space", metavar="NAME|FILE", help="another space from the same base; verdicts are made anew"),
            Flag(name="judge", metavar="NAME", help="likely, proven or point, in place of the former judge"),
            Flag(
                name="epochs", metavar="N", help="epochs of each training, which are other trainings on the same study"
            ),
            VERBOSE,
            JSON,
        ),
    ),
    Command(
        name="plan",
        help="what a search would train and cost; trains nothing",
        example="buildup plan --base resnet50 --dataset cifar100 --data-dir data",
        run="plan:plan",
        flags=(*SEARCH_FLAGS, JSON),
    ),
    Command(
        name="simulate",
        help="the same rule on a table of scores",
        example="buildup simulate --base resnetv2_50 --space paper --scores table.csv --judge point",
        run="simulate:simulate",
        late=("buildup.models.read:read", "buildup.engine.load_state:costs_of"),
        flags=(
            Flag(name="scores", metavar="FILE", help="CSV with the columns layout,score[,seconds]"),
            BASE,
            Flag(name="layout", metavar="LAYOUT", help="where to start, in place of --base: CCC|CCCC|CCCCCC|CCCC"),
            SPACE,
            STRATEGY,
            Flag(
                name="judge", metavar="NAME", help="likely, proven or point (default: the space's, point for one seed)"
            ),
            Flag(name="objective", metavar="NAME", help="what a score is: accuracy in percent (default), nll or ece"),
            Flag(name="look-ahead", help="try one more block on top of a dropped one, as the paper did"),
            Flag(name="seeds", metavar="N", help="trainings of each candidate (default: 1)"),
            Flag(name="workers", metavar="W", help="virtual workers (default: 1)"),
            Flag(name="noise", metavar="SD", help="deviation of a score around its row, in points (default: 0)"),
            Flag(name="seed", metavar="N", help="first seed, and that of all that is drawn (default: 0)"),
            Flag(name="default-score", metavar="S", help="score of layouts that the table lacks"),
            JSON,
        ),
    ),
    Command(
        name="status",
        help="what runs, what was decided, what is left",
        example="buildup status demo",
        run="status:status",
        positional=(("run", "a name in runs/, or a run's folder"),),
        flags=(JSON,),
    ),
    Command(
        name="report",
        help="write report.html of a run anew, also while it runs; or compare several runs",
        example="buildup report demo demo-random --to comparison.html",
        run="report:report",
        positional=(("run...", "a name in runs/, or a run's folder; several are compared"),),
        flags=(
            Flag(name="format", metavar="FORMAT", help="html (default), or md to print it"),
            Flag(name="to", metavar="FILE", help="where a comparison goes (default: comparison.html beside the runs)"),
            JSON,
        ),
    ),
    Command(
        name="final",
        help="train base and winner anew, open the test set once, and say what is proven",
        example="buildup final demo --seeds 5 --control",
        run="final:final",
        positional=(("run", "a name in runs/, or a run's folder"),),
        flags=(
            Flag(name="seeds", metavar="N", help="fresh seeds of each network (default: 5, at least 3)"),
            Flag(name="control", help="train a base with more blocks of its own, as large as the winner, too"),
            Flag(name="epochs", metavar="N", help="epochs of each training (default: as in the search)"),
            Flag(name="recipe", metavar="NAME|FILE", help="another recipe (default: that of the search)"),
            Flag(name="workers", metavar="N", help="trainings side by side (default: as in the search)"),
            Flag(name="ray", metavar="ADDRESS", help="a Ray cluster, if it is another one now"),
            VERBOSE,
            JSON,
        ),
    ),
    Command(
        name="export",
        help="the discovered network as a timm model",
        example="buildup export demo --to alternet-digits",
        run="export:export",
        positional=(("run", "a name in runs/, or a run's folder"),),
        flags=(
            Flag(name="to", metavar="DIR", help="the folder to make"),
            Flag(name="candidate", metavar="ID", help="a step number, a layout or a fingerprint (default: the winner)"),
            Flag(name="onnx", help="write model.onnx, too; it needs buildup[onnx]"),
            JSON,
        ),
    ),
    Command(
        name="dashboard",
        help="optuna-dashboard on a run, for this machine only",
        example="buildup dashboard demo --port 8080",
        run="dashboard:dashboard",
        positional=(("run", "a name in runs/, or a run's folder"),),
        flags=(
            Flag(name="host", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)"),
            Flag(name="port", metavar="N", help="port to listen on (default: 8080)"),
        ),
    ),
    Command(
        name="graph",
        help="the staged graph of a base or a layout",
        example="buildup graph resnet50 --dataset cifar100",
        run="show:graph",
        positional=(("base", "a timm model"),),
        flags=(
            DATASET,
            DATA_DIR,
            SPACE,
            Flag(name="layout", metavar="LAYOUT", help="show this layout of the base, such as CC|CC|CM|CM"),
            Flag(name="size", metavar="PIXELS", help="input size, where no dataset is given (default: 224)"),
            STEM,
            Flag(name="format", metavar="FORMAT", help="text (default), json, dot or svg"),
            JSON,
        ),
    ),
    Command(
        name="models",
        help="which timm names can be a base, and for the others why not",
        example="buildup models 'resnet*'",
        run="models:models",
        late=("buildup.models.catalogue:learn",),
        positional=(("[pattern]", "names to list, with * for any letters"),),
        flags=(JSON,),
    ),
    Command(
        name="spaces",
        help="the search spaces that ship, and what each allows",
        example="buildup spaces",
        run="show:spaces",
        flags=(JSON,),
    ),
    Command(
        name="train",
        help="one training of any timm model or layout; the same command goes on after a stop",
        example="buildup train resnet18 --layout 'CC|CC|CM|CM' --dataset digits --epochs 6",
        run="train:train",
        positional=(("name", "a timm model, also vit_tiny_cifar, pit_, swin_, mixer_tiny_cifar and resnet50_cifar"),),
        flags=(
            Flag(name="layout", metavar="LAYOUT", help="train this layout of it, such as CC|CC|CM|CM"),
            Flag(name="space", metavar="NAME|FILE", help="what the layout's letters mean (default: alternet)"),
            DATASET,
            DATA_DIR,
            RECIPE,
            Flag(name="epochs", metavar="N", help="epochs (default: the recipe's)"),
            Flag(name="fraction", metavar="F", help="share of the training images, such as 1/16 (default: 1)"),
            PRETRAINED,
            Flag(name="seed", metavar="N", help="of weights, order and augmentation (default: 0)"),
            Flag(name="device", metavar="NAME", help="auto (default), cpu, cuda or mps"),
            Flag(name="threads", metavar="N", help="CPU threads (default: all cores)"),
            EXECUTION,
            Flag(name="to", metavar="DIR", help="where it is kept (default: trainings/NAME-DATASET-sSEED)"),
            JSON,
        ),
    ),
    Command(
        name="analyze",
        help="the paper's measurements on a run's network or any model of timm",
        example="buildup analyze demo --compare demo:0 --what hessian,fourier --quick",
        run="analyze:analyze",
        positional=(("model", "a run, RUN:CANDIDATE, the folder of a training or an export, or a timm model"),),
        flags=(
            DATASET,
            DATA_DIR,
            Flag(
                name="what",
                metavar="NAME,NAME",
                help=f"all (default) or {','.join(SHIPPED)}",
            ),
            Flag(name="out", metavar="DIR", help="where numbers and figures go (default: analyses/MODEL-DATASET)"),
            Flag(name="compare", metavar="MODEL,MODEL", help="draw these beside it"),
            Flag(
                name="recipe",
                metavar="NAME|FILE",
                help="how training images are augmented (default: as it was trained, or paper)",
            ),
            Flag(name="pretrained", metavar="[FILE]", help="of a timm model: timm's weights, or those of a file"),
            Flag(name="restate", help="measure batch norm statistics anew at each point of the landscape"),
            Flag(
                name="corruptions",
                metavar="DIR",
                help="the unpacked files of CIFAR-10-C or CIFAR-100-C (default: the same kinds, made here)",
            ),
            Flag(
                name="mc-dropout",
                metavar="N",
                help="beside the calibration: that of N passes averaged, values being dropped as in its training",
            ),
            Flag(
                name="quick",
                help="512 images (128 for corruptions), 4 Hessian batches, a landscape of 7 x 7 points on 128 images",
            ),
            Flag(
                name="verdicts",
                help="of a run: parent and candidate of each verdict side by side, and what goes with the gains",
            ),
            Flag(name="images", metavar="N", help="images to look at (default: 10,000 or all there are)"),
            Flag(name="seed", metavar="N", help="of order, augmentation and the choice of images (default: 0)"),
            Flag(name="device", metavar="NAME", help="auto (default), cpu, cuda or mps"),
            JSON,
        ),
    ),
    Command(
        name="doctor",
        help="what works here, what does not, and what to do",
        example="buildup doctor --dataset cifar100",
        run="doctor:doctor",
        flags=(
            DATASET,
            DATA_DIR,
            Flag(name="storage", metavar="URL", help="an Optuna storage to try"),
            Flag(name="ray", metavar="ADDRESS", help="a Ray cluster to try"),
            JSON,
        ),
    ),
)
