"""Two Ray nodes on this machine, and a search over both: `python examples/two_nodes/run.py`.

On real machines the two `ray start` are typed on two of them, and the search is the last line. Ends only what it
started: each node runs in a process group of its own, and nothing is ended by name.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPTS = Path(sys.executable).parent
PATIENCE, STARTS = 240.0, 4


class Node:
    """`ray start … --block` until the end of the `with`."""

    def __init__(self, *options: str) -> None:
        self._command = [str(SCRIPTS / "ray"), "start", *options, "--num-cpus=1", "--object-store-memory=100000000"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the node lives
        self._starts = 0
        self._start()

    def _start(self) -> None:
        self._starts += 1
        command = [*self._command, "--block"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *error: object) -> None:
        """End what was started, and what that has started."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sent)
            except ProcessLookupError:
                break
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                continue

    def keep_up(self) -> None:
        """Start it again if it has ended: Ray gives it half a minute, which a busy machine may not manage at once."""
        if self._process.poll() is None:
            return
        self.__exit__()
        if self._starts >= STARTS:
            self._log.seek(0)
            raise SystemExit(f"a node ended by itself, {STARTS} times:\n{self._log.read().decode()[-2000:]}")
        self._start()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_for(address: str, nodes: list[Node], count: int) -> None:
    """Until so many nodes have joined."""
    look = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); "
    look += "print('alive', sum(node['Alive'] for node in ray.nodes()))"
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for node in nodes:
            node.keep_up()
        seen = subprocess.run([sys.executable, "-c", look, address], capture_output=True, text=True, check=False)
        found = re.search(r"alive (\d+)", seen.stdout)
        if found is not None and int(found[1]) >= count:
            return
        time.sleep(1)
    raise SystemExit(f"not all nodes joined within {PATIENCE:g} s:\n{seen.stderr[-2000:]}")


def main() -> int:
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # through the `with`, which ends the nodes
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # for this cluster, which listens on loopback
    for name, patience in (("RAY_raylet_start_wait_time_s", "90"), ("RAY_agent_register_timeout_ms", "90000")):
        os.environ.setdefault(name, patience)  # two nodes on one machine start slowly
    if not (HERE / "calib" / "records.jsonl").is_file():
        make = [sys.executable, str(ROOT / "examples" / "reference_vlm" / "make_data.py"), "--out", str(HERE / "calib")]
        subprocess.run(
            [*make, "--images", "120", "--questions-per-image", "2", "--pool", "search", "--seed", "5"], check=True
        )
    port = free_port()
    address, here = f"127.0.0.1:{port}", "--node-ip-address=127.0.0.1"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        own = f"--temp-dir={folder}"  # else Ray would note this cluster as the machine's own, and leave the note
        head = stack.enter_context(Node("--head", f"--port={port}", here, own, "--include-dashboard=false"))
        wait_for(address, [head], 1)
        other = stack.enter_context(Node(f"--address={address}", here))
        wait_for(address, [head, other], 2)
        search = [sys.executable, "-m", "autoprune", "search", str(HERE / "spec.yaml"), "--address", address]
        return subprocess.run([*search, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
