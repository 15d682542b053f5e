"""A Slurm of one node, on this machine, for as long as a test runs: its own key, configuration, ports and folders."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort=26817
SlurmdPort=26818
SlurmdSpoolDir={folder}/slurmd
StateSaveLocation={folder}/slurmctld
SlurmUser=root
SlurmdUser=root
SwitchType=switch/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} CoresPerSocket={cores} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return what keeps Slurm from being started here, None where nothing does."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if absent:
        return f"{absent[0]} is not installed (Debian: slurm-wlm and munge)"
    return "Slurm's daemons are started as root here" if os.getuid() else None


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run munged, slurmctld and slurmd, and yield the environment in which Slurm's commands find them."""
    folder.chmod(0o755)
    for name in ("slurmd", "slurmctld"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(64))
    (folder / "key").chmod(0o400)
    cores = len(os.sched_getaffinity(0))
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=folder, cores=cores))
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/key"]
    munged += [f"--{kind}-file={folder}/munged.{kind}" for kind in ("pid", "log", "seed")]
    with ExitStack() as stack:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            log = stack.enter_context((folder / f"{command[0]}.out").open("w"))
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            time.sleep(1)
        _wait_for_the_node(environment)
        stack.callback(_end_jobs, environment)  # those of a test that failed would outlive the daemons
        yield environment


def _wait_for_the_node(environment: dict[str, str]) -> None:
    for _ in range(60):
        found = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if "idle" in found.stdout:
            return
        time.sleep(1)
    raise RuntimeError(f"the node does not come up: {found.stdout}{found.stderr}")


def _end_jobs(environment: dict[str, str]) -> None:
    for _ in range(60):
        left = subprocess.run(["squeue", "-h", "-o", "%A"], env=environment, capture_output=True, text=True).stdout
        if not left.split():
            return
        subprocess.run(["scancel", "--full", "--signal=KILL", *left.split()], env=environment, capture_output=True)
        subprocess.run(["scancel", *left.split()], env=environment, capture_output=True)
        time.sleep(1)
