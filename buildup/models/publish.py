"""Put an exported network on the Hugging Face Hub, or into a folder that is laid out like a repository there."""

import re
import shutil
import sys
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from buildup.errors import RequestError, ResourceError
from buildup.models.export import CARD, check_target

HUB = "hf-hub:"
PLACEHOLDER = "local-dir:THIS_FOLDER"
"""What the card of an export loads. Published, it names the repository."""
LARGE_FILES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.onnx filter=lfs diff=lfs merge=lfs -text\n"
"""`.gitattributes` of a repository on the Hub."""
LONGEST_NAME = 96
FAILURES = {"httpx2": "HTTPError", "httpx": "HTTPError", "requests": "RequestException"}
"""What versions of huggingface_hub raise where there is no network, by the library that they send with."""


def check_push(push: str, beside: str | None = None) -> None:
    """Raise if a network can't be pushed there, before anything is written; `beside` is the folder of the export."""
    if not push.startswith(HUB):
        if re.match(r"\w[\w-]+:", push):
            raise RequestError(f"--push {push}: use {HUB}USER/NAME, or a folder.")
        check_target(Path(push))
        one, other = (Path(path).resolve() for path in (push, beside or push))
        if beside and (one.is_relative_to(other) or other.is_relative_to(one)):
            raise RequestError(f"--push {push}: it is in --to {beside}, or around it. Name two folders apart, or one.")
        return
    user, _, name = push.removeprefix(HUB).partition("/")
    try:
        validate_repo_id(f"{user}/{name or 'alternet'}")
    except HFValidationError as problem:
        wrong = f"--push {push}: this names no repository. Use {HUB}USER/NAME, or a folder. ({problem})"
        raise RequestError(wrong) from None
    if not get_token():
        raise RequestError(
            f"--push {push}: there is no token for the Hugging Face Hub. Make one with the right to write at "
            "https://huggingface.co/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        )


def publish(folder: Path, push: str, suggested: str) -> str:
    """Publish an export, and return what timm loads it by.

    Args:
        folder: The export. Only its card is changed: there it names the repository.
        push: `hf-hub:USER/NAME`, `hf-hub:USER`, or a folder.
        suggested: The name of the repository where none is given.
    """
    to_hub = push.startswith(HUB)
    source = f"{push.rstrip('/')}/{suggested}" if to_hub and "/" not in push.rstrip("/") else push
    source = source if to_hub else f"local-dir:{push}"
    card = folder / CARD
    card.write_text(card.read_text(encoding="utf-8").replace(PLACEHOLDER, source), encoding="utf-8")
    (folder / ".gitattributes").write_text(LARGE_FILES, encoding="utf-8")
    if to_hub:
        _upload(folder, source.removeprefix(HUB))
    else:
        shutil.copytree(folder, push, dirs_exist_ok=True)
    return source


def _upload(folder: Path, repository: str) -> None:
    hub = HfApi()
    lost = tuple(getattr(sys.modules[name], error) for name, error in FAILURES.items() if name in sys.modules)
    try:
        hub.create_repo(repository, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add a network that buildup found")
    except HfHubHTTPError as problem:
        raise ResourceError(f"--push {HUB}{repository}: the Hub refused it: {problem}") from None
    except (OSError, ValueError, *lost) as problem:
        raise ResourceError(f"--push {HUB}{repository}: the Hub can't be reached: {problem}") from None
