#!/usr/bin/env bash
# The whole pipeline with a small real model, without a GPU: `make demo-real`, or with one of your choice, a Hub id or a
# folder, `make demo-real MODEL=org/name`. Then `make serve MODEL=org/name` (Qwen/Qwen3-0.6B where none was named).
# Stages that are complete are skipped; a training that was stopped is resumed. To start over, remove its folder.
set -euo pipefail
[ ! -d "${MODEL:-}" ] || MODEL=$(realpath "$MODEL")
cd "$(dirname "$0")/.."
model=${MODEL:-Qwen/Qwen3-0.6B}
out=outputs/demo_real/$(basename "$model")
world=sample_data/world

stage() { printf '\n━━ %s ━━\n' "$1"; }
missing() { [ ! -f "$out/$1" ]; }
stopped() { ls "$out/$1"/checkpoint-*/complete >/dev/null 2>&1; } # after Ctrl-C

mkdir -p "$out"
if [ "$(cat "$out/model" 2>/dev/null || echo "$model")" != "$model" ]; then
  echo "error: $out was made from $(cat "$out/model"); remove it, or rename it" >&2
  exit 2
fi
echo "$model" >"$out/model"

# 230 rows, 10 of each task, and 46 pairs: enough to learn the form of the answers and where in a text they are.
[ -f "$out/rows.jsonl" ] || head -n 230 $world/train.jsonl >"$out/rows.jsonl"
[ -f "$out/pairs.jsonl" ] || head -n 46 $world/pairs.jsonl >"$out/pairs.jsonl"
[ -f "$out/test.jsonl" ] || head -n 69 $world/test_names.jsonl >"$out/test.jsonl"
# ChatML's turns end with <|im_end|>, or with the tokenizer's EOS where a model has no such token. A base can bring a
# template whose end of turn it never learned; SFT says whether the model has learned to stop.
train() {
  python train_LoRA_SFT.py --trainset_path "$out/rows.jsonl" --model_id "$model" --max_seq_length 1024 \
    --chat_template chatml --lora_r 16 --lora_alpha 32 --learning_rate 5e-4 --train_epochs 1 --batch_size 4 \
    --gradient_accum_steps 1 --logging_steps 5 --output_dir "$out/sft" "$@"
}

if missing sft/run.json; then
  stage "what it takes"
  train --overwrite --dry_run
  echo "time                   19 to 25 minutes for 0.27 B parameters on 2 cores, and as much longer as a model is larger"
fi

ask() { python vllm_inference.py --testset_path "$out/test.jsonl" --max_seq_length 1024 --max_tokens 96 "$@"; }
if missing base.run.json; then
  stage "answers before"
  ask --model_id "$model" --output_path "$out/base.jsonl" --overwrite
fi

if missing sft/run.json; then
  stage "SFT"
  start="--overwrite"
  if stopped sft; then
    start="--resume"
  fi
  train $start
fi

if missing dpo/run.json; then
  stage "DPO"
  start="--overwrite"
  if stopped dpo; then
    start="--resume"
  fi
  python train_LoRA_DPO.py --trainset_path "$out/pairs.jsonl" --model_id "$out/sft" --max_seq_length 1024 \
    --learning_rate 5e-5 --train_epochs 1 --batch_size 2 --gradient_accum_steps 1 --logging_steps 4 \
    --output_dir "$out/dpo" $start
fi

if missing merged/run.json; then
  stage "merge"
  python merged_weights.py --model_id "$out/dpo" --merged_weights_path "$out/merged" --overwrite
fi

if missing merged.run.json; then
  stage "answers after"
  ask --model_id "$out/sft" --output_path "$out/sft.jsonl" --overwrite
  ask --model_id "$out/merged" --output_path "$out/merged.jsonl" --overwrite
fi

stage "the same prompts, before and after"
python -m sllm.compare_outputs base="$out/base.jsonl" SFT="$out/sft.jsonl" merged="$out/merged.jsonl" \
  --facts $world/test_names.jsonl --test SFT merged --run "$out/sft" "$out/dpo" "$out/merged"

stage "what it says of answers that it has not seen"
python -m sllm.bits_per_character base="$model" SFT="$out/sft" merged="$out/merged" --testset_path "$out/test.jsonl"

stage "what next"
echo "chat with base, SFT and DPO model in the browser:  make serve MODEL='$model'"
