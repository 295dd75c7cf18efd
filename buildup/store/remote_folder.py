"""A folder at a URL: on S3, Google Cloud Storage or Azure, or of a file system that machines share.

pyarrow reads and writes it. Credentials are what pyarrow finds on each machine: environment variables, files of the
cloud's own tools, or the role of the machine.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from buildup.errors import RemoteError, ResourceError, RunError, unknown
from buildup.files import replacing

MARKER = "buildup-run"
"""In the storage of a run: a file that says that it is there. Else a disk that is not mounted would seem empty."""
SCHEMES = ("s3", "gs", "abfs", "file")
HINTS = {
    "NO_SUCH_BUCKET": "Make the bucket first.",
    "NETWORK_CONNECTION": "Is the network up, and the endpoint right (AWS_ENDPOINT_URL, or ?endpoint_override=)?",
    "ACCESS_DENIED": "Has this machine credentials that may read and write there (AWS_ACCESS_KEY_ID, AWS_PROFILE)?",
    "INVALID_ACCESS_KEY_ID": "Are the credentials of this machine those of this storage?",
    "SIGNATURE_DOES_NOT_MATCH": "Are the credentials of this machine those of this storage?",
}
"""What is said beside the errors of the AWS library, by parts of their messages."""


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder at a URL. It need not exist; it does as soon as a file is in it."""

    url: str

    def __truediv__(self, name: str) -> "RemoteFolder":
        """A folder in it. The query, which may name an endpoint, stays at the end of the URL."""
        path, mark, query = self.url.partition("?")
        return RemoteFolder(f"{path.rstrip('/')}/{quote(name)}{mark}{query}")

    @property
    def parent(self) -> "RemoteFolder":
        path, mark, query = self.url.partition("?")
        return RemoteFolder(f"{path.rpartition('/')[0]}{mark}{query}")

    def __str__(self) -> str:
        """For people: without credentials.

        >>> print(RemoteFolder("s3://KEY:SECRET@bucket/runs?region=eu-central-1") / "demo")
        s3://bucket/runs/demo
        """
        scheme, mark, rest = self.url.partition("?")[0].partition("://")
        user, _, place = rest.rpartition("@")
        return f"{scheme}{mark}{place if ':' in user else rest}"  # a container of Azure stands before an @, too

    def sizes(self) -> dict[str, int]:
        """The bytes of each file in it, by name."""
        return {info.base_name: info.size or 0 for info in self._files(deep=False)}

    def is_empty(self) -> bool:
        """Whether no file is in it or below, apart from the mark of a run that could not start."""
        return all(info.base_name == MARKER for info in self._files(deep=True))

    def get(self, name: str, to: Path) -> bool:
        """Copy a file to this machine; False if there is none."""
        import pyarrow.fs

        with self._telling("read"):
            filesystem, root = _opened(self.url)
            if not filesystem.get_file_info(f"{root}/{name}").is_file:
                return False
            with replacing(to) as temporary:
                here = pyarrow.fs.LocalFileSystem()
                pyarrow.fs.copy_files(
                    f"{root}/{name}", str(temporary), source_filesystem=filesystem, destination_filesystem=here
                )
        return True

    def put(self, path: Path) -> None:
        """Copy a file of this machine into it. A reader sees the old or the new one, never a part."""
        import pyarrow.fs

        with self._telling("written"):
            filesystem, root = _opened(self.url)
            if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
                Path(root).mkdir(parents=True, exist_ok=True)
                with replacing(Path(root) / path.name) as temporary:
                    shutil.copyfile(path, temporary)
                return
            pyarrow.fs.copy_files(
                str(path),
                f"{root}/{path.name}",
                source_filesystem=pyarrow.fs.LocalFileSystem(),
                destination_filesystem=filesystem,
            )

    def write(self, name: str, text: str) -> None:
        """Write a small file into it."""
        with TemporaryDirectory() as temporary:
            path = Path(temporary) / name
            path.write_text(text, encoding="utf-8")
            self.put(path)

    def has(self, name: str) -> bool:
        with self._telling("read"):
            filesystem, root = _opened(self.url)
            return bool(filesystem.get_file_info(f"{root}/{name}").is_file)

    def remove(self, name: str) -> None:
        with self._telling("written"):
            filesystem, root = _opened(self.url)
            if filesystem.get_file_info(f"{root}/{name}").is_file:
                filesystem.delete_file(f"{root}/{name}")

    def check_marked(self) -> None:
        if not self.has(MARKER):
            raise RemoteError(
                f"{self}: nothing of this run is there. Is it mounted here, or was it removed? Put it back as it was."
            )

    def _files(self, *, deep: bool) -> list[Any]:
        import pyarrow.fs

        with self._telling("read"):
            filesystem, root = _opened(self.url)
            found = pyarrow.fs.FileSelector(root, allow_not_found=True, recursive=deep)
            return [info for info in filesystem.get_file_info(found) if info.is_file]

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turn errors of pyarrow into ours, which name the URL without credentials."""
        try:
            yield
        except (OSError, ValueError) as problem:  # pyarrow's own errors are of these kinds
            said = str(problem).replace(self.url, str(self)).partition(" Detail:")[0].partition("\n")[0].rstrip(".")
            hint = next((f" {hint}" for sign, hint in HINTS.items() if sign in said), "")
            # Another try may help against the first, not against a URL that is damaged.
            kind = RemoteError if isinstance(problem, OSError) else RunError
            raise kind(f"{self}: it can't be {what}: {said}.{hint}") from None


@lru_cache(maxsize=64)
def _opened(url: str) -> tuple[Any, str]:
    import pyarrow.fs

    filesystem, root = pyarrow.fs.FileSystem.from_uri(url)
    return filesystem, root


def remote_url(text: str) -> str:
    """The URL of a storage path, which may be a folder. Raises if pyarrow can't read such a URL."""
    scheme = text.partition("://")[0] if "://" in text else ""
    if not scheme:
        return Path(text).expanduser().absolute().as_uri()
    if scheme not in SCHEMES:
        raise ResourceError(unknown("--storage-path", f"{scheme}://", [f"{known}://" for known in SCHEMES]))
    try:
        _, root = _opened(text)
    except (OSError, ValueError) as problem:
        said = str(problem).replace(text, str(RemoteFolder(text))).rstrip(".")
        raise ResourceError(f"--storage-path {RemoteFolder(text)}: {said}.") from None
    if not root.strip("/"):
        raise ResourceError(
            f"--storage-path {RemoteFolder(text)}: a bucket or a folder is missing, as in s3://BUCKET/FOLDER."
        )
    return text


def check_remote(url: str, name: str) -> None:
    """Raise if a new run can't write below a URL, or if something is there already. A file is written and removed."""
    folder = RemoteFolder(url) / name
    with probe_in(RemoteFolder(url)):
        pass
    if not folder.is_empty():
        raise RunError(
            f"{folder}: another run has written there. Give another --run or another --storage-path, or remove it."
        )


def mark_remote(folder: RemoteFolder) -> None:
    folder.write(MARKER, "The trainings of a run of buildup write here.\n")


@contextmanager
def probe_in(folder: RemoteFolder) -> Iterator[str]:
    """Write a small file, yield its URL, and remove it at the end."""
    name = f".buildup-{uuid4().hex[:8]}"
    folder.write(name, "")
    try:
        yield (folder / name).url
    finally:
        folder.remove(name)
