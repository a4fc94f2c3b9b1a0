#!/usr/bin/env bash
# The whole pipeline on the tiny base, without a GPU and without a model hub: `make demo`.
# Each stage is skipped when its folder is complete; `make clean-demo` starts over. The learning rates are those of
# a 3 M-parameter model that has minutes to learn; recipes/llama31_8b.sh shows real ones.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/demo
world=sample_data/world

stage() { printf '\n━━ %s ━━\n' "$1"; }
missing() { [ ! -f "$out/$1" ]; }
stopped() { ls "$out/$1"/checkpoint-*/complete >/dev/null 2>&1; } # after Ctrl-C

made_from=$(cat sample_data/tiny_base/run.json $world/run.json | sha256sum)
if [ -d $out ] && [ "$(cat $out/made_from 2>/dev/null)" != "$made_from" ]; then
  echo "error: $out was made from another base or other rows; make clean-demo, then again" >&2
  exit 2
fi
mkdir -p $out && echo "$made_from" >$out/made_from

# The base model: shipped built, so that nothing is downloaded (`python -m sllm.tiny_base` builds it).
if missing base/run.json; then
  stage "base"
  rm -rf "$out/base" "$out/.base" && cp -r sample_data/tiny_base "$out/.base"
  mv "$out/.base" "$out/base"
  echo "copied sample_data/tiny_base to $out/base"
fi

# Raw rows → train/valid, split by context. The test rows are files of their own, about things that no training row
# asks about.
if missing data/run.json; then
  stage "data"
  python prepare_data.py --input_path $world/train.jsonl --valid_ratio 0.02 --test_ratio 0 --output_dir $out/data \
    --overwrite
fi

# Task rows → LoRA SFT adapter.
if missing sft/run.json; then
  stage "SFT"
  start="--overwrite"
  if stopped sft; then
    start="--resume"
  fi
  python train_LoRA_SFT.py --trainset_path $out/data/train.jsonl --model_id $out/base --learning_rate 2e-3 \
    --train_epochs 1 --batch_size 4 --gradient_accum_steps 1 --logging_steps 60 --output_dir $out/sft $start
fi

# Preference pairs → DPO adapter; the reference is the SFT model. Higher rates made a model this small worse
# (benchmarks/README.md).
if missing dpo/run.json; then
  stage "DPO"
  start="--overwrite"
  if stopped dpo; then
    start="--resume"
  fi
  python train_LoRA_DPO.py --trainset_path $world/pairs.jsonl --model_id $out/sft --learning_rate 5e-5 \
    --train_epochs 1 --batch_size 4 --gradient_accum_steps 1 --logging_steps 12 --output_dir $out/dpo $start
fi

# Adapter + base → 16-bit weights that any tool loads. float16 rounds eight times finer than bfloat16, which keeps the
# answers of a model this small from parting at a near-tie.
if missing merged/run.json; then
  stage "merge"
  python merged_weights.py --model_id $out/dpo --merged_weights_path $out/merged --dtype float16 --overwrite
fi

# Answers from vLLM to questions about things that no training row asks about: the merged model, and each stage before
# it, unmerged. And once more, asked in words that no training row uses.
ask() { python vllm_inference.py --testset_path "$world/$1.jsonl" --max_tokens 160 --overwrite "${@:2}"; }
if missing answers.run.json; then
  stage "answers"
  mkdir -p $out/compare
  ask test_names --model_id $out/base --output_path $out/compare/base.jsonl
  ask test_names --model_id $out/sft --output_path $out/compare/sft.jsonl
  ask test_names --model_id $out/dpo --output_path $out/compare/dpo.jsonl
  ask test_phrasings --model_id $out/dpo --output_path $out/compare/phrasings.jsonl
  ask test_names --model_id $out/merged --output_path $out/answers.jsonl
fi

stage "the same prompts, answered by each stage"
python -m sllm.compare_outputs base=$out/compare/base.jsonl SFT=$out/compare/sft.jsonl DPO=$out/compare/dpo.jsonl \
  merged=$out/answers.jsonl --facts $world/test_names.jsonl --test SFT DPO --equal DPO merged \
  --run $out/sft $out/dpo $out/merged

stage "in words that no training row uses"
python -m sllm.compare_outputs DPO=$out/compare/phrasings.jsonl --facts $world/test_phrasings.jsonl --rows 1

stage "how good, and is it luck"
python evaluate_model.py --models base=$out/compare/base.jsonl SFT=$out/compare/sft.jsonl DPO=$out/compare/dpo.jsonl \
  merged=$out/answers.jsonl --testset_path $world/test_names.jsonl --output_dir $out/evaluation --overwrite

stage "what next"
echo "read every answer in the browser:  $out/evaluation/report.html"
echo "chat with base, SFT and DPO model in the browser:  make serve"
echo "or over HTTP (docs/api_server.md says how):"
echo "  . .venv/bin/activate"
echo "  python api_server.py --model_id $out/base --lora_modules sft=$out/sft dpo=$out/dpo"
