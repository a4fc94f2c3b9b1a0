#!/usr/bin/env bash
# meta-llama/Llama-3.1-8B-Instruct on one GPU: rows → SFT → DPO → merged model → answers.
# Needs access to the model on the Hub. Step 3 says what memory and disk the run will take.
#
#   bash recipes/llama31_8b.sh rows.jsonl pairs.jsonl          (bits=4 bash … loads the base in 4 bits)
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${1:?training rows: task rows, messages, prompt/completion or alpaca, .jsonl or .json}
pairs=${2:?preference pairs: prompt, chosen, rejected}
bits=${bits:-16}
out=outputs/llama31_8b
model=meta-llama/Llama-3.1-8B-Instruct

# 1. Raw rows → train/valid/test. Look at report.json and rejects.jsonl before going on.
python prepare_data.py --input_path "$rows" --output_dir $out/data

# 2. What will the model see? Supervised tokens are green. No weights are loaded.
python train_LoRA_SFT.py --trainset_path $out/data/train.jsonl --model_id $model --preview 2

# 3. Will it fit? Memory and disk are estimated and said; nothing is written.
python train_LoRA_SFT.py --trainset_path $out/data/train.jsonl --validation_path $out/data/valid.jsonl \
  --model_id $model --bits $bits --output_dir $out/sft --dry_run

# 4. SFT. The template is the model's own (llama3); r 64, alpha 128, lr 2e-5, 5 epochs, batch 4 × 8 are the defaults.
#    After a kill or Ctrl-C: the same command with --resume.
python train_LoRA_SFT.py --trainset_path $out/data/train.jsonl --validation_path $out/data/valid.jsonl \
  --model_id $model --bits $bits --output_dir $out/sft

# 5. DPO on top; the SFT model is the reference, checked at step 0. Reference scores are computed once.
python train_LoRA_DPO.py --trainset_path "$pairs" --model_id $out/sft --bits $bits --max_seq_length 4096 \
  --batch_size 2 --gradient_accum_steps 16 --precompute_ref_log_probs --output_dir $out/dpo

# 6. Merge into 16-bit weights; the merged model has to answer as base + adapter does.
python merged_weights.py --model_id $out/dpo --merged_weights_path $out/merged

# 7. Answers to the test rows, from vLLM.
python vllm_inference.py --model_id $out/merged --testset_path $out/data/test.jsonl --max_tokens 1024 \
  --output_path $out/answers.jsonl
