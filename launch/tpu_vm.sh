#!/bin/bash
# A run on all workers of a Cloud TPU VM slice that runs already:
#
#     launch/tpu_vm.sh my-slice us-west4-a convs5 --scale=paper --workdir=/mnt/shared/run
#
# after, once,
#
#     gcloud compute tpus tpu-vm scp --recurse --worker=all --zone=us-west4-a . my-slice:stjax
#     gcloud compute tpus tpu-vm ssh my-slice --worker=all --zone=us-west4-a \
#         --command='pip install "stjax[tpu] @ file://$HOME/stjax"'
#
# --workdir has to be seen by all workers (Filestore). The same line goes on with a stopped run.

set -euo pipefail
slice=$1 zone=$2 system=$3
shift 3

# On a TPU JAX finds out by itself who the others are. `setsid nohup` lets the run outlive this
# connection; what it says is in each worker's own log.
run=$(printf ' %q' python3 -u -m "experiments.$system" --distributed "$@")
gcloud compute tpus tpu-vm ssh "$slice" --zone="$zone" --worker=all \
    --command="cd stjax; setsid nohup$run > ~/stjax.log 2>&1 < /dev/null & echo \$! > ~/stjax.pid"

# `kill $(cat ~/stjax.pid)` on one of the workers makes all of them save and leave.
exec gcloud compute tpus tpu-vm ssh "$slice" --zone="$zone" --worker=0 \
    --command="tail -n +1 -F ~/stjax.log"
