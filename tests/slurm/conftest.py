"""A SLURM cluster of two nodes on this machine, for as long as the tests last."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "unshare")
SEARCH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin", "/opt/slurm/bin"])

CONF = """
ClusterName=test
SlurmctldHost=controller(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it starts; 120 seconds unless set
AuthInfo=socket={dir}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/%n.pid
PlugStackConfig={dir}/plugstack.conf
CommunicationParameters=NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
KillWait=10
ReturnToService=2
# a job in the partition "high" puts one in "low" back into the queue
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeAddr=127.0.0.1 Port={one} CPUs=2 RealMemory=4000 Gres=gpu:1
NodeName=node2 NodeAddr=127.0.0.1 Port={two} CPUs=2 RealMemory=4000 Gres=gpu:1
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""
# What runs in here is on a host of that name, and knows all of them.
ELSEWHERE = 'mount --bind "$1" /etc/hosts; echo "$2" > /proc/sys/kernel/hostname; shift 2; exec "$@"'


class Cluster:
    """Starts the daemons, asks them things, ends them."""

    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SEARCH}

    def start(self):
        ports = dict(zip(("port", "one", "two"), free_ports(3), strict=True))
        (self.folder / "slurm.conf").write_text(CONF.format(dir=self.folder, **ports))
        (self.folder / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={self.folder}/gpu\n")
        os.mknod(self.folder / "gpu", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # a pretended one: /dev/null's twin
        for name in ("state", "node1", "node2"):
            (self.folder / name).mkdir()
        (self.folder / "plugstack.conf").touch()
        names = "".join(f"127.0.0.1 {name}\n" for name in ("controller", "node1", "node2"))
        (self.folder / "hosts").write_text(names + Path("/etc/hosts").read_text())
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.folder.chmod(0o755)
        self.spawn(
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket"),
            *(f"--{name}-file={self.folder}/munged.{name}" for name in ("pid", "log", "seed")),
        )
        self.wait((self.folder / "munge.socket").exists, 20)
        self.spawn("slurmctld", "-D", "-c", host="controller")
        for name in ("node1", "node2"):
            self.spawn("slurmd", "-D", "-N", name, host=name)
        self.wait(lambda: self.ask("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D").strip() == "2", 60)

    def spawn(self, program, *words, host=None):
        command = [shutil.which(program, path=SEARCH), *words]
        if host is not None:
            inside = ["sh", "-ec", ELSEWHERE, "sh", str(self.folder / "hosts"), host]
            command = ["unshare", "--mount", "--uts", "--propagation", "private", *inside, *command]
        with (self.folder / f"{host or program}.log").open("w") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
            self.daemons.append(subprocess.Popen(command, env=self.environment, **options))

    def ask(self, *words, **options):
        """Return what a SLURM command prints; nothing if it fails."""
        options = {
            "env": self.environment,
            "capture_output": True,
            "text": True,
            "timeout": 60,
            "check": False,
        } | options
        return subprocess.run(words, **options).stdout

    def wait(self, done, seconds):
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                logs = "\n".join(f"{log}: {log.read_text()[-600:]}" for log in self.folder.glob("*.log"))
                raise AssertionError(
                    f"nothing came of it in {seconds} seconds\n{self.ask('scontrol', 'show', 'job')}\n{logs}"
                )
            time.sleep(0.2)

    def stop(self):
        self.ask("scancel", *self.ask("squeue", "-h", "-o", "%A").split())
        end = time.monotonic() + 30  # jobs end while the daemons are there to end them
        while self.ask("squeue", "-h") and time.monotonic() < end:
            time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def cluster():
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if missing or os.geteuid() != 0:
        why = f"{', '.join(missing)} not found" if missing else "its daemons want to be root's"
        pytest.skip(f"no SLURM cluster here: {why}; see tests/slurm/install.sh")
    # Not the test's own folder: names of unix sockets may be no longer than 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
