"""Servers for the time of a test, on loopback and in a folder of their own, and doors to them that can be shut."""

from __future__ import annotations

import os
import random
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.chaos_world import end_group, wait

OPEN, SHUT = "open", "shut"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A tracking server with a database and artifacts in `folder`; its port. Ends the process it started."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 180
        while not answers(port):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the MLflow server did not come up: {(folder / 'server.log').read_text()[-1000:]}")
            time.sleep(0.3)
        yield port
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=20)
        end_group(server.pid)


def postgres_binaries() -> Path | None:
    """Debian keeps them out of PATH; elsewhere `initdb` is found there. None if there are none."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    found = shutil.which("initdb")
    return homes[-1] if homes else Path(found).parent if found else None


@contextmanager
def postgres_server(folder: Path) -> Iterator[int]:
    """A PostgreSQL server with an empty cluster in `folder` (it will not run as root: then as `postgres`); its port."""
    binaries, port = postgres_binaries(), free_port()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    is_root = os.geteuid() == 0
    if is_root:
        shutil.chown(folder, "postgres")
        for parent in [folder, *folder.parents][:-1]:  # `postgres` must be able to get there
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)

    def run(*command: str) -> None:
        quoted = " ".join(f"'{part}'" for part in command)
        whole = ["su", "postgres", "-s", "/bin/sh", "-c", quoted] if is_root else ["sh", "-c", quoted]
        subprocess.run(whole, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run(f"{binaries}/initdb", "-D", f"{folder}/db", "-A", "trust", "-U", "postgres", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = (f"{binaries}/pg_ctl", "-D", f"{folder}/db")
    run(*control, "-o", options, "-l", f"{folder}/log", "-w", "start")
    try:
        yield port
    finally:
        run(*control, "-m", "immediate", "stop")


class Door:
    """A port that leads to another one and can be shut: connections are reset, new ones refused.

    It lives in a process of its own, because whoever forks children should have no threads.
    """

    def __init__(self, target: int) -> None:
        command = [sys.executable, "-m", "benchmarks.chaos_servers", str(target)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._answer())

    def _answer(self) -> str:
        if self._process.stdout is None:
            raise RuntimeError("a door without a pipe")
        return self._process.stdout.readline()

    def turn(self, to: str) -> None:
        """`open` or `shut`; returns when it is."""
        if self._process.stdin is None:
            raise RuntimeError("a door without a pipe")
        self._process.stdin.write(f"{to}\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def disturb(self, pid: int, times: int, within: float, away: float, rng: random.Random) -> int:
        """Shut it at random moments until the child has ended; -> how often. Open afterwards."""
        for done in range(times):
            if wait(pid, patience=rng.uniform(0.05, within)) is not None:
                return done
            self.turn(SHUT)
            ended = wait(pid, patience=away) is not None
            self.turn(OPEN)
            if ended:
                return done + 1
        wait(pid)
        return times


class _Doorway:
    """What the door's process does."""

    def __init__(self, target: int) -> None:
        self._target, self.port = target, free_port()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None

    def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(32)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for one in [side for pair in pairs for side in pair]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                return
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()


def _pump(client: socket.socket, server: socket.socket) -> None:
    with client, server, suppress(OSError, ValueError):
        while True:
            ready, _, _ = select.select([client, server], [], [])
            for one in ready:
                data = one.recv(65536)
                if not data:
                    return
                (server if one is client else client).sendall(data)


def main() -> None:
    door = _Doorway(int(sys.argv[1]))
    door.open()
    print(door.port, flush=True)
    for line in sys.stdin:
        door.open() if line.strip() == OPEN else door.shut()
        print(line.strip(), flush=True)


if __name__ == "__main__":
    main()
