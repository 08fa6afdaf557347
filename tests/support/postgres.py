"""A PostgreSQL cluster of its own in a temporary folder, for the tests of stores: started once, and stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import sqlalchemy as sa

USER = "postgres"
LIMIT = 120
"""Seconds for each of the server's own commands."""


def programs() -> Path | None:
    """The folder of the newest server that is installed, as distributions place it or on the path; None for none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    named = shutil.which("initdb")
    known = [*([Path(named).resolve().parent] if named else []), *folders]
    return next((folder for folder in reversed(known) if (folder / "initdb").exists()), None)


class Server:
    """A server that listens on a socket in its own folder alone, run by a user that is not root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a socket has little room
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
        self._run(
            "initdb", "-A", "trust", "-U", USER, "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C"
        )
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop it as a crash does: connections are cut."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def url(self) -> str:
        """Its one database, as a store names it."""
        return f"postgresql://{USER}@/{USER}?host={self.folder}"

    def engine(self) -> sa.Engine:
        """A connection of one's own."""
        return sa.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)

    def _run(self, program: str, *arguments: str) -> None:
        user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
        command = [*user, str(self._programs / program), "-D", str(self.folder / "data"), *arguments]
        with (self.folder / "output").open("w+") as output:
            done = subprocess.run(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=LIMIT,
                check=False,
            )
            output.seek(0)
            assert done.returncode == 0, output.read()
