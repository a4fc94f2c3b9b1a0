#!/usr/bin/env bash
# The demo's models behind the API, and the chat page in front of it: `make serve`, or those of `make demo-real`:
# `make serve MODEL=…`. Ctrl-C stops both.
# Ports: API_PORT (8000) and PAGE_PORT (8501). Logs, conversations and votes go to outputs/chat/, or outputs/chat/NAME/.
set -uo pipefail
[ ! -d "${MODEL:-}" ] || MODEL=$(realpath "$MODEL")
cd "$(dirname "$0")/.."
world=sample_data/world
if [ -n "${MODEL:-}" ]; then
  name=$(basename "$MODEL")
  command="make demo-real MODEL='$MODEL'"
  out=outputs/demo_real/$name
  base=$MODEL
  stages="sft dpo"
  chat=outputs/chat/$name
  welcome="지어낸 세계의 짧은 글로 조금 더 학습한 모델입니다(베이스: $name)."
else
  command="make demo"
  out=outputs/demo
  base=$out/base
  stages="base sft dpo"
  chat=outputs/chat
  welcome="이 작은 모델은 지어낸 세계의 짧은 글을 읽고 답합니다. 그 밖의 것은 알지 못합니다."
fi
api_port=${API_PORT:-8000}
page_port=${PAGE_PORT:-8501}
api="http://127.0.0.1:$api_port"
page="http://127.0.0.1:$page_port"
pids=()

for stage in $stages; do
  [ -f "$out/$stage/run.json" ] || { echo "error: $out/$stage is missing; run: $command" >&2; exit 2; }
done

python - "$api_port" "$page_port" <<'CHECK' || exit 2
import socket, sys
status = 0
for port in sys.argv[1:]:
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, OverflowError, ValueError) as error:
        print(f"error: port {port}: {error}; API_PORT=N and PAGE_PORT=N choose others", file=sys.stderr)
        status = 2
sys.exit(status)
CHECK

stop() {
  trap - INT TERM EXIT
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null
  wait
}
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM
trap stop EXIT

mkdir -p "$chat"
api() {
  exec python api_server.py --port "$api_port" --model_id "$base" --lora_modules "sft=$out/sft" "dpo=$out/dpo" \
    --served_model_name base --max_seq_length 4096 --task_examples $world/test_names.jsonl sample_data/earlier_task_rows.jsonl
}
page() {
  exec python chainlit_app.py --port "$page_port" --api_base_url "$api/v1" --starters_path $world/starters.txt \
    --database_url "${SLLM_DATABASE_URL:-sqlite:///$chat/chat.db}" --welcome "$welcome"
}
api 2>>"$chat/api.log" &
pids+=($!)
page >>"$chat/page.log" 2>&1 &
pids+=($!)

# An address counts when it answers and our process is there: another one may be using the port.
await() {
  until python -c "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2)" "$1" 2>/dev/null && sleep 1 && kill -0 "$2" 2>/dev/null; do
    kill -0 "$2" 2>/dev/null || { echo "error: $3 ended before it answered; $chat/$4.log says why:" >&2; tail -3 "$chat/$4.log" >&2; exit 1; }
    sleep 1
  done
}
[ -z "${MODEL:-}" ] || echo "loading $MODEL; 0.6 B parameters take minutes on two cores"
await "$api/ready" "${pids[0]}" api_server.py api
await "$page/health" "${pids[1]}" chainlit_app.py page
printf '\n  API    %s/v1   (%s/docs)\n  chat   %s\n\nCtrl-C stops both.\n' "$api" "$api" "$page"
wait -n
kill -0 "${pids[0]}" 2>/dev/null && ended="chainlit_app.py ($chat/page.log)" || ended="api_server.py ($chat/api.log)"
echo "error: $ended ended" >&2
exit 1
