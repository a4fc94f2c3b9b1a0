"""Answer the rows of a test set with vLLM: by a merged model, a base model, or a base with an unmerged LoRA adapter.

Reads rows in any format that prepare_data.py reads (or a folder that it wrote: its test.jsonl), and the chat
template and tokenizer of the folder that answers. Writes one line for each row, in the order of the rows and as soon
as it and all before it are done: id, task, messages, output, reference, finish_reason, prompt_tokens,
completion_tokens; and beside it `outputs.run.json` once the last row is answered.

    python vllm_inference.py --model_id outputs/demo/merged --testset_path outputs/demo/data --output_path outputs.jsonl
"""

import time
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError

SHOWN = 20  # rows of one problem that are listed
# What vLLM's beam search would ignore, and what without one nothing would heed.
SAMPLING = "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty stop".split()
BEAMS = ["num_beams", "length_penalty"]


def build_parser():
    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("model")
    group.add_argument("--model_id", help="a merged, base or adapter folder, or a Hub id")
    group.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter on --model_id, or on the base it names itself")
    group.add_argument("--chat_template", default="auto", metavar="NAME|FILE", help="auto: the folder's, else chatml")
    group.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="auto: the model's own on a GPU, float32 without one (greedy answers are then the same in any batch)",
    )
    group.add_argument("--max_seq_length", type=cli.positive_int, default=8192, help="tokens; capped by the model's")
    group.add_argument("--tensor_parallel_size", type=cli.positive_int, default=1, help="GPUs that share the model")
    group.add_argument("--gpu_memory_utilization", type=cli.fraction, default=0.9, help="share of the GPU's memory")
    group.add_argument("--enforce_eager", action=cli.BOOLEAN, default=None, help="do not compile; always so on a CPU")
    group = p.add_argument_group("rows")
    group.add_argument("--testset_path", required=True, help="rows: .jsonl, .json, or a prepared folder")
    group.add_argument("--task", nargs="+", metavar="ID", help="only the rows of these tasks")
    group.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N rows")
    group = p.add_argument_group("sampling")
    group.add_argument(
        "--max_tokens", type=cli.positive_int, default=1024, help="of an answer; less where a row is long"
    )
    group.add_argument("--temperature", type=cli.between(0, 2), default=0.0, help="0: greedy")
    group.add_argument("--top_p", type=cli.between(1e-6, 1), default=1.0, help="1: all tokens")
    group.add_argument("--top_k", type=int, default=0, help="0: all tokens")
    group.add_argument("--min_p", type=cli.between(0, 1), default=0.0, help="0: all tokens")
    group.add_argument("--presence_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--frequency_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--repetition_penalty", type=cli.between(0.01, 100), default=1.0, help="1: none")
    group.add_argument("--stop", nargs="+", metavar="TEXT", help="texts that end an answer, beside the end of turn")
    group.add_argument("--ignore_eos", action="store_true", help="run to --max_tokens, for measurements")
    group.add_argument(
        "--seed", type=int, default=42, help="row n samples with seed + n, whatever else is in the batch"
    )
    group.add_argument("--use_beam_search", action="store_true", help="the best of --num_beams beams; no sampling")
    group.add_argument("--num_beams", type=cli.positive_int, default=4, help="width of the beam search")
    group.add_argument(
        "--length_penalty",
        type=cli.between(-10, 10),
        default=1.0,
        help="above 1: longer beams; vLLM counts the prompt too",
    )
    group = p.add_argument_group("output")
    group.add_argument("--output_path", default="outputs.jsonl", help="file to write")
    cli.add_overwrite_flag(group)
    group.add_argument("--resume", action="store_true", help="answer only the rows that --output_path lacks")
    return p


def main(args) -> dict:
    from sllm.serve import answers, engine, model_facts

    started = time.monotonic()
    engine.set_environment(args.tensor_parallel_size)
    base, adapter, rows = inputs(args)
    folder, output = adapter or base, Path(args.output_path)

    from sllm import chat

    tokenizer = chat.load_tokenizer(folder)
    template = chat.install_template(tokenizer, args.chat_template)
    chat.check_probe(tokenizer, checkpoint.read_run(folder), folder)
    longest = min(args.max_seq_length, model_facts.context_length(base) or args.max_seq_length)
    prompts = render(tokenizer, rows, args.testset_path, longest)  # token ids of each row
    room = [min(args.max_tokens, longest - len(ids)) for ids in prompts]  # tokens for each answer
    stops = model_facts.stop_ids(tokenizer, base)

    settings = {
        "model": checkpoint.folder_hash(base) or base,
        "adapter": checkpoint.folder_hash(adapter) if adapter else None,
        "chat_template": chat.template_hash(tokenizer),
        "dtype": engine.resolve_dtype(args.dtype),
        "max_seq_length": longest,
        "stop_token_ids": stops,
        **{name: getattr(args, name) for name in ["max_tokens", "ignore_eos", "seed", *SAMPLING]},
        **({name: getattr(args, name) for name in BEAMS} if args.use_beam_search else {"num_beams": None}),
    }
    record = {
        "parents": [base, *([adapter] if adapter else [])],
        "base_model": base,
        "data": {"testset_path": args.testset_path, "rows": len(rows), "settings": settings},
        "chat_template_hash": settings["chat_template"],
    }
    done = answers.resumable(output, rows, settings) if args.resume else []
    first, todo = len(done), len(rows) - len(done)
    say("model", f"{base}{f' + adapter {adapter}' if adapter else ''}, {settings['dtype']}, {longest} tokens")
    for note in checkpoint.notes(folder, base):
        say("note", note)
    say("chat template", template)
    say("rows", f"{len(rows)} of {args.testset_path}{f', {first} answered already' if first else ''}")
    if min(room) < args.max_tokens:
        fewer = sum(tokens < args.max_tokens for tokens in room)
        say("", f"{fewer} have room for less than --max_tokens {args.max_tokens}, the longest for {min(room)}")

    load_seconds = work_seconds = 0.0
    beams = args.num_beams if args.use_beam_search else 0
    if todo:
        lengths = [len(ids) + tokens for ids, tokens in zip(prompts[first:], room[first:], strict=True)]
        loading = time.monotonic()
        llm = engine.load(
            base,
            adapter=adapter,
            dtype=args.dtype,
            max_model_len=longest,
            gpu_memory_utilization=args.gpu_memory_utilization,
            tensor_parallel_size=args.tensor_parallel_size,
            seed=args.seed,
            enforce_eager=args.enforce_eager,
            kv_tokens=sum(sorted(lengths)[-engine.MAX_ROWS :]) * max(beams, 1),
            num_beams=beams,
        )
        load_seconds = time.monotonic() - loading
        say("engine", f"ready after {load_seconds:.1f} s")
    complete = not todo and answers.run_file(output).exists()
    if not complete:
        answers.begin(output, args, record, keep=bool(done))
    if todo:
        if args.use_beam_search:
            params = [engine.beam_params(args, max_tokens=tokens) for tokens in room[first:]]
            finished = engine.beam_search(llm, prompts[first:], params, stop_token_ids=stops, adapter=adapter)
        else:
            params = [
                engine.sampling_params(args, stop_token_ids=stops, max_tokens=tokens, seed=args.seed + row)
                for row, tokens in enumerate(room[first:], first)
            ]
            finished = engine.generate(llm, prompts[first:], params, adapter=adapter)
        in_force = {"stop_token_ids": stops} | engine.effective(params[0]) | {"max_tokens": args.max_tokens}
        in_force |= {"seed": f"{args.seed} + row"} if args.temperature else {}
        say("in force", " · ".join(f"{name} {value}" for name, value in in_force.items()))

        def line_of(index: int, answer) -> dict:
            return rows[first + index] | {
                "output": engine.text(tokenizer, answer, stops),
                "finish_reason": answer.finish_reason,
                "prompt_tokens": len(prompts[first + index]),
                "completion_tokens": len(answer.token_ids),
            }

        working = time.monotonic()
        try:
            done += answers.write_in_order(finished, line_of, output, todo)
        except KeyboardInterrupt:
            raise cli.Interrupted(cli.command_line(drop=["--overwrite"], add=["--resume"])) from None
        work_seconds = time.monotonic() - working
    results = answers.summary(done, todo, work_seconds, load_seconds)
    if not complete:
        answers.finish(output, args, record, results, time.monotonic() - started)
    return {"stage": "answers", "output_path": str(output), **results}


def inputs(args) -> tuple[str, str | None, list[dict]]:
    """Base, adapter or None, and rows; everything wrong with the command line in one go, before heavy imports."""
    from sllm.data import formats
    from sllm.serve import answers, model_facts

    problems: list[str] = []
    base, adapter, rows = args.model_id, None, []

    def attempt(function, *values, **named):
        try:
            return function(*values, **named)
        except InputError as error:
            problems.extend(error.problems)

    idle = SAMPLING if args.use_beam_search else BEAMS
    given = [f"--{name}" for name in idle if getattr(args, name) != build_parser().get_default(name)]
    if given:
        when = "not with" if args.use_beam_search else "only with"
        problems.append(f"{', '.join(given)}: {when} --use_beam_search, which takes no sampling; choose one way")
    if args.adapter and not checkpoint.is_adapter(args.adapter):
        problems.append(f"--adapter {args.adapter} is no adapter folder (adapter_config.json)")
    elif args.adapter and args.model_id and checkpoint.is_adapter(args.model_id):
        problems.append(f"--model_id {args.model_id} is an adapter itself; name its base, or leave out --adapter")
    elif args.adapter or args.model_id:
        base, adapter = attempt(
            checkpoint.require_model, args.adapter or args.model_id, base_model=args.model_id if args.adapter else None
        ) or (base, None)
    else:
        problems.append("name a model: --model_id FOLDER, or --adapter FOLDER")
    if adapter and not problems:
        attempt(model_facts.check_adapter, adapter)
    attempt(answers.check_output, Path(args.output_path), overwrite=args.overwrite, resume=args.resume)
    rows = attempt(formats.load_rows, args.testset_path, "prompts") or []
    if args.task and rows:
        there = sorted({row["task"] or "none" for row in rows})
        unknown = [task for task in args.task if task not in there]
        if unknown:
            problems.append(f"{args.testset_path} has no row of task {', '.join(unknown)}; it has {', '.join(there)}")
        rows = [row for row in rows if (row["task"] or "none") in args.task]
    if problems:
        raise InputError(problems)
    return base, adapter, rows[: args.limit]


def render(tokenizer, rows: list[dict], path: str, longest: int) -> list[list[int]]:
    """Token ids of every row's prompt. InputError lists the rows that the template refuses, or that fill
    `longest` tokens and leave none for an answer."""
    from sllm import chat

    prompts, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            chat.refuse_special_tokens(tokenizer, row["messages"])
            ids = chat.prompt_ids(tokenizer, row["messages"])
            prompts.append(ids)
            if len(ids) >= longest:
                problem = f"its prompt has {len(ids)} tokens, prompt and answer together may have {longest}"
                problems.append(f"{path}: row {number} ({row['id']}): {problem}; shorten it or see --max_seq_length")
        except (InputError, ValueError) as error:
            problems.append(f"{path}: row {number} ({row['id']}): {error}")
    if problems:
        more = [f"{path}: {len(problems) - SHOWN} more such rows"] if len(problems) > SHOWN else []
        raise InputError(problems[:SHOWN] + more)
    return prompts


def say(what: str, value: str) -> None:
    print(f"{what:<16}{value}")


if __name__ == "__main__":
    cli.run(main, build_parser())
