#!/usr/bin/env bash
#SBATCH --job-name=nanochat
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=nanochat-%j.log
#
# nanochat on one node of a Slurm cluster, requeued at each time limit until the command ends:
#
#     sbatch deploy/slurm.sh run --profile d12       any command of nanochat
#     sbatch deploy/slurm.sh worker gpu              a Prefect worker for a pool of the server at PREFECT_API_URL
#
# `nanochat` must be on the PATH, and NANOCHAT_STORE must outlive the node: a bucket, or a folder that nodes share.
#
# How it ends:
# - the command ends by itself: with its exit code; Slurm does not restart it;
# - 120 s before the time limit (and before a preemption, if the cluster gives notice) Slurm sends TERM to
#   the command: training saves a checkpoint, the job is requeued, and resumes from there; a worker takes no further
#   run, its runs save theirs, and continue on any worker of the pool;
# - `scancel`: the same, but a job that is no longer RUNNING is not requeued;
# - the node fails: Slurm requeues the job (--requeue); at most `compute.checkpoints.every_s` of training is lost.
set -uo pipefail

: "${NANOCHAT_STORE:?must name a store that outlives the node: s3://bucket/prefix or file:///a/shared/folder}"
export NANOCHAT_STORE
export PYTHONSAFEPATH=1   # Python does not import modules from the job's folder
# Caches, logs and the Prefect server's SQLite are on the node's own disk, because file locks over NFS are unreliable.
named_home=${NANOCHAT_HOME:-}
export NANOCHAT_HOME="${NANOCHAT_HOME:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/nanochat-${SLURM_JOB_ID:-$$}}"
mkdir -p "$NANOCHAT_HOME" && NANOCHAT_HOME=$(cd "$NANOCHAT_HOME" && pwd) || exit

if [ "${1:-}" = worker ]; then
  : "${PREFECT_API_URL:?must name the Prefect server of the pool}"
  export PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30   # a run that sends none has crashed
  command=(python -m flows.site.worker --pool "${2:-gpu}" --type process --name "$(hostname) ${SLURM_JOB_ID:-}"
           --limit 1)
else
  [ $# -gt 0 ] || set -- run --profile d12
  command=(nanochat "$@")
fi

signalled='' child=''
forward() {
  signalled=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap forward TERM

"${command[@]}" &
child=$!
[ -z "$signalled" ] || forward   # the signal came before the command started
while kill -0 "$child" 2>/dev/null; do   # a signal interrupts `wait`
  wait "$child"
done
wait "$child"
code=$?

if [ -n "$signalled" ]; then
  echo "received TERM; the command ended with $code"
  # Training saves its checkpoint below a supervisor that outlives the run by up to 20 s, but not the job.
  for _ in {1..30}; do
    pgrep -f "nanochat.workers.supervisor $NANOCHAT_HOME/" >/dev/null 2>&1 || break
    sleep 1
  done
fi
if [ -z "$named_home" ]; then   # ours; before the requeue, which ends this script
  if [ "$code" = 0 ] || [ -n "$signalled" ]; then
    rm -rf -- "$NANOCHAT_HOME"
  else
    echo "the logs are in $NANOCHAT_HOME on $(hostname); remove that folder when you have read them"
  fi
fi
if [ -n "$signalled" ] &&
   [ "$(squeue --noheader --jobs "${SLURM_JOB_ID:-none}" --format %T 2>/dev/null)" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
