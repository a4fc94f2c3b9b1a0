#!/usr/bin/env bash
# Proves and measures the training stages on this machine's GPU, without network and without real weights:
# correctness of the unsloth backend beside peft's, then speed and memory on Llama-3.1-8B's and SOLAR-10.7B's shapes.
# Leaves report.md, report.json and every run's log in --out. Two calls, each made for 10 minutes on one H200.
#
#   bash benchmarks/gpu/run.sh --only correctness     (outputs/gpu/correctness)
#   bash benchmarks/gpu/run.sh --only speed           (outputs/gpu/speed)
#   bash benchmarks/gpu/run.sh                        both, one after the other (outputs/gpu)
#   bash benchmarks/gpu/run.sh --small                the whole of it on a tiny model, on a CPU too (with peft alone)
set -euo pipefail
cd "$(dirname "$0")/../.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false UNSLOTH_DISABLE_STATISTICS=1 PYTHONUNBUFFERED=1
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
[ -x .venv/bin/python ] && default=.venv/bin/python || default=$(command -v python || command -v python3)
exec "${PYTHON:-$default}" benchmarks/gpu/run_all.py "$@"
