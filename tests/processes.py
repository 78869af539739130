"""Real processes of one run on this machine, connected over its loopback interface."""

import contextlib
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


@dataclasses.dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what went wrong."""
        lines = self.err.replace("\r", "\n").splitlines()
        return [line[line.index("error: ") :] for line in lines if "error: " in line]


def start(*arguments, own=None, count=2, devices=2, module="tests.toy", wait=60):
    """Starts `python -m module` as `count` processes; `own` gives further arguments to some."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = [
        sys.executable, "-m", module, *arguments, f"--devices={devices}", f"--wait={wait}",
        f"--coordinator={address}", f"--processes={count}",
    ]
    return [
        subprocess.Popen(
            [*common, f"--process={k}", *(own or {}).get(k, [])], cwd=ROOT, env=ENVIRONMENT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(count)
    ]


def ended(processes, timeout=150):
    """Waits for all; kills what is left at the time limit, which is an error."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
        return [Ended(p.returncode, *words) for p, words in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def run(*arguments, **options):
    return ended(start(*arguments, **options))
