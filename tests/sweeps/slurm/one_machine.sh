#!/usr/bin/env bash
# A real Slurm of one machine: `one_machine.sh start FOLDER`, `stop FOLDER`, `install` (Debian, as root).
# Everything (munge's key and socket, configuration, state, logs) lies in FOLDER; no systemd, no
# accounting, nothing of a Slurm that is there already is touched. After start:
#   export SLURM_CONF=FOLDER/slurm.conf
set -euo pipefail

install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

start() {
    local folder cpus memory host
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
    cpus=$(nproc)
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    host=$(hostname -s)
    # munge refuses keys and sockets in folders that others can write to, whatever lies above
    mkdir -p "$folder/munge" "$folder/state" "$folder/spool" "$folder/log"
    chmod 711 "$folder" "$folder/munge"
    (umask 077 && dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none)
    munged --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" \
        --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    cat > "$folder/slurm.conf" <<CONF
ClusterName=one_machine
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobRequeue=1
KillWait=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
SchedulerParameters=batch_sched_delay=0,sched_interval=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=small Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 60); do
        if sinfo --noheader --format=%t 2> "$folder/log/sinfo" | grep -qx idle; then
            return
        fi
        sleep 0.5
    done
    echo "Slurm did not come up:" >&2
    tail -n 20 "$folder"/log/* >&2
    stop "$folder"
    return 1
}

stop() {
    local file pid
    for file in "$1/slurmctld.pid" "$1/slurmd.pid" "$1/munge/pid"; do
        if [ -f "$file" ]; then
            pid=$(cat "$file")
            kill "$pid" 2> /dev/null || continue
            for _ in $(seq 40); do
                kill -0 "$pid" 2> /dev/null || break
                sleep 0.25
            done
        fi
    done
}

case "${1:-}" in
install) install ;;
start | stop) "$1" "${2:?a folder}" ;;
*)
    sed -n '2,5s/^# //p' "$0"
    exit 2
    ;;
esac
