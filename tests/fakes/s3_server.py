"""A real S3 server on this machine: that of moto.

botocore, which moto needs, holds back packages that buildup's environment has in newer versions. So moto may be in an
environment of its own, whose Python MOTO_PYTHON names: `python -m venv moto && moto/bin/pip install 'moto[server]'`.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.request import urlopen

import pyarrow.fs
import pytest

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[str]:
    """Start a server with a bucket; the query that URLs need to find it. Skips the test where moto is missing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    python = os.environ.get("MOTO_PYTHON", sys.executable)
    command = [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        while not _answers(port):
            if server.poll() is not None:
                pytest.skip("moto[server] is not installed (MOTO_PYTHON names the Python of another environment)")
            time.sleep(0.2)
        where = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http", "region": "us-east-1"}
        pyarrow.fs.S3FileSystem(**where, allow_bucket_creation=True).create_dir(BUCKET)
        yield "&".join(f"{name}={value}" for name, value in where.items())
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _answers(port: int) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=10):
        return True
    return False
