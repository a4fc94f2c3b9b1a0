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

    python vllm_inference.py --model_id outputs/demo/merged --testset_path sample_data/world/test_names.jsonl
"""

import time
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError


def build_parser():
    from sllm.serve import flags
    from sllm.serve.engine import LOGPROBS
    from sllm.serve.sampling import MAX_SEED

    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("model")
    group.add_argument("--model_id", help="a merged, base or adapter folder, or a Hub id")
    group.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter on --model_id, or on the base it names itself")
    flags.add_engine_flags(group)
    group.add_argument("--tensor_parallel_size", type=cli.positive_int, default=1, help="GPUs that share the model")
    group = p.add_argument_group("rows")
    group.add_argument("--testset_path", required=True, help="rows: .jsonl, .json, or a prepared folder")
    group.add_argument("--task", nargs="+", metavar="ID", help="only the rows of these tasks")
    group.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N rows")
    group.add_argument("--skip_bad_rows", action="store_true", help="skip rows that cannot be used as prompts, at most "
                       "5 %% of the file")  # fmt: skip
    group = p.add_argument_group("sampling")
    flags.add_sampling_flags(group, temperature=0.0)
    group.add_argument("--stop", nargs="+", metavar="TEXT", help="texts that end an answer, beside the end of turn")
    group.add_argument("--ignore_eos", action="store_true", help="generate --max_tokens tokens, for benchmarks")
    group.add_argument("--seed", type=cli.integer(0, MAX_SEED), default=42, help="row r uses seed + r, its sample s "
                       "seed + r + 1000003 s, whatever else is in the batch")  # fmt: skip
    group.add_argument("--n", type=cli.integer(1, 1024), default=1, help="samples for each row")
    group.add_argument("--logprobs", type=cli.integer(0, LOGPROBS), metavar="K", help="write the log-probability of "
                       "each token and of the K most likely ones")  # fmt: skip
    group.add_argument("--json_schema", metavar="FILE", help="answers are JSON (without white space) of this schema")
    group.add_argument("--use_beam_search", action="store_true", help="the best of --num_beams beams; no sampling")
    group.add_argument("--num_beams", type=cli.integer(1, 128), default=4, help="width of the beam search")
    group.add_argument("--length_penalty", type=cli.between(-10, 10), default=1.0, help="above 1: longer beams; vLLM "
                       "counts the prompt too")  # fmt: skip
    group = p.add_argument_group("output")
    group.add_argument("--output_path", default="outputs.jsonl", help="file to write")
    cli.add_overwrite_flag(group)
    group.add_argument("--resume", action="store_true", help="answer only the rows that --output_path lacks")
    return p


def main(args, load=None, resume: str | None = None) -> dict:
    """`load`: makes the engine, in place of `offline.load`. `resume`: the command that continues this run."""
    from sllm import chat, contamination, output_lines, outputs
    from sllm.data import formats
    from sllm.serve import dtypes, environment, flags, model_info, offline, sampling

    started = time.monotonic()
    environment.set_environment(args.tensor_parallel_size)

    # ── inputs ──
    output, skipped = Path(args.output_path), formats.Skipped(args.skip_bad_rows)
    read = [args.testset_path, Path(args.testset_path) / "test.jsonl", args.json_schema, args.chat_template]
    _, _, (base, adapter), schema, _, rows = cli.collect_errors(
        lambda: offline.check_flags(args, build_parser().get_default),
        lambda: dtypes.check_precision(args.dtype, args.quantization, args.kv_cache_dtype),
        lambda: offline.require_model(args),
        lambda: sampling.read_schema(args.json_schema) if args.json_schema else None,
        lambda: outputs.check_output(output, overwrite=args.overwrite, resume=args.resume, inputs=read),
        lambda: select(formats.load_rows(args.testset_path, "prompts", skipped=skipped), args),
    )
    folder = adapter or base
    tokenizer = chat.load_tokenizer(folder)
    template = chat.set_chat_template(tokenizer, args.chat_template)
    chat.check_probe(tokenizer, checkpoint.read_run(folder), folder)
    context_length = min(args.max_seq_length, model_info.context_length(base) or args.max_seq_length)
    prompts = offline.render(tokenizer, rows, context_length, skipped)  # token ids of each row
    max_new_tokens = [min(args.max_tokens, context_length - len(ids)) for ids in prompts]  # tokens for each answer
    stops = model_info.stop_token_ids(tokenizer, base)

    settings = offline.settings(args, base, adapter, tokenizer, schema, context=context_length, stops=stops)
    record = {
        "parents": [base, *([adapter] if adapter else [])],
        "base_model": base,
        "data": {"testset_path": args.testset_path, "rows": len(rows), "skipped_rows": skipped.rows,
                 "settings": settings},
        "chat_template_hash": settings["chat_template"],
    }  # fmt: skip
    done = outputs.resumable(output, rows, settings) if args.resume else []
    first, todo = len(done), len(rows) - len(done)
    pending = [row for row in range(first, len(rows)) if not skipped.reason(rows[row])]
    with_adapter = f" + adapter {adapter}" if adapter else ""
    cli.say("model", f"{base}{with_adapter}, {flags.precision(args)}, {context_length} tokens")
    items = [contamination.item_of(row["messages"], row["reference"]) for row in rows]
    for note in [*checkpoint.notes(folder, base), *contamination.notes(folder, items)]:
        cli.say("note", note)
    cli.say("chat template", template)
    cli.say("rows", f"{len(rows)} of {args.testset_path}{f', {first} answered already' if first else ''}")
    for line in [*formats.notes(rows), *skipped.lines()]:
        cli.say("", line)
    short = [max_new_tokens[row] for row in pending if max_new_tokens[row] < args.max_tokens]
    if short:
        limit = f"--max_tokens {args.max_tokens}"
        cli.say("", f"{len(short)} rows leave fewer than {limit} tokens for the answer, the longest {min(short)}")

    load_seconds = work_seconds = 0.0
    llm = None
    if pending:
        lengths = [len(prompts[row]) + max_new_tokens[row] for row in pending for _ in range(args.n)]
        loading = time.monotonic()
        llm = (load or offline.load)(args, base, adapter, context_length, lengths)
        load_seconds = time.monotonic() - loading
        cli.say("engine", f"ready after {load_seconds:.1f} s")
    complete = not todo and outputs.run_file(output).exists()
    if not complete:
        outputs.begin(output, args, record, keep=bool(done))

    def finished():
        yield from ((row - first, None) for row in range(first, len(rows)) if skipped.reason(rows[row]))
        answers = offline.answer(
            args, llm, prompts, max_new_tokens, pending, stops=stops, adapter=adapter, json_schema=schema
        )
        yield from ((row - first, group) for row, group in answers)

    def line_of(index: int, group) -> dict:
        row = first + index
        tokens = len(prompts[row])
        if group is None:
            return rows[row] | output_lines.skipped(skipped.reason(rows[row]), prompt_tokens=tokens)
        return rows[row] | output_lines.fields(tokenizer, group, stops, prompt_tokens=tokens, logprobs=args.logprobs)

    resume = resume or cli.command_line(drop=["--overwrite"], add=["--resume"])
    working = time.monotonic()
    try:
        done += outputs.write_in_order(finished(), line_of, output, todo)
        work_seconds = time.monotonic() - working
        results = output_lines.summary(done, todo, work_seconds, load_seconds)
        if not complete:
            outputs.finish(output, args, record, results, time.monotonic() - started)
    except KeyboardInterrupt:
        raise cli.Interrupted(resume) from None
    except InputError as error:
        raise InputError(f"{'; '.join(error.problems)}; what is answered is kept; to resume: {resume}") from error
    return {"stage": "answers", "output_path": str(output), **results}


def select(rows: list[dict], args) -> list[dict]:
    """The rows of --task and --limit."""
    if args.task:
        labels = sorted({row["task"] or "none" for row in rows})
        unknown = [task for task in args.task if task not in labels]
        if unknown:
            raise InputError(f"{args.testset_path} has no {', '.join(unknown)}, only {', '.join(labels)}")
        rows = [row for row in rows if (row["task"] or "none") in args.task]
    return rows[: args.limit]


if __name__ == "__main__":
    cli.run(main, build_parser())
