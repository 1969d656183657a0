#!/usr/bin/env bash
# A Slurm of two simulated nodes (n1, n2, one CPU each) on this machine, for tests: cluster.sh start|stop FOLDER
#
# `start` writes configuration, keys, state and logs into FOLDER (made if missing), starts the daemons, waits until both
# nodes are idle and prints what to put into the environment. `stop` ends the daemons of FOLDER. Nothing outside
# FOLDER is touched, so several clusters can live side by side (SURGERY_SLURM_PORT tells their ports apart).
# Exit code 77 when slurm-wlm and munge are not installed, or slurmd finds no cgroups.
set -euo pipefail
action=${1:?start or stop} folder=${2:?folder}
port=${SURGERY_SLURM_PORT:-16810}
PATH=$PATH:/usr/sbin

stop() {
  local name pid
  for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    [[ -e $folder/$name.pid ]] || continue
    pid=$(<"$folder/$name.pid")
    kill "$pid" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$folder/$name.pid"
  done
}

write_configuration() {
  local node user
  user=$(id -un)
  cat >"$folder/slurm.conf" <<EOF
ClusterName=simulated
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A job that goes back in the queue rests until the credentials of its last start have expired (by default two minutes).
AuthInfo=socket=$folder/munge.socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdSpoolDir=$folder/spool-%n
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdLogFile=$folder/slurmd-%n.log
JobRequeue=1
KillWait=10
MinJobAge=300
SchedulerParameters=sched_interval=1,batch_sched_delay=0
EOF
  local number=0
  for node in n1 n2; do
    number=$((number + 1))
    echo "NodeName=$node NodeAddr=127.0.0.1 NodeHostname=localhost Port=$((port + number)) CPUs=1 State=UNKNOWN"
    mkdir -p "$folder/spool-$node"
  done >>"$folder/slurm.conf"
  echo "PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP" >>"$folder/slurm.conf"
}

start() {
  local program node
  for program in munged slurmctld slurmd; do
    command -v "$program" >/dev/null || { echo "cluster.sh: $program is not installed (slurm-wlm, munge)" >&2; exit 77; }
  done
  mkdir -p "$folder/state"
  chmod 755 "$folder"
  folder=$(realpath "$folder")
  (umask 077; head -c 1024 /dev/urandom >"$folder/munge.key")
  # munged warns of a folder under /tmp that others may write to; here that is no danger.
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" 2>"$folder/munged.err"
  write_configuration
  export SLURM_CONF=$folder/slurm.conf
  slurmctld
  for node in n1 n2; do
    slurmd -N "$node" || {
      stop
      grep -q cgroup "$folder/slurmd-$node.log" || exit 1
      echo "cluster.sh: slurmd needs cgroups, which this machine or container does not offer" >&2
      exit 77
    }
  done
  SECONDS=0
  while ((SECONDS < 60)); do
    [[ $(timeout 5 sinfo -h -o %T -t idle -N 2>/dev/null | wc -l) == 2 ]] && { echo "export SLURM_CONF=$SLURM_CONF"; return 0; }
    sleep 0.2
  done
  echo "cluster.sh: the nodes did not come up; $folder holds the logs" >&2
  stop
  exit 1
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "cluster.sh: $action: start or stop is known" >&2; exit 64 ;;
esac
