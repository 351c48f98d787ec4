#!/bin/bash
# Four machines with eight accelerators each: sbatch benchmarks/accelerate/slurm.sh run.yaml
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
set -euo pipefail
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c "accelerate launch --config_file benchmarks/accelerate/fsdp2.yaml \
    --num_machines $SLURM_NNODES --num_processes $((SLURM_NNODES * 8)) --machine_rank \$SLURM_NODEID \
    --main_process_ip $main --main_process_port 29500 -m prefopt train $1"
