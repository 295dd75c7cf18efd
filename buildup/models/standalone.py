"""A network as one Python file that needs torch and timm only.

The file's modules are the source text of our own, so there is one truth about what a block computes.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from buildup import __version__
from buildup.graph.fingerprint import fingerprint
from buildup.graph.form import Form, Norm
from buildup.graph.kinds import KINDS, ConvAttention, GlobalAttention, Kind, LocalAttention, Smoothing
from buildup.graph.layout import layout
from buildup.graph.network import Block, Network
from buildup.models import blocks, stem
from buildup.models.attention import ConvAttention2d, GlobalAttention2d, LocalAttention2d
from buildup.models.build import feature_config
from buildup.models.smoothing import Smoothing2d

IMPORTS = (
    ("from collections.abc import", ("Callable", "Mapping")),
    ("from math import", ("gcd",)),
    ("from pathlib import", ("Path",)),
    ("from typing import", ("Any",)),
    ("", ()),
    ("import", ("timm",)),
    ("import", ("torch",)),
    ("import torch.nn.functional as", ("F",)),
    ("from timm.layers.filter_response_norm import", ("FilterResponseNormTlu2d",)),
    ("from timm.layers.norm import", ("LayerNorm2d", "RmsNorm2d")),
    ("from timm.layers.std_conv import", ("StdConv2d",)),
    ("from timm.models import", ("build_model_with_cfg", "generate_default_cfgs", "register_model")),
    ("from torch import", ("Tensor", "nn")),
)
"""All that the file may import; what its text does not name is left out."""

LAYERS: dict[type[Kind], type] = {
    LocalAttention: LocalAttention2d,
    GlobalAttention: GlobalAttention2d,
    ConvAttention: ConvAttention2d,
    Smoothing: Smoothing2d,
}

FORMS = {"pre": blocks.PreActAttentionBlock, "post": blocks.PostActAttentionBlock}

WEIGHTS = '"file": str(Path(__file__).with_name("model.safetensors"))'


def standalone(network: Network, config: Mapping[str, Any]) -> str:
    """The text of `alternet.py` for a network, with timm's `pretrained_cfg` for it.

    The weights are looked for in `model.safetensors` beside the file.
    """
    name = f"alternet_{fingerprint(network)}"
    makers = _makers(network)
    parts = [_data(network, name, config), *_sources(_named(network, makers))]
    parts += [_maker(maker, kind, form) for (kind, form), maker in makers.items()]
    body = "\n\n\n".join([*parts, _assembly(network, makers), _entry(network, name)])
    return f'"""{_about(network, name)}"""\n\n{_imports(body)}\n\n{body}\n'


Makers = dict[tuple[type[Kind], Form], str]
"""The functions that make blocks, one for each kind and form, by name."""


def _makers(network: Network) -> Makers:
    wanted = list(dict.fromkeys((type(kind), _form(block)) for block, kind in _replaced(network)))
    names: Makers = {}
    for number, (kind, form) in enumerate(wanted):
        alike = [other for other in wanted[:number] if other[0] is kind]
        word = kind.name.replace("-", "_")
        names[kind, form] = f"{word}_block" if not alike else f"{word}_block_{len(alike) + 1}"
    return names


def _replaced(network: Network) -> Iterator[tuple[Block, Kind]]:
    replaced = network.replaced
    return ((block, replaced[block.path]) for block in network.blocks if block.path in replaced)


def _form(block: Block) -> Form:
    assert block.form is not None
    return block.form


def _named(network: Network, makers: Makers) -> Iterator[type | Callable[..., Any]]:
    """What of our own the file needs."""
    attention = [(kind, form) for kind, form in makers if kind is not Smoothing]
    yield from dict.fromkeys(LAYERS[kind] for kind, _ in makers)
    yield from dict.fromkeys(FORMS[form.order] for _, form in attention)
    if any(form.channels_last for _, form in makers):
        yield blocks.ChannelsLast
    if attention:
        yield from (blocks.init_convs, blocks.starts_as_identity)
    if network.shrunk:
        yield from (stem.shrink, stem.shrink_conv)


def _sources(objects: Iterator[type | Callable[..., Any]]) -> list[str]:
    """Their texts, each behind those of the functions that it calls."""
    found: dict[str, str] = {}

    def add(item: Any) -> None:
        text = inspect.getsource(item).strip()
        home = vars(sys.modules[item.__module__])
        for name in re.findall(r"\b[a-z_]\w*(?=\()", text):
            called = home.get(name)
            if inspect.isfunction(called) and called.__module__ == item.__module__ and called is not item:
                add(called)
        found.setdefault(item.__name__, text)

    for item in objects:
        add(item)
    return list(found.values())


def _about(network: Network, name: str) -> str:
    replaced = ", ".join(network.replaced) or "no block"
    letters = [kind for letter, kind in KINDS.items() if letter in layout(network)]
    legend = ", ".join(
        f"{kind.letter} {'for the base own block' if kind.letter == 'C' else kind.name}" for kind in letters
    )
    return f"""An AlterNet: {network.base} with something else in place of {replaced}.

Its layout is {layout(network)}: {legend}.
It needs torch and timm; the weights are in model.safetensors beside this file.

    import timm, alternet

    model = alternet.load()
    model = timm.create_model("{name}", pretrained=True, num_classes=10)

Written by buildup {__version__}.
"""


def _imports(body: str) -> str:
    lines = []
    for head, names in IMPORTS:
        used = [name for name in names if re.search(rf"\b{name}\b", body)]
        if used or not names:
            lines.append(f"{head} {', '.join(used)}".strip())
    return "\n".join(lines)


def _data(network: Network, name: str, config: Mapping[str, Any]) -> str:
    lines = [f'NAME = "{name}"', f'BASE = "{network.base}"', f"BASE_ARGS: dict[str, Any] = {_text(network.base_args)}"]
    if network.shrunk:
        lines += ["", "# What the stem for small images changes."]
        lines += [f"SHRUNK = {_lines(dict(network.shrunk))}"]
    if added := _added(network):
        lines += ["", "# Blocks that the base lacks, each with the block of the base that it is made like."]
        lines += [f"ADDED = {_lines(added)}"]
    known = {key: value for key, value in config.items() if key != "architecture"}
    lines += ["", "default_cfgs = generate_default_cfgs(", "    {"]
    lines += [f"        NAME: {_lines(known, ' ' * 8, WEIGHTS)},", "    }", ")"]
    return "\n".join(lines)


def _added(network: Network) -> dict[str, str]:
    """Every added block's path, with that of the last block that the base itself has in that stage."""
    return {
        block.path: [own.path for own in stage.blocks if not own.added][-1]
        for stage in network.stages
        for block in stage.blocks
        if block.added
    }


def _lines(values: Mapping[str, Any], indent: str = "", *first: str) -> str:
    entries = [*first, *(f"{_text(key)}: {_text(value)}" for key, value in values.items())]
    return "\n".join(["{", *(f"{indent}    {entry}," for entry in entries), f"{indent}}}"])


def _text(value: Any) -> str:
    """A plain value as Python writes it, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(_text(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _maker(name: str, kind: type[Kind], form: Form) -> str:
    """The text of the function that makes blocks of one kind and form."""
    layer = LAYERS[kind].__name__
    wrapped = "ChannelsLast({})" if form.channels_last else "{}"
    about = '    """The block that takes the place of one of the base."""'
    if kind is Smoothing:
        made = wrapped.format(f"{layer}(**settings)")
        return f"def {name}(replaced: Any, **settings: Any) -> nn.Module:\n{about}\n    return {made}"
    parts = {"conv": "conv", "norm": "norm", "drop_path": _part(form.drop_path, optional=True)}
    parts |= {"scale": _part(form.scale)} if form.order == "pre" else {"act": _part(form.act)}
    arguments = "\n".join(f"        {part}={text}," for part, text in parts.items())
    return f"""def {name}(replaced: Any, chs: int, width: int, **settings: Any) -> nn.Module:
{about}

    def conv(in_chs: int, out_chs: int) -> nn.Module:
        return {_conv(form.standardised)}

    def norm(chs: int) -> nn.Module:
        return {_norm(form.norm)}

    attention = {layer}(width, chs, **settings)
    block = {FORMS[form.order].__name__}(
        chs,
        width,
        attention,
{arguments}
    )
    if starts_as_identity(replaced):
        block.zero_init_last()
    return {wrapped.format("block")}.to(next(replaced.parameters()))"""


def _part(path: str, optional: bool = False) -> str:
    if not path:
        return "None"
    if path.isidentifier():
        return f'getattr(replaced, "{path}", None)' if optional else f"replaced.{path}"
    parent, _, name = path.rpartition(".")
    return f'getattr(replaced.get_submodule("{parent}"), "{name}")'


def _conv(standardised: float | None) -> str:
    if standardised is None:
        return "nn.Conv2d(in_chs, out_chs, 1, bias=False)"
    return f"StdConv2d(in_chs, out_chs, 1, eps={standardised})"


def _norm(norm: Norm) -> str:
    return {
        "batch": f"nn.BatchNorm2d(chs, eps={norm.eps}, momentum={norm.momentum})",
        "group": f"nn.GroupNorm(gcd({norm.groups}, chs), chs, eps={norm.eps})",
        "layer": f"LayerNorm2d(chs, eps={norm.eps})",
        "rms": f"RmsNorm2d(chs, eps={norm.eps})",
        "frn": f"FilterResponseNormTlu2d(chs, apply_act=False, eps={norm.eps})",
    }[norm.kind]


def _assembly(network: Network, makers: Makers) -> str:
    lines = [
        "def edited(**arguments: Any) -> nn.Module:",
        '    """The base with all of its edits."""',
        "    arguments = BASE_ARGS | arguments",
        "    model = timm.create_model(BASE, **arguments)",
    ]
    if network.shrunk:
        lines += ["    shrink(model, SHRUNK)"]
    if _added(network):
        lines += [
            "    for path, like in ADDED.items():",
            "        fresh = timm.create_model(BASE, **arguments)",
            "        put(model, path, fresh.get_submodule(like))",
        ]
    if makers:
        lines += [
            "    for path, (make, settings) in REPLACED.items():",
            "        put(model, path, make(model.get_submodule(path), **settings))",
        ]
    lines += ["    return model"]
    if "put(" in "\n".join(lines):
        lines += [
            "",
            "",
            "def put(model: nn.Module, path: str, block: nn.Module) -> None:",
            '    """Let a block stand at a path of a model."""',
            '    parent, _, name = path.rpartition(".")',
            "    model.get_submodule(parent).add_module(name, block)",
        ]
    if makers:
        lines = [
            "# What stands in place of the base's own blocks.",
            "REPLACED: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {",
            *(
                f'    "{block.path}": ({makers[type(kind), _form(block)]}, {_text(_settings(block, kind))}),'
                for block, kind in _replaced(network)
            ),
            "}",
            "",
            "",
            *lines,
        ]
    return "\n".join(lines)


def _settings(block: Block, kind: Kind) -> dict[str, Any]:
    settings = asdict(kind)
    if isinstance(kind, Smoothing):
        return settings
    chs = block.in_shape[0]
    return {"chs": chs, **settings, "width": blocks.width_of(block)}


def _entry(network: Network, name: str) -> str:
    return f'''@register_model
def {name}(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """What timm calls to make the model."""
    features = {_text(feature_config(network))}
    return build_model_with_cfg(edited, NAME, pretrained, feature_cfg=features, **overrides)


def load(**overrides: Any) -> nn.Module:
    """The trained model in evaluation mode, with what `timm.create_model` takes beside the name."""
    return timm.create_model(NAME, pretrained=True, **overrides).eval()'''
