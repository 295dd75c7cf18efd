#!/bin/bash
# A search on the machines of a Slurm job. Ray runs on all of them; the search runs on the first.
#
#     RUN=/shared/runs/demo sbatch deploy/slurm.sh --base resnet50 --dataset cifar100
#
# RUN is a folder that all machines see. If the run exists, it is resumed. At the end of the time limit Slurm sends
# SIGTERM two minutes ahead; the search then stops, and Slurm puts the job into the queue again.
#
#SBATCH --job-name=buildup
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

RUN=${RUN:?the folder of the run, on storage that all machines see}
PORT=${PORT:-6379}

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
address="$head:$PORT"

# Only who has the token may use this cluster.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0

resources=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}")
[ -z "${SLURM_GPUS_ON_NODE:-}" ] || resources+=(--num-gpus "$SLURM_GPUS_ON_NODE")

machines() {
  python - "$address" <<'END' 2>/dev/null || echo 0
import sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
END
}

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --port "$PORT" --include-dashboard=false "${resources[@]}" &
until [ "$(machines)" -ge 1 ]; do sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --nodes="$others" --ntasks="$others" --exclude="$head" \
    ray start --block --address "$address" "${resources[@]}" &
  until [ "$(machines)" -ge "$SLURM_JOB_NUM_NODES" ]; do sleep 2; done
fi

if [ -e "$RUN/run.yaml" ]; then
  buildup resume "$RUN" --ray "$address" &
else
  buildup search "$@" --run "$RUN" --ray "$address" &
fi
search=$!
stopped=
trap 'stopped=yes; kill -TERM "$search"' TERM
code=0
wait "$search" || code=$?
if [ -n "$stopped" ]; then
  # The trap interrupted the first wait.
  wait "$search" || code=$?
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
