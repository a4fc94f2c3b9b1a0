#!/usr/bin/env bash
# The whole pipeline on the tiny base, without a GPU and without a model hub: `make demo`.
# Each stage is skipped when its folder is complete; `make clean-demo` starts over. The learning rates are those of
# a 4 M-parameter model that has minutes to learn; recipes/llama31_8b.sh shows real ones.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/demo

stage() { printf '\n━━ %s ━━\n' "$1"; }
missing() { [ ! -f "$out/$1" ]; }
stopped() { ls "$out/$1"/checkpoint-*/complete >/dev/null 2>&1; } # after Ctrl-C

# The base model: shipped built, so that nothing is downloaded (sllm/tiny_base.py builds it).
if missing base/run.json; then
  stage "base"
  mkdir -p "$out" && rm -rf "$out/base" "$out/.base" && cp -r sample_data/tiny_base "$out/.base"
  mv "$out/.base" "$out/base"
  echo "copied sample_data/tiny_base to $out/base"
fi

# Raw rows → train/valid/test, split by context.
if missing data/run.json; then
  stage "data"
  python prepare_data.py --input_path sample_data/task_rows.jsonl --output_dir $out/data --overwrite
fi

# Task rows → LoRA SFT adapter. No --validation_path here: a model this small can only learn its 80 rows by heart,
# and the best checkpoint on held-out rows would be the one that has learned least.
if missing sft/run.json; then
  stage "SFT"
  resume="--overwrite"
  if stopped sft; then
    resume="--resume"
  fi
  python train_LoRA_SFT.py --trainset_path $out/data/train.jsonl --model_id $out/base --learning_rate 3e-3 \
    --train_epochs 12 --batch_size 8 --gradient_accum_steps 1 --logging_steps 12 --output_dir $out/sft $resume
fi

# Preference pairs → DPO adapter; the reference is the SFT model.
if missing dpo/run.json; then
  stage "DPO"
  resume="--overwrite"
  if stopped dpo; then
    resume="--resume"
  fi
  python train_LoRA_DPO.py --trainset_path sample_data/preference_pairs.jsonl --model_id $out/sft \
    --learning_rate 2e-4 --train_epochs 2 --batch_size 8 --gradient_accum_steps 1 --logging_steps 3 \
    --output_dir $out/dpo $resume
fi

# Adapter + base → 16-bit weights that any tool loads. float16 rounds eight times finer than bfloat16, which keeps the
# long answers of a model this small and this unsure from parting at a near-tie.
if missing merged/run.json; then
  stage "merge"
  python merged_weights.py --model_id $out/dpo --merged_weights_path $out/merged --dtype float16 --overwrite
fi

# Answers from vLLM: the merged model, and each stage before it, unmerged. All sample rows are asked, those of the
# training split among them, so that what was learned shows.
ask() { python vllm_inference.py --testset_path sample_data/task_rows.jsonl --max_tokens 160 --overwrite "$@"; }
if missing answers.run.json; then
  stage "answers"
  mkdir -p $out/compare
  ask --model_id $out/base --output_path $out/compare/base.jsonl
  ask --model_id $out/sft --output_path $out/compare/sft.jsonl
  ask --model_id $out/dpo --output_path $out/compare/dpo.jsonl
  ask --model_id $out/merged --output_path $out/answers.jsonl
fi

stage "the same prompts, answered by each stage"
python -m sllm.compare_outputs base=$out/compare/base.jsonl SFT=$out/compare/sft.jsonl DPO=$out/compare/dpo.jsonl \
  merged=$out/answers.jsonl --equal DPO merged --run $out/sft $out/dpo $out/merged

stage "what next"
echo "chat with base, SFT and DPO model in the browser:  make serve"
echo "or over HTTP (docs/api_server.md says how):"
echo "  . .venv/bin/activate"
echo "  python api_server.py --model_id $out/base --lora_modules sft=$out/sft dpo=$out/dpo"
