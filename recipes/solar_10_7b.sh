#!/usr/bin/env bash
# upstage/SOLAR-10.7B-v1.0 on one GPU: rows → SFT → DPO → merged model → answers.
# A base model without a chat template: SOLAR's own format is given by name. It was trained on 4,096 positions, which
# caps --max_seq_length.
#
#   bash recipes/solar_10_7b.sh rows.jsonl pairs.jsonl               look at the data, and whether it fits in memory
#   go=1 bash recipes/solar_10_7b.sh rows.jsonl pairs.jsonl          train, on a card of 80 GB; without pairs: SFT alone
#   card=24 go=1 bash recipes/solar_10_7b.sh rows.jsonl pairs.jsonl  the same on a card of 24 GB
#
# Stages whose folders are complete are skipped, and a training that was stopped is resumed: after a kill start the same
# command again.
#
# GPU memory in GB (10^9 bytes): estimates from the number of parameters and the longest batch that the flags below
# allow, not measurements; step 3 estimates the same for your rows.
#
#                       weights  adapters  batch                        80 GB   24 GB
#   SFT, 16 bits          21.5      2.5    14   of 4 × 4,096 tokens        38   does not fit
#   SFT, 4 bits            5.9      2.5     4.6 of 1 × 4,096 tokens         -   13
#   DPO, 16 bits          21.5      3.5    16   of 2 pairs × 4,096         41   does not fit
#   DPO, 4 bits            5.9      3.5     8.1 of 1 pair × 4,096           -   18
#   merge                 tensor by tensor, and 2 of main memory            1   1
#   inference, server     21.5      1.5 of buffers, then the KV cache      23   does not fit
#   the same in fp8       11        1.5 of buffers, then the KV cache       -   13; 10 are left for 50,000 tokens
#
# fp8 rounds the merged weights while they are loaded; --kv_cache_dtype fp8 beside it doubles the tokens on cards that
# compute in 8 bits (Ada, Hopper and later).
# Disk: 21 GB for the base, as much for the merged model, 3 GB for each adapter and each of its checkpoints.
set -euo pipefail
# Rows: task rows, messages, prompt/completion or alpaca. Pairs: prompt, chosen, rejected; a folder of prepare_data.py too.
for file in "${1:-}" ${2:+"$2"}; do
  if [ ! -e "$file" ]; then
    echo "error: ${file:-no rows named}: no such file; usage: bash $0 ROWS [PAIRS], both .jsonl or .json" >&2
    exit 2
  fi
done
rows=$(realpath "$1")
pairs=${2:+$(realpath "$2")}
[ ! -d "${model:-}" ] || model=$(realpath "$model")
cd "$(dirname "$0")/.."
card=${card:-80}
command -v nvidia-smi >/dev/null || bits=${bits:-16} # no GPU: to try the recipe with a small model, 4 bits need one
if [ "$card" -lt 64 ]; then # a smaller card: 4 bits, one row at a time, weights in 8 bits for inference
  bits=${bits:-4}
  batches="--batch_size 1 --gradient_accum_steps 32"
  pairs_of="--batch_size 1 --gradient_accum_steps 32 --max_seq_length 4096"
  weights="--max_seq_length 4096 --quantization fp8"
else
  bits=${bits:-16}
  batches="--batch_size 4 --gradient_accum_steps 8"
  pairs_of="--batch_size 2 --gradient_accum_steps 16 --max_seq_length 4096"
  weights="--max_seq_length 4096"
fi
out=${out:-outputs/solar_10_7b}
model=${model:-upstage/SOLAR-10.7B-v1.0}
missing() { [ ! -f "$out/$1" ]; }
digest() { find "$1" -type f -print0 | sort -z | xargs -0 cat | sha256sum; }
stopped() { ls "$out/$1"/checkpoint-*/complete >/dev/null 2>&1; }

# A stage that is there was made from the same rows, pairs, model and settings, or the recipe stops.
made_from() { # STAGE INPUTS
  if [ -d "$out/$1" ] && [ "$(cat "$out/$1.inputs" 2>/dev/null)" != "$2" ]; then
    echo "error: $out/$1 was made from other rows or pairs, another model or other settings; remove it and what came after, or name another folder: out=outputs/NAME" >&2
    exit 2
  fi
  echo "$2" >"$out/$1.inputs"
}
mkdir -p "$out"
rows_digest=$(digest "$rows")
trained="$model $bits $batches $rows_digest"
made_from sft "$trained"
inputs="$trained ${pairs:+$pairs_of $(digest "$pairs")}"
[ -z "$pairs" ] || made_from dpo "$inputs"
made_from merged "$inputs"

# 1. Raw rows → train/valid/test. Then look at report.json and rejects.jsonl, and start the recipe again with go=1.
if missing data/run.json || [ "$(cat "$out/data.inputs" 2>/dev/null)" != "$rows_digest" ]; then
  python prepare_data.py --input_path "$rows" --output_dir "$out/data" --overwrite
  echo "$rows_digest" >"$out/data.inputs"
fi

valid=() # few rows, or few contexts, leave the validation and test rows empty
[ ! -s "$out/data/valid.jsonl" ] || valid=(--validation_path "$out/data/valid.jsonl")

# 2. What will the model see? Supervised tokens are green. No weights are loaded.
# 3. Will it fit? Memory and disk are estimated and printed, and nothing is written; exit code 2 where it will not.
if [ -z "${go:-}" ]; then
  python train_LoRA_SFT.py --trainset_path "$out/data/train.jsonl" --model_id "$model" --chat_template solar --preview 2
  python train_LoRA_SFT.py --trainset_path "$out/data/train.jsonl" "${valid[@]}" \
    --model_id "$model" --chat_template solar --bits $bits $batches --output_dir "$out/sft" --dry_run
  echo "Look at the rows above and at $out/data/rejects.jsonl, then train: the same command with go=1 in front."
  exit
fi

# 4. SFT. r 64, alpha 128, lr 2e-5, 5 epochs are defaults; 32 rows a step.
if missing sft/run.json; then
  resume=""
  if stopped sft; then
    resume="--resume"
  fi
  python train_LoRA_SFT.py --trainset_path "$out/data/train.jsonl" "${valid[@]}" \
    --model_id "$model" --chat_template solar --bits $bits $batches --output_dir "$out/sft" $resume
fi
last="$out/sft"

# 5. DPO on top; the SFT model is the reference, checked at step 0. Reference scores are computed once.
if [ -n "$pairs" ]; then
  last="$out/dpo"
  if missing dpo/run.json; then
    resume=""
    if stopped dpo; then
      resume="--resume"
    fi
    python train_LoRA_DPO.py --trainset_path "$pairs" --model_id "$out/sft" --bits $bits $pairs_of \
      --precompute_ref_log_probs --output_dir "$out/dpo" $resume
  fi
fi

# 6. Merge into 16-bit weights, tensor by tensor; the merged model has to answer as base + adapter does.
if missing merged/run.json; then
  rm -f "$out"/answers.* # of an earlier merged model
  python merged_weights.py --model_id "$last" --merged_weights_path "$out/merged" --overwrite
fi

# 7. Answers to the test rows, from vLLM.
if [ ! -s "$out/data/test.jsonl" ]; then
  echo "done: $out/merged; there are no test rows to answer"
  exit
fi
if missing answers.run.json; then
  python vllm_inference.py --model_id "$out/merged" --testset_path "$out/data/test.jsonl" --max_tokens 1024 $weights \
    --output_path "$out/answers.jsonl" --resume
fi
echo "done: $out/merged, and its answers to the test rows in $out/answers.jsonl"

# 8. To serve; not run here, because a server runs until it is stopped. The chat page compares models, so for votes serve
#    the base with its adapters instead of the merged model. On a card of 24 GB add --quantization fp8.
#    python api_server.py --model_id outputs/solar_10_7b/merged --max_seq_length 4096
#    python api_server.py --model_id upstage/SOLAR-10.7B-v1.0 --served_model_name base \
#      --max_seq_length 4096 --chat_template solar \
#      --lora_modules sft=outputs/solar_10_7b/sft dpo=outputs/solar_10_7b/dpo
#    python chainlit_app.py --api_base_url http://127.0.0.1:8000/v1
