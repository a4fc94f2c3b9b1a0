"""Serve models over HTTP as OpenAI's API: a merged or base model, and LoRA adapters side by side on their base.

Reads the model's folder (or Hub id) and its chat template. Writes nothing but a log: one JSON object a request, on
stderr. Any OpenAI client works with it, at http://HOST:PORT/v1; /docs describes every endpoint, /v1/tasks the 23 tasks.

    python api_server.py --model_id outputs/demo/merged
    python api_server.py --model_id outputs/demo/base --lora_modules sft=outputs/demo/sft dpo=outputs/demo/dpo

With an admin key adapters are loaded, replaced and unloaded while it runs (POST /v1/load_lora_adapter).
"""

import os
import signal
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError

SAMPLING = "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty".split()


def build_parser():
    from sllm.serve.engine import KV_CACHE_DTYPES, QUANTIZATIONS
    from sllm.serve.model_info import LORA_RANKS
    from sllm.serve.sampling import MAX_SEED

    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("model")
    group.add_argument("--model_id", required=True, help="a merged, base or adapter folder, or a Hub id")
    group.add_argument(
        "--lora_modules", nargs="+", default=[], metavar="NAME=FOLDER", help="adapters of --model_id, served under NAME"
    )
    group.add_argument("--served_model_name", metavar="NAME", help="of --model_id; default: its folder's name")
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
    group.add_argument(
        "--gpu_memory_utilization", type=cli.between(0.01, 1), default=0.9, help="share of the GPU's memory"
    )
    group.add_argument("--enforce_eager", action=cli.BOOLEAN, default=None, help="do not compile; always so on a CPU")
    group.add_argument("--seed", type=cli.whole(0, MAX_SEED), default=0, help="of answers whose request has none")
    group = p.add_argument_group("more than one accelerator (vLLM's own)")
    for name, what in (
        ("tensor_parallel_size", "accelerators that share each layer"),
        ("pipeline_parallel_size", "groups of accelerators that share the layers out"),
        ("data_parallel_size", "copies of the model"),
    ):
        group.add_argument(f"--{name}", type=cli.positive_int, default=1, help=what)
    group.add_argument(
        "--distributed_executor_backend", choices=("mp", "ray", "uni"), help="ray: over several machines"
    )
    group = p.add_argument_group("request defaults")
    group.add_argument(
        "--max_tokens", type=cli.positive_int, default=1024, help="of an answer, where the context has room"
    )
    group.add_argument("--temperature", type=cli.between(0, 2), default=1.0, help="0: greedy")
    group.add_argument("--top_p", type=cli.between(1e-6, 1), default=1.0, help="1: all tokens")
    group.add_argument("--top_k", type=cli.whole(-1, 2**31 - 1), default=0, help="0 or -1: all tokens")
    group.add_argument("--min_p", type=cli.between(0, 1), default=0.0, help="0: all tokens")
    group.add_argument("--presence_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--frequency_penalty", type=cli.between(-2, 2), default=0.0, help="0: none")
    group.add_argument("--repetition_penalty", type=cli.between(0.01, 100), default=1.0, help="1: none")
    group = p.add_argument_group("tools and reasoning")
    group.add_argument(
        "--tool_call_parser", metavar="NAME", help="vLLM's parser of the calls that this family writes, such as hermes"
    )
    group.add_argument(
        "--reasoning_parser", metavar="NAME", help="vLLM's parser of this family's reasoning, such as qwen3"
    )
    group = p.add_argument_group("LoRA while running")
    group.add_argument("--max_loras", type=cli.whole(0, 1024), default=0, help="adapters; 0: those of --lora_modules, "
                       "and 8 where there is an admin key")  # fmt: skip
    group.add_argument(
        "--max_lora_rank",
        type=int,
        choices=(0, *LORA_RANKS),
        default=0,
        metavar="N",
        help="0: that of --lora_modules, and at least 64 where there is an admin key",
    )
    group = p.add_argument_group("access control")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=cli.whole(0, 65535), default=8000, help="0: any free one")
    group.add_argument(
        "--api_key", action="append", default=[], metavar="[NAME:]KEY",
        help="may be repeated; better in SLLM_API_KEYS (separated by commas), which process lists do not show",
    )  # fmt: skip
    group.add_argument("--api_keys_file", metavar="FILE", help="one [NAME:]KEY a line; read again on SIGHUP")
    group.add_argument(
        "--admin_key", action="append", default=[], metavar="[NAME:]KEY",
        help="for loading and unloading adapters; better in SLLM_ADMIN_KEY. Without one that is off",
    )  # fmt: skip
    group.add_argument("--allow_anonymous", action="store_true", help="other machines may ask without a key")
    group.add_argument("--allowed_hosts", nargs="+", default=[], metavar="NAME", help="names that the Host header may "
                       "have; default: loopback names where --host is one, else any")  # fmt: skip
    group.add_argument("--allowed_origins", nargs="+", default=[], metavar="URL", help="web pages that may ask (CORS)")
    group.add_argument("--rate_limit_rpm", type=cli.positive_int, metavar="N", help="requests a minute for each key")
    group.add_argument("--max_body_mb", type=cli.positive_float, default=4.0, help="largest request")
    group = p.add_argument_group("load")
    group.add_argument(
        "--max_num_seqs",
        "--max_running",
        type=cli.positive_int,
        default=256,
        help="sequences in a batch, for each copy of the model",
    )
    group.add_argument(
        "--max_waiting", type=cli.whole(0, 2**31 - 1), default=256, help="sequences behind them; past both: 429"
    )
    group.add_argument("--request_timeout", type=cli.positive_float, default=600.0, help="seconds; then 504")
    group.add_argument(
        "--shutdown_timeout",
        "--drain_seconds",
        type=cli.nonnegative_float,
        default=30.0,
        help="for running answers on SIGTERM",
    )
    group.add_argument("--strict", action="store_true", help="refuse unknown fields, which are else named and ignored")
    group.add_argument("--log_prompts", action="store_true", help="write prompts to the log")
    return p


def main(args) -> dict | None:
    from sllm.serve import engine

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server runs, which reads the keys again on it
    engine.set_environment(args.tensor_parallel_size, server=True)
    access_options, base, adapters = inputs(args)

    from sllm.serve import access_log, admission, engine_client, lifecycle, model_info, models
    from sllm.serve import app as web

    # ── the models ──
    context = min(args.max_seq_length, model_info.context_length(base) or args.max_seq_length)
    served = models.read_models(args.model_id, base, adapters, name=args.served_model_name, template=args.chat_template)
    room = lora_room(args, list(adapters.values()), bool(access_options["admin"]))
    defaults = {name: getattr(args, name) for name in [*SAMPLING, "max_tokens"]}
    parsers = {"tool_parser": args.tool_call_parser, "reasoning_parser": args.reasoning_parser}
    registry = models.Models(
        base, served, defaults=defaults, context=context, chat_template=args.chat_template, parsers=parsers, **room
    )

    # ── the app ──
    sock = lifecycle.bind(args.host, args.port)
    address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{sock.getsockname()[1]}"
    describe(args, served, base, context, defaults, access_options, address)
    capacity = admission.Capacity(args.max_num_seqs * args.data_parallel_size, args.max_waiting)
    app, lean = web.create(registry, capacity, lambda: server.state)
    whole, requests = web.with_middleware(
        app,
        lean,
        running_options={"capacity": capacity, "timeout": args.request_timeout, "log_prompts": args.log_prompts},
        access_options=access_options,
        body_options={"max_bytes": int(args.max_body_mb * 2**20), "strict": args.strict},
    )

    # ── the engine ──
    def load():
        return engine_client.start(
            base,
            adapters=list(adapters.values()),
            dtype=args.dtype,
            quantization=args.quantization,
            kv_cache_dtype=args.kv_cache_dtype,
            max_model_len=context,
            max_num_seqs=args.max_num_seqs,
            kv_tokens=args.max_num_seqs * context,
            enforce_eager=args.enforce_eager,
            gpu_memory_utilization=args.gpu_memory_utilization,
            seed=args.seed,
            tool_call_parser=args.tool_call_parser,
            reasoning_parser=args.reasoning_parser,
            parallel={
                name: getattr(args, name)
                for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
            }
            | {"distributed_executor_backend": args.distributed_executor_backend},
            **room,
        )

    listener = access_log.start()
    server = lifecycle.Server(
        whole, registry, requests, load=load, shutdown_timeout=args.shutdown_timeout,
        ready=lambda: say("ready", f"{address}/v1  ({address}/docs)"),
        reload=lambda: reload_keys(access_options["keys"]),
    )  # fmt: skip
    try:
        server.run(sockets=[sock])
    finally:
        listener.stop()
        if server.llm is not None:
            server.llm.shutdown(timeout=0)
    if server.problem:
        raise server.problem
    if server.state == "dead":
        raise SystemExit(1)
    if server.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    return {"stage": "served", "address": address}


def inputs(args):
    """Options of the access control, base and {name: adapter}; everything wrong with the command line in one go,
    before heavy imports."""
    from sllm.serve import access, engine, models, parsers

    problems: list[str] = []
    base, adapters = args.model_id, {}

    def attempt(function, *values, **named):
        try:
            return function(*values, **named)
        except InputError as error:
            problems.extend(error.problems)

    keys = attempt(access.Keys, from_environment(args.api_key, "SLLM_API_KEYS"), args.api_keys_file)
    admin = attempt(access.Keys, from_environment(args.admin_key, "SLLM_ADMIN_KEY"))
    origins = [attempt(access.check_origin, origin) for origin in args.allowed_origins]
    loopback = cli.is_loopback(args.host)
    if not keys and not args.allow_anonymous and not loopback:
        problems.append(
            f"--host {args.host} lets other machines ask; give them a key (SLLM_API_KEYS, --api_keys_file or "
            "--api_key), or say --allow_anonymous"
        )
    hosts = {host.lower() for host in args.allowed_hosts} or None
    if loopback:
        hosts = (hosts or set()) | {*access.LOOPBACK, args.host.lower()}
    if args.max_seq_length < 16:
        problems.append(f"--max_seq_length {args.max_seq_length} leaves no room for a prompt and an answer")
    base, adapter = attempt(checkpoint.require_model, args.model_id) or (base, None)
    if adapter:
        adapters[args.served_model_name or Path(adapter).resolve().name] = adapter
    for pair in args.lora_modules:
        name, equals, folder = pair.partition("=")
        if not equals or not name or not checkpoint.is_adapter(folder):
            problems.append(f"--lora_modules {pair} is not NAME=FOLDER with an adapter in it (adapter_config.json)")
        elif name in adapters:
            problems.append(f"--lora_modules has {name} twice")
        else:
            adapters[name] = folder
            attempt(checkpoint.require_model, folder, base_model=base)
    if args.max_loras and not adapters and not admin:
        problems.append("--max_loras: no adapter can come without --lora_modules or an --admin_key")
    if args.max_loras and args.max_loras < len(adapters):
        problems.append(f"--max_loras {args.max_loras} is less than the {len(adapters)} adapters to serve")
    attempt(engine.check_precision, args.dtype, args.quantization, args.kv_cache_dtype)
    attempt(parsers.check, args.tool_call_parser, args.reasoning_parser)
    for folder in adapters.values():
        attempt(models.check_adapter, folder, base)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    rate = access.RateLimit(args.rate_limit_rpm)
    return {"hosts": hosts, "origins": origins, "keys": keys, "admin": admin, "rate": rate}, base, adapters


def from_environment(given: list[str], name: str) -> list[str]:
    return [*given, *(key.strip() for key in os.environ.get(name, "").split(",") if key.strip())]


def reload_keys(keys) -> None:
    from sllm.serve.access_log import log

    try:
        keys.read()
        log.info("API keys read again", extra={"fields": {"keys": keys.names}})
    except InputError as error:
        log.error(f"API keys stay as they are: {error}")


def lora_room(args, adapters: list[str], runtime: bool) -> dict:
    """How many adapters the engine has room for, and of which rank."""
    from sllm.serve import model_info

    if not runtime:
        return {"max_loras": args.max_loras or len(adapters), "max_lora_rank": args.max_lora_rank}
    rank = max([args.max_lora_rank or 64, *(model_info.lora_rank(folder) for folder in adapters)])
    rank = min(known for known in model_info.LORA_RANKS if known >= rank)
    return {"max_loras": args.max_loras or max(8, len(adapters)), "max_lora_rank": rank}


def describe(args, served, base, context, defaults, access_options, address) -> None:
    """What is about to be served, and how, as a table."""
    from sllm.serve import engine

    for model in served:
        say("model", f"{model.name}: {model.kind}, chat template {model.chat_template}")
    for note in dict.fromkeys(note for model in served for note in checkpoint.notes(model.adapter or base, base)):
        say("note", note)
    precision = [engine.resolve_dtype(args.dtype, args.quantization), args.quantization]
    precision += [f"KV cache {args.kv_cache_dtype}"] if args.kv_cache_dtype != "auto" else []
    say("engine", f"{', '.join(filter(None, precision))}, {context} tokens of context")
    say("capacity", f"{args.max_num_seqs} running, {args.max_waiting} waiting")
    say("sampling", " · ".join(f"{name} {value}" for name, value in defaults.items()))
    keys, admin = access_options["keys"], access_options["admin"]
    say("keys", ", ".join(keys.names) if keys else "none: authentication disabled")
    if admin:
        say("admin keys", ", ".join(admin.names))
    say("loading", f"{address}/ready says when it is done")


def say(what: str, value: str) -> None:
    print(f"{what:<16}{value}", flush=True)


if __name__ == "__main__":
    cli.run(main, build_parser())
