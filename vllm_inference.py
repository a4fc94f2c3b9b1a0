"""Answer the rows of a test set with vLLM: by a merged model, a base model, or a base with an unmerged LoRA adapter.

Reads rows in any format that prepare_data.py reads (or a folder that it wrote: its test.jsonl), and the chat
template and tokenizer of the folder that answers. Writes one line for each row, in the order of the rows and as soon
as it and all before it are done: id, task, messages, output, reference, finish_reason, prompt_tokens,
completion_tokens; and beside it `outputs.run.json` once the last row is answered.

    --n N            adds outputs, finish_reasons and completion_token_counts, a list of N each; output, finish_reason
                     and completion_tokens are the first of them
    --logprobs K     adds logprobs (with --n also outputs_logprobs, a list of N): for each token of the answer, the
                     ending one included, {token_id, token, logprob, top_logprobs: K of {token_id, token, logprob}}
    --skip_bad_rows  gives a row that cannot be asked the output "", finish_reason "skipped" and a reason

    python vllm_inference.py --model_id outputs/demo/merged --testset_path outputs/demo/data --output_path outputs.jsonl
"""

import time
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError

PARAMETERS = "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty stop".split()
# What vLLM's beam search would ignore, and what without one nothing would heed.
SAMPLING = [*PARAMETERS, "n", "logprobs", "json_schema"]
BEAMS = ["num_beams", "length_penalty"]


def build_parser():
    from sllm.serve.engine import KV_CACHE_DTYPES, LOGPROBS, QUANTIZATIONS
    from sllm.serve.sampling import MAX_SEED

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
    group.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="make the weights of a 16-bit model smaller while they are loaded; one that is quantised needs no flag",
    )
    group.add_argument("--kv_cache_dtype", choices=KV_CACHE_DTYPES, default="auto", help="auto: the model's")
    group.add_argument("--max_seq_length", type=cli.positive_int, default=8192, help="tokens; capped by the model's")
    group.add_argument("--tensor_parallel_size", type=cli.positive_int, default=1, help="GPUs that share the model")
    group.add_argument(
        "--gpu_memory_utilization", type=cli.between(0.01, 1), default=0.9, help="share of the GPU's memory"
    )
    group.add_argument("--enforce_eager", action=cli.BOOLEAN, default=None, help="do not compile; always so on a CPU")
    group = p.add_argument_group("rows")
    group.add_argument("--testset_path", required=True, help="rows: .jsonl, .json, or a prepared folder")
    group.add_argument("--task", nargs="+", metavar="ID", help="only the rows of these tasks")
    group.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N rows")
    group.add_argument(
        "--skip_bad_rows", action="store_true", help="answer the others where at most 5 %% of the rows cannot be asked"
    )
    group = p.add_argument_group("sampling")
    group.add_argument(
        "--max_tokens", type=cli.positive_int, default=1024, help="of an answer; less where a row is long"
    )
    group.add_argument("--temperature", type=cli.between(0, 2), default=0.0, help="0: greedy")
    group.add_argument("--top_p", type=cli.between(1e-6, 1), default=1.0, help="1: all tokens")
    group.add_argument("--top_k", type=cli.whole(-1, 2**31 - 1), default=0, help="0 or -1: all tokens")
    group.add_argument("--min_p", type=cli.between(0, 1), default=0.0, help="0: all tokens")
    group.add_argument("--presence_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--frequency_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--repetition_penalty", type=cli.between(0.01, 100), default=1.0, help="1: none")
    group.add_argument("--stop", nargs="+", metavar="TEXT", help="texts that end an answer, beside the end of turn")
    group.add_argument("--ignore_eos", action="store_true", help="run to --max_tokens, for measurements")
    group.add_argument(
        "--seed",
        type=cli.whole(0, MAX_SEED),
        default=42,
        help="row r samples with seed + r, whatever else is in the batch; its sample s with 1000003 s more",
    )
    group.add_argument("--n", type=cli.whole(1, 1024), default=1, help="sampled answers of a row")
    group.add_argument(
        "--logprobs", type=cli.whole(0, LOGPROBS), metavar="K", help="write each token's, and of the K likeliest"
    )
    group.add_argument("--json_schema", metavar="FILE", help="answers are JSON (without white space) of this schema")
    group.add_argument("--use_beam_search", action="store_true", help="the best of --num_beams beams; no sampling")
    group.add_argument("--num_beams", type=cli.whole(1, 128), default=4, help="width of the beam search")
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
    from sllm import outputs
    from sllm.data import formats
    from sllm.serve import engine, model_info

    started = time.monotonic()
    engine.set_environment(args.tensor_parallel_size)
    base, adapter, rows, schema, skipped = inputs(args)
    folder, output = adapter or base, Path(args.output_path)

    from sllm import chat

    tokenizer = chat.load_tokenizer(folder)
    template = chat.set_chat_template(tokenizer, args.chat_template)
    chat.check_probe(tokenizer, checkpoint.read_run(folder), folder)
    longest = min(args.max_seq_length, model_info.context_length(base) or args.max_seq_length)
    prompts = render(tokenizer, rows, longest, skipped)  # token ids of each row
    room = [min(args.max_tokens, longest - len(ids)) for ids in prompts]  # tokens for each answer
    stops = model_info.stop_token_ids(tokenizer, base)

    settings = {
        "model": checkpoint.folder_hash(base) or base,
        "adapter": checkpoint.folder_hash(adapter) if adapter else None,
        "chat_template": chat.template_hash(tokenizer),
        "dtype": engine.resolve_dtype(args.dtype, args.quantization),
        "quantization": args.quantization,
        "kv_cache_dtype": None if args.kv_cache_dtype == "auto" else args.kv_cache_dtype,
        "max_seq_length": longest,
        "stop_token_ids": stops,
        **{name: getattr(args, name) for name in ["max_tokens", "ignore_eos", "seed", *PARAMETERS]},
        "n": args.n if args.n > 1 else None,
        "logprobs": args.logprobs,
        "json_schema": schema,
        **({name: getattr(args, name) for name in BEAMS} if args.use_beam_search else {"num_beams": None}),
    }
    record = {
        "parents": [base, *([adapter] if adapter else [])],
        "base_model": base,
        "data": {
            "testset_path": args.testset_path,
            "rows": len(rows),
            "skipped_rows": skipped.rows,
            "settings": settings,
        },
        "chat_template_hash": settings["chat_template"],
    }
    done = outputs.resumable(output, rows, settings) if args.resume else []
    first, todo = len(done), len(rows) - len(done)
    asked = [row for row in range(first, len(rows)) if not skipped.reason(rows[row])]
    precision = [settings["dtype"], args.quantization, f"KV cache {args.kv_cache_dtype}"]
    precision = [part for part in precision if part and part != "KV cache auto"]
    say("model", f"{base}{f' + adapter {adapter}' if adapter else ''}, {', '.join(precision)}, {longest} tokens")
    for note in checkpoint.notes(folder, base):
        say("note", note)
    say("chat template", template)
    say("rows", f"{len(rows)} of {args.testset_path}{f', {first} answered already' if first else ''}")
    for line in [*formats.notes(rows), *skipped.lines()]:
        say("", line)
    short = [room[row] for row in asked if room[row] < args.max_tokens]
    if short:
        say("", f"{len(short)} have room for less than --max_tokens {args.max_tokens}, the longest for {min(short)}")

    load_seconds = work_seconds = 0.0
    llm = None
    if asked:
        lengths = [len(prompts[row]) + room[row] for row in asked for _ in range(args.n)]
        loading = time.monotonic()
        llm = engine.load(
            base,
            adapter=adapter,
            dtype=args.dtype,
            quantization=args.quantization,
            kv_cache_dtype=args.kv_cache_dtype,
            max_model_len=longest,
            gpu_memory_utilization=args.gpu_memory_utilization,
            tensor_parallel_size=args.tensor_parallel_size,
            seed=args.seed,
            enforce_eager=args.enforce_eager,
            kv_tokens=sum(sorted(lengths)[-engine.MAX_ROWS :]) * (args.num_beams if args.use_beam_search else 1),
            num_beams=args.num_beams if args.use_beam_search else 0,
        )
        load_seconds = time.monotonic() - loading
        say("engine", f"ready after {load_seconds:.1f} s")
    complete = not todo and outputs.run_file(output).exists()
    if not complete:
        outputs.begin(output, args, record, keep=bool(done))

    def finished():
        yield from ((row - first, None) for row in range(first, len(rows)) if skipped.reason(rows[row]))
        for row, group in answer(args, llm, prompts, room, asked, stops=stops, adapter=adapter, json_schema=schema):
            yield row - first, group

    def line_of(index: int, group) -> dict:
        row = first + index
        tokens = len(prompts[row])
        if group is None:
            return rows[row] | outputs.skipped(skipped.reason(rows[row]), prompt_tokens=tokens)
        return rows[row] | outputs.fields(tokenizer, group, stops, prompt_tokens=tokens, logprobs=args.logprobs)

    resume = cli.command_line(drop=["--overwrite"], add=["--resume"])
    working = time.monotonic()
    try:
        done += outputs.write_in_order(finished(), line_of, output, todo)
        work_seconds = time.monotonic() - working
        results = outputs.summary(done, todo, work_seconds, load_seconds)
        if not complete:
            outputs.finish(output, args, record, results, time.monotonic() - started)
    except KeyboardInterrupt:
        raise cli.Interrupted(resume) from None
    except InputError as error:
        raise InputError(f"{'; '.join(error.problems)}; what is answered is kept; to go on: {resume}") from error
    return {"stage": "answers", "output_path": str(output), **results}


def answer(args, llm, prompts, room, asked: list[int], *, stops: list[int], adapter: str | None, json_schema):
    """Yield (row, its --n answers) for every row in `asked`, in whatever order they are done."""
    from sllm import generation
    from sllm.serve import engine, sampling

    if not asked:
        return
    ids = [prompts[row] for row in asked for _ in range(args.n)]
    if args.use_beam_search:
        params = [sampling.beam_params(args, max_tokens=room[row]) for row in asked]
        found = engine.beam_search(llm, ids, params, stop_token_ids=stops, adapter=adapter)
    else:
        how = {"stop_token_ids": stops, "json_schema": json_schema}
        params = [
            sampling.sampling_params(
                args, max_tokens=room[row], seed=sampling.seed_of(args.seed, row, sample), **how
            )
            for row in asked
            for sample in range(args.n)
        ]  # fmt: skip
        found = engine.generate(llm, ids, params, adapter=adapter)
    settings = {"stop_token_ids": stops} | sampling.effective_params(params[0]) | {"max_tokens": args.max_tokens}
    settings |= {"seed": f"{args.seed} + row"} if args.temperature else {}
    settings |= {name: getattr(args, name) for name in ("logprobs", "json_schema") if getattr(args, name) is not None}
    settings |= {"n": args.n} if args.n > 1 else {}
    say("in force", " · ".join(f"{name} {value}" for name, value in settings.items()))
    yield from ((asked[at], group) for at, group in generation.grouped(found, args.n))


def inputs(args):
    """Base, adapter or None, rows, JSON schema or None, and what takes the rows that cannot be asked; everything wrong
    with the command line in one go, before heavy imports."""
    from sllm import outputs
    from sllm.data import formats
    from sllm.serve import engine, model_info, sampling

    problems: list[str] = []
    base, adapter, schema = args.model_id, None, None

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
    if args.n > 1 and not args.temperature:
        problems.append(f"--n {args.n}: greedy answers are all the same; sample with --temperature 0.7")
    if not all(args.stop or ["none"]):
        problems.append("--stop: an empty text would end every answer at once; leave it out")
    if args.json_schema and (args.ignore_eos or args.stop):
        problems.append(
            "--json_schema: not with --ignore_eos or --stop, which would cut the JSON or follow it with more"
        )
    attempt(engine.check_precision, args.dtype, args.quantization, args.kv_cache_dtype)
    if args.json_schema:
        schema = attempt(sampling.read_schema, args.json_schema)
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
    if adapter:
        attempt(model_info.check_adapter, adapter, base)
    read = [args.testset_path, Path(args.testset_path) / "test.jsonl", args.json_schema, args.chat_template]
    attempt(outputs.check_output, Path(args.output_path), overwrite=args.overwrite, resume=args.resume, inputs=read)
    skipped = formats.Skipped(args.skip_bad_rows)
    rows = attempt(formats.load_rows, args.testset_path, "prompts", skipped=skipped) or []
    if args.task and rows:
        there = sorted({row["task"] or "none" for row in rows})
        unknown = [task for task in args.task if task not in there]
        if unknown:
            problems.append(f"{args.testset_path} has no row of task {', '.join(unknown)}; it has {', '.join(there)}")
        rows = [row for row in rows if (row["task"] or "none") in args.task]
    if problems:
        raise InputError(problems)
    return base, adapter, rows[: args.limit], schema, skipped


def render(tokenizer, rows: list[dict], longest: int, skipped) -> list[list[int]]:
    """Token ids of every row's prompt. `skipped` takes the rows that the template refuses (they have no ids), and those
    that fill `longest` tokens and leave none for an answer; InputError where they may not be skipped."""
    from sllm import chat

    prompts = []
    for row in rows:
        try:
            chat.refuse_special_tokens(tokenizer, row["messages"])
            prompts.append(chat.prompt_ids(tokenizer, row["messages"]))
            if len(prompts[-1]) >= longest:
                fault = f"its prompt has {len(prompts[-1])} tokens, prompt and answer together may have {longest}"
                skipped.add(row, f"{fault}; shorten it or see --max_seq_length")
        except (InputError, ValueError) as error:
            prompts.append([])
            skipped.add(row, str(error))
    skipped.check()
    return prompts


def say(what: str, value: str) -> None:
    print(f"{what:<16}{value}")


if __name__ == "__main__":
    cli.run(main, build_parser())
