"""Many processes that are one run: they start together, agree, and end together.

JAX's own runtime connects them (`jax.distributed`); its key-value store carries the few words that
they exchange here. In a run of one process all of this does nothing.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import tqdm
from jax._src import distributed  # the key-value store has no public name yet

from stjax.train.config import differences
from stjax.train.errors import RunError

# A process sends a sign of life this often, and is given up when none has come for so long. JAX's
# own watch is slower, and ends the others with the stack trace of its thread.
_SIGN, _SILENCE, _RUNTIME_SILENCE = 5, 30, 120
# Processes meet at the same points of a run; evaluating or saving may keep one this long.
_PATIENCE = 30 * 60
_turns = itertools.count()


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    detect: bool = False,
    wait: int = 300,
) -> None:
    """Connects this process to the others of its run, where there are any.

    Under Slurm (`srun`) and Open MPI (`mpirun`) nothing need be given; on Cloud TPUs `detect`;
    anywhere else the three arguments.

    Args:
        coordinator: host:port of process 0, where it listens.
        processes: how many there are.
        process: which one this is, from 0.
        detect: ask JAX to find out what is not given.
        wait: seconds that the others have to come.

    Raises:
        ValueError: arguments that do not make a run.
    """
    if os.environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        processes = processes or int(os.environ["OMPI_COMM_WORLD_SIZE"])
        process = int(os.environ["OMPI_COMM_WORLD_RANK"]) if process is None else process
        detect = "OMPI_MCA_orte_hnp_uri" in os.environ  # Open MPI 5 no longer says who leads
    detect |= os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    if (coordinator, processes, process) == (None, None, None) and not detect:
        return
    given = None not in (coordinator, processes, process)
    if not (given or detect):
        raise ValueError(
            f"--coordinator {coordinator}, --processes {processes}, --process {process}: all three "
            "are needed here (under Open MPI 5 the first)"
        )
    if given and not 0 <= process < processes:
        raise ValueError(f"--process: {process} is none of the {processes} processes from 0 on")
    # Two simulated devices a process deadlock in collectives with fewer threads than this.
    os.environ.setdefault("PJRT_NPROC", "64")
    with _rendezvous(coordinator, process, wait):
        jax.distributed.initialize(
            coordinator, processes, process,
            cluster_detection_method="deactivate" if given else None,
            coordinator_bind_address=coordinator if _is_local(coordinator) else None,
            initialization_timeout=wait + 60,
            heartbeat_timeout_seconds=_RUNTIME_SILENCE,
            shutdown_timeout_seconds=60,
        )
        _Watch().start()
        jax.devices()  # waits for the devices of all the others


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """One line to the user, clear of a progress bar; of many processes the first one speaks."""
    if first():
        tqdm.tqdm.write(line, file=sys.stderr)


def agree(what: Mapping[str, Any]) -> None:
    """Raises RunError, naming fields, where a process has something else than the first one."""
    text = json.dumps(what, sort_keys=True)
    digests = gather(hashlib.sha256(text.encode()).hexdigest())
    others = [k for k, digest in enumerate(digests) if digest != digests[0]]
    if others:
        texts = gather(text)
        expected, found = json.loads(texts[0]), json.loads(texts[others[0]])
        fields = "; ".join(differences(found, expected)[:5])
        raise RunError(f"process {others[0]} has another config than process 0: {fields}")


def seen_by_all(folder: pathlib.Path) -> None:
    """Makes a folder; raises RunError where a process does not see what the first one wrote."""
    if jax.process_count() == 1:
        folder.mkdir(parents=True, exist_ok=True)
        return
    mark = folder / f".seen-{share(uuid.uuid4().hex)}"
    if first():
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    gather("written")
    names = gather("" if _appears(mark) else socket.gethostname())
    if first():
        mark.unlink()
    blind = {str(k): name for k, name in enumerate(names) if name}
    if blind:
        listed = ", ".join(f"{k} on {name}" for k, name in blind.items())
        raise RunError(
            f"{folder} is not the same folder for all processes (not for {listed}); name a "
            "--workdir that all hosts share"
        )


def share(value: Any) -> Any:
    """What the first process has, which JSON can hold."""
    return json.loads(gather(json.dumps(value) if first() else "")[0])


def gather(text: str) -> list[str]:
    """What every process has, in their order; all of them call it alike."""
    if jax.process_count() == 1:
        return [text]
    client, place = distributed.global_state.client, f"stjax/gathered/{next(_turns)}"
    client.key_value_set(f"{place}/{jax.process_index():08d}", text)
    client.wait_at_barrier(place, _PATIENCE * 1000)
    return [value for _, value in sorted(client.key_value_dir_get(place))]


def finish() -> None:
    """Leaves together: returns when every process has come this far."""
    if distributed.global_state.client is not None:
        gather("finished")
        _Watch.running.stop()
        jax.distributed.shutdown()


def fail(line: str, code: int = 1) -> NoReturn:
    """Says why and ends the process, and with it the run: the others do not wait for it.

    Where several fail alike, one of them speaks.
    """
    client = distributed.global_state.client
    if client is None:
        tqdm.tqdm.write(line, file=sys.stderr)
        sys.exit(code)
    _Watch.running.end_all(line)


def await_verdict() -> None:
    """Returns if no process has been given up when a dead one would have been.

    A collective may fail at once where a process has died, and does not say which.
    """
    _Watch.running.join(_SILENCE + 2 * _SIGN)


class _Watch(threading.Thread):
    """Sends signs of life, and ends this process when another one says so or is given up.

    Without it a process that dies leaves the others in a collective that never ends.
    """

    running: "_Watch"

    def __init__(self):
        super().__init__(daemon=True)
        type(self).running = self
        self._client = distributed.global_state.client
        self._address = distributed.global_state.coordinator_address
        self._me = distributed.global_state.process_id
        self._count = distributed.global_state.num_processes
        self._last: dict[str, tuple[str, float]] = {}

    def run(self) -> None:
        name = f"process {self._me} ({socket.gethostname()})"
        lost = (
            f"error: {name} has lost process 0 at {self._address}; the same command goes on from "
            "the last checkpoint\n"
        ).encode()
        try:
            self._client.key_value_set(f"stjax/names/{self._me}", name)
            for sign in itertools.count():
                self._client.key_value_set(
                    f"stjax/alive/{self._me}", str(sign), allow_overwrite=True
                )
                if self._me == 0 and (lost := self._silent()):
                    self.end_all(f"error: {lost} has not answered for {_SILENCE} s and is given up")
                if (reason := self._told()) is not None:
                    break
        except RuntimeError:
            os.write(2, lost)  # in a hurry: JAX's runtime has noticed too, and aborts
            reason = "lost"
        if reason:
            self._leave()

    def stop(self) -> None:
        self._client.key_value_set(f"stjax/end/{self._me}", "")
        self.join()

    def end_all(self, line: str) -> NoReturn:
        """Tells the others to end, and ends; of several that do, the first one speaks."""
        with contextlib.suppress(RuntimeError):  # somebody else spoke, or nobody is left to tell
            self._client.key_value_set("stjax/failed", line)
            tqdm.tqdm.write(line, file=sys.stderr)
            for k in set(range(self._count)) - {self._me}:
                with contextlib.suppress(RuntimeError):
                    self._client.key_value_set(f"stjax/end/{k}", line)
        self._leave()

    def _leave(self) -> NoReturn:
        if self._me == 0:  # the store ends with this process; the others have to read it
            time.sleep(2)
        _leave(1)

    def _told(self) -> str | None:
        """Waits for the word to end; None if none came until the next sign of life is due."""
        try:
            return self._client.blocking_key_value_get(f"stjax/end/{self._me}", _SIGN * 1000)
        except RuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise

    def _silent(self) -> str | None:
        """The name of a process that has not given a sign of life for too long."""
        now = time.monotonic()
        for key, sign in self._client.key_value_dir_get("stjax/alive/"):
            if self._last.get(key, ("", 0))[0] != sign:
                self._last[key] = sign, now
            elif now - self._last[key][1] > _SILENCE:
                return self._client.key_value_try_get(key.replace("/alive/", "/names/"))
        return None


@contextlib.contextmanager
def _rendezvous(coordinator: str | None, process: int | None, wait: int):
    """JAX ends a process that nobody met without a word of where; so we do, a little earlier."""
    line = (
        f"error: process {process if process is not None else socket.gethostname()} met not all "
        f"others within {wait} s at {coordinator or 'the coordinator that was detected'}; is "
        "process 0 running and reachable there, and were all of them started?"
    )
    timer = threading.Timer(wait, _end_with, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_with(line: str) -> NoReturn:
    tqdm.tqdm.write(line, file=sys.stderr)
    _leave(1)


def _leave(code: int) -> NoReturn:
    """At once: what waits at a normal exit waits for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_local(address: str | None) -> bool:
    return address is not None and address.rpartition(":")[0] in ("127.0.0.1", "localhost")


def _appears(path: pathlib.Path) -> bool:
    """Whether a file is there; network file systems take some seconds to show it."""
    for _ in range(20):
        if path.exists():
            return True
        time.sleep(0.25)
    return False

