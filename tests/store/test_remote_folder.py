"""Folders at URLs: on a file system, and on a real S3 server of this machine."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from buildup.errors import RemoteError, RequestError
from buildup.execution.handshake import answer
from buildup.store.remote_folder import RemoteFolder, check_remote, mark_remote, probe_in, remote_url
from s3_server import ENVIRONMENT, s3_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The query of the URLs of an S3 server."""
    with s3_server() as query:
        yield query


@pytest.fixture(params=["folder", "file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteFolder:
    if request.param == "s3":
        return RemoteFolder(f"s3://bucket/some/{tmp_path.name}?{request.getfixturevalue('endpoint')}")
    place = tmp_path / "a place"
    return RemoteFolder(remote_url(str(place) if request.param == "folder" else place.as_uri()))


def test_what_is_put_is_got_back_and_replaced_and_removed(root: RemoteFolder, tmp_path: Path) -> None:
    folder, file, back = root / "demo" / "my run", tmp_path / "final.json", tmp_path / "back"
    assert folder.is_empty()
    assert not folder.get(file.name, back)
    for content in (b"first", b"", os.urandom(3_000_000)):
        file.write_bytes(content)
        folder.put(file)
        assert folder.has(file.name)
        assert folder.sizes() == {file.name: len(content)}
        assert folder.get(file.name, back)
        assert back.read_bytes() == content
    assert (root / "demo").sizes() == {}
    assert not (root / "demo").is_empty()
    folder.remove(file.name)
    folder.remove(file.name)
    assert not folder.has(file.name)


def test_a_new_run_needs_an_empty_place_that_can_be_written(root: RemoteFolder, tmp_path: Path) -> None:
    check_remote(root.url, "demo")
    mark_remote(root / "demo" / "trainings")
    check_remote(root.url, "demo")
    with probe_in(root / "demo") as probe:
        assert answer(probe)[1] == ""
        with pytest.raises(RequestError, match=r"demo: another run has written there. Give another --run"):
            check_remote(root.url, "demo")
    assert answer(probe)[1] == "what the driver wrote is not there"
    assert (root / "demo").is_empty()


def test_a_missing_bucket_is_a_sentence(endpoint: str) -> None:
    with pytest.raises(RemoteError, match=r"^s3://other/x: it can't be written: .* Make the bucket first\.$"):
        check_remote(f"s3://key:secret@other/x?{endpoint}", "demo")


def test_a_server_that_does_not_answer_is_a_sentence() -> None:
    with pytest.raises(RemoteError, match=r"Is the network up, and the endpoint right"):
        RemoteFolder("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1").has("x")


class Refusing(BaseHTTPRequestHandler):
    """Answers as S3 does to who has no rights."""

    def do_POST(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


def test_missing_rights_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"s3://bucket/x?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        with pytest.raises(RemoteError, match=r"s3://bucket/x: it can't be written: .* Has this machine credentials"):
            check_remote(url, "demo")
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s4://bucket/x", "unknown --storage-path 's4://': did you mean 's3://'"),
        ("s3://", "a bucket or a folder is missing"),
        ("s3://bucket/x?what=1", "Unexpected query parameter in S3 URI: 'what'"),
        ("file://host/x", "Unsupported hostname"),
    ],
)
def test_a_wrong_url_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(RequestError, match="--storage-path") as told:
        remote_url(text)
    assert said in str(told.value)


def test_a_folder_that_cant_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"file:///.*/file/runs: it can't be written: "):
        check_remote(remote_url(str(tmp_path / "file" / "runs")), "demo")
