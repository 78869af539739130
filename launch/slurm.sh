#!/bin/bash
# A run on Slurm. From the root of the checkout, with an environment active that holds stjax:
#
#     sbatch --nodes=4 launch/slurm.sh convs5 --scale=paper --workdir=/shared/run
#     sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh predformer train --workdir=/shared/run
#
# What follows the script is the system and its arguments; --workdir has to be seen by all nodes.
# The same line goes on with a run that was stopped.
#
# One process a node drives all its devices. `--ntasks-per-node=8 --gpus-per-node=8` makes it one a
# GPU, which gives each its own thread for Python and its own share of the data to read. Leave out
# --gpus-per-task and --gpu-bind: JAX picks GPU number SLURM_LOCALID of those that it can see.

#SBATCH --job-name=stjax
#SBATCH --output=%x-%j.log
# What a requeued job says goes after what it said before.
#SBATCH --open-mode=append
# Whole nodes: reading the data takes all their cores.
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
# Two minutes before its time is up the run is told to save, as it is anyway when it is pre-empted.
#SBATCH --signal=TERM@120
#SBATCH --requeue

system=$1
shift

# JAX would give a process under Slurm one GPU, although it is alone on its node.
if ((${SLURM_NTASKS_PER_NODE:-1} == 1 && ${SLURM_GPUS_ON_NODE:-0} > 1)); then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
    export JAX_LOCAL_DEVICE_IDS
fi

# A process that dies takes the others with it: none of them can go on alone.
srun --kill-on-bad-exit=1 python -u -m "experiments.$system" "$@"
code=$?

# 143: all have saved and left because Slurm asked them to. The job waits in the queue to go on.
# (`scancel` ends this script as well, so that what was cancelled does not come back.)
if ((code == 143)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
