"""A PostgreSQL server for the tests."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_helpers import free_port

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
needs_postgresql = pytest.mark.skipif(
    not FOLDERS and "CI" not in os.environ, reason="no PostgreSQL server; apt-get install postgresql"
)


@contextlib.contextmanager
def start() -> Iterator[str]:
    """Its URL, less the name of a database. PostgreSQL does not run as root, and its folder has to be its user's."""
    folder = Path(tempfile.mkdtemp(prefix="sllm-postgres-", dir="/tmp"))
    root = ["setpriv", "--reuid=nobody", "--clear-groups", "--"] if os.getuid() == 0 else []
    if root:
        shutil.chown(folder, "nobody")
    port = free_port()

    def command(name: str, *words: str) -> None:
        full = [*root, str(FOLDERS[-1] / name), *words]
        subprocess.run(
            full, check=True, capture_output=True, cwd=folder, env={"HOME": str(folder), "PATH": os.environ["PATH"]}
        )

    command("initdb", "-D", f"{folder}/data", "-U", "sllm", "-A", "trust", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=300"
    command("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield f"postgresql://sllm@127.0.0.1:{port}"
    finally:
        command("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def create_database(url: str, name: str) -> str:
    import psycopg

    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{url}/{name}"
