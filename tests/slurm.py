"""A Slurm of two nodes on this machine, in a folder of its own; all of it ends with the block.

    python -m tests.slurm [command]

runs a command (a shell by default) in which `sbatch`, `srun` and `squeue` mean this Slurm.
"""

import contextlib
import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

# Debian keeps the daemons where only root's PATH looks.
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo")

# No cgroups, no accounting, nobody to talk to but this machine. Two nodes of one name in DNS are
# allowed as long as each `slurmd` is told by -N which one it is. A job that goes back into the
# queue waits until its credentials have expired, two minutes unless said otherwise.
_CONFIG = """
ClusterName=little
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName={host}-2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Unusable(Exception):
    """Why there can be no Slurm here."""


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Starts a Slurm; gives the environment in which its commands find it.

    Raises:
        Unusable: it is not installed, or does not start, as which user and with what last words.
    """
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        raise Unusable(f"Slurm is not installed: apt-get install slurm-wlm munge ({missing[0]})")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm-"))
    environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = []
    before = signal.signal(signal.SIGTERM, _exit_once)
    try:
        _start(folder, environment, daemons)
        yield environment
    finally:
        _stop(folder, environment, daemons)
        shutil.rmtree(folder)
        signal.signal(signal.SIGTERM, before)


def _exit_once(signum, frame):
    """SIGTERM would leave it all running; `timeout` sends two, the second while it is ended."""
    signal.signal(signum, signal.SIG_IGN)
    sys.exit(128 + signum)


def _start(folder, environment, daemons):
    folder.chmod(0o755)  # munged insists that others could reach its socket
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    *ports, coordinator = _free_ports(4)
    (folder / "slurm.conf").write_text(
        _CONFIG.format(folder=folder, host=host, user=getpass.getuser(), ports=ports)
    )
    # JAX's process 0 would listen to the whole network, on a port made of the job's number.
    environment["JAX_COORDINATOR_PORT"] = str(coordinator)
    environment["JAX_COORDINATOR_BIND_ADDRESS"] = f"{_address(host)}:{coordinator}"

    def start(name, *command):
        with open(folder / f"{name}.log", "w") as log:
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid",
             "seed-file": folder / "munge.seed"}
    start("munged", "munged", "--foreground", *(f"--{k}={path}" for k, path in files.items()))
    _await(folder, daemons, lambda: (folder / "munge.socket").exists())
    start("slurmctld", "slurmctld", "-D")
    for node in (host, f"{host}-2"):
        start(node, "slurmd", "-D", "-N", node)
    _await(folder, daemons, lambda: say(environment, "sinfo", "-ho", "%D %t") == "2 idle")


def _await(folder, daemons, ready, seconds=30):
    """Returns when `ready()`; raises Unusable when a daemon dies or the time is over."""
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until or any(daemon.poll() is not None for daemon in daemons):
            words = " / ".join(
                path.read_text().strip().rpartition("\n")[2] for path in folder.glob("*.log")
            )
            raise Unusable(f"Slurm does not start as user {getpass.getuser()}: {words}")
        time.sleep(0.1)


def _stop(folder, environment, daemons):
    """Ends jobs, daemons, and whatever else was started for this folder, jobs' processes too."""
    if len(daemons) > 1:
        say(environment, "scancel", f"--user={getpass.getuser()}")
        until = time.monotonic() + 20
        while say(environment, "squeue", "-h") and time.monotonic() < until:
            time.sleep(0.2)
    for daemon in reversed(daemons):
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(10)
    for pid in processes(environment):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for daemon in daemons:
        daemon.wait()


def processes(environment: dict[str, str], **variables: str) -> list[int]:
    """Processes that this Slurm started, in whose environment these variables are."""
    variables["SLURM_CONF"] = environment["SLURM_CONF"]
    wanted, found = {f"{name}={value}" for name, value in variables.items()}, []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted <= set(path.read_bytes().decode(errors="replace").split("\0")):
                found.append(int(path.parent.name))
    return found


def say(environment: dict[str, str], *command: str) -> str:
    """What a command of this Slurm says."""
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        timeout=60, check=False,
    )
    return done.stdout.strip()


def _address(host):
    """Where the processes look for process 0: Slurm tells JAX the name of a node."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise Unusable(f"this machine's name, {host}, has no address: {error}") from error


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    with running() as environment:
        command = sys.argv[1:] or [os.environ.get("SHELL", "bash")]
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
