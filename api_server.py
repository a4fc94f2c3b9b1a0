"""Serve models over HTTP as OpenAI's API: a merged or base model, and LoRA adapters side by side on their base.

Reads the model's folder (or Hub id) and its chat template. Writes nothing but a log: one JSON object a request, on
stderr. Any OpenAI client works with it, at http://HOST:PORT/v1; /docs describes every endpoint, /v1/tasks the 23 tasks.

    python api_server.py --model_id outputs/demo/merged
    python api_server.py --model_id outputs/demo/base --lora_modules sft=outputs/demo/sft dpo=outputs/demo/dpo
"""

import os
import signal
from pathlib import Path

from sllm import checkpoint, cli
from sllm.cli import InputError

SAMPLING = "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty".split()


def build_parser():
    from sllm.serve.engine import KV_CACHE_DTYPES, QUANTIZATIONS
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
    group = p.add_argument_group("sampling, where a request says nothing")
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
    group = p.add_argument_group("who may ask")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=cli.whole(0, 65535), default=8000, help="0: any free one")
    group.add_argument(
        "--api_key", action="append", default=[], metavar="[NAME:]KEY",
        help="may be repeated; better in SLLM_API_KEYS (separated by commas), which process lists do not show",
    )  # fmt: skip
    group.add_argument("--allow_anonymous", action="store_true", help="other machines may ask without a key")
    group.add_argument("--allowed_origins", nargs="+", default=[], metavar="URL", help="web pages that may ask (CORS)")
    group.add_argument("--rate_limit_rpm", type=cli.positive_int, metavar="N", help="requests a minute for each key")
    group.add_argument("--max_body_mb", type=cli.positive_float, default=4.0, help="largest request")
    group = p.add_argument_group("load")
    group.add_argument(
        "--max_running", type=cli.positive_int, default=256, help="sequences in a batch, for each copy of the model"
    )
    group.add_argument(
        "--max_waiting", type=cli.whole(0, 2**31 - 1), default=256, help="sequences behind them; past both: 429"
    )
    group.add_argument("--request_timeout", type=cli.positive_float, default=600.0, help="seconds; then 504")
    group.add_argument(
        "--drain_seconds", type=cli.nonnegative_float, default=30.0, help="for running answers on SIGTERM"
    )
    group.add_argument("--log_prompts", action="store_true", help="write prompts to the log")
    return p


def main(args) -> dict | None:
    from sllm.serve import engine

    engine.set_environment(args.tensor_parallel_size, server=True)
    keys, base, adapters = inputs(args)

    from sllm.serve import life, limits, online
    from sllm.serve.service import Service

    models, context = load_models(args, base, adapters)
    sock = life.bind(args.host, args.port)
    defaults = {name: getattr(args, name) for name in [*SAMPLING, "max_tokens"]}
    seats = limits.Seats(args.max_running * args.data_parallel_size, args.max_waiting)
    service = Service(models, defaults=defaults, context=context, seats=seats, timeout=args.request_timeout)
    address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{sock.getsockname()[1]}"

    for model in models:
        say("model", f"{model.name}: {model.kind}, chat template {model.chat_template}")
    for note in dict.fromkeys(note for model in models for note in checkpoint.notes(model.adapter or base, base)):
        say("note", note)
    precision = [engine.resolve_dtype(args.dtype, args.quantization), args.quantization]
    precision += [f"KV cache {args.kv_cache_dtype}"] if args.kv_cache_dtype != "auto" else []
    say("engine", f"{', '.join(filter(None, precision))}, {context} tokens of context")
    say("places", f"{args.max_running} running, {args.max_waiting} waiting")
    say("sampling", " · ".join(f"{name} {value}" for name, value in defaults.items()))
    say("keys", ", ".join(keys.names) if keys else "none: whoever reaches this address may ask")
    say("loading", f"{address}/ready says when it is done")

    def load():
        return online.start(
            base,
            {model.name: model.adapter for model in models if model.adapter},
            dtype=args.dtype,
            quantization=args.quantization,
            kv_cache_dtype=args.kv_cache_dtype,
            max_model_len=context,
            max_running=args.max_running,
            kv_tokens=args.max_running * context,
            enforce_eager=args.enforce_eager,
            gpu_memory_utilization=args.gpu_memory_utilization,
            seed=args.seed,
            parallel={
                name: getattr(args, name)
                for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
            }
            | {"distributed_executor_backend": args.distributed_executor_backend},
        )

    from sllm.serve import app as web
    from sllm.serve import gate

    app = gate.Gate(
        web.create(service, log_prompts=args.log_prompts),
        keys=keys,
        rate=limits.RateLimit(args.rate_limit_rpm),
        max_body=int(args.max_body_mb * 2**20),
        seats=seats,
    )
    if args.allowed_origins:
        from starlette.middleware.cors import CORSMiddleware

        app = CORSMiddleware(
            app,
            args.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    log = gate.start_log()
    server = life.Server(
        app, service, load=load, drain_seconds=args.drain_seconds,
        ready=lambda: say("ready", f"{address}/v1  ({address}/docs)"),
    )  # fmt: skip
    try:
        server.run(sockets=[sock])
    finally:
        log.stop()
        if service.llm is not None:
            service.llm.shutdown(timeout=0)
    if server.problem:
        raise server.problem
    if service.state == "dead":
        raise SystemExit(1)
    if server.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    return {"stage": "served", "address": address}


def inputs(args):
    """Keys, base and {name: adapter}; everything wrong with the command line in one go, before heavy imports."""
    from sllm.serve import engine, limits, model_facts

    problems: list[str] = []
    base, adapters, keys = args.model_id, {}, None

    def attempt(function, *values, **named):
        try:
            return function(*values, **named)
        except InputError as error:
            problems.extend(error.problems)

    given = [*args.api_key, *(key.strip() for key in os.environ.get("SLLM_API_KEYS", "").split(",") if key.strip())]
    keys = attempt(limits.Keys, given)
    if not given and not args.allow_anonymous and not cli.is_loopback(args.host):
        problems.append(
            f"--host {args.host} lets other machines ask; give them a key (SLLM_API_KEYS or --api_key), "
            "or say --allow_anonymous"
        )
    if args.max_seq_length < 16:
        problems.append(f"--max_seq_length {args.max_seq_length} leaves no room for a prompt and an answer")
    base, adapter = attempt(checkpoint.require_model, args.model_id) or (base, None)
    if adapter:
        adapters[args.served_model_name or Path(adapter).resolve().name] = adapter
    for pair in args.lora_modules:
        name, found, folder = pair.partition("=")
        if not found or not name or not checkpoint.is_adapter(folder):
            problems.append(f"--lora_modules {pair} is not NAME=FOLDER with an adapter in it (adapter_config.json)")
        elif name in adapters:
            problems.append(f"--lora_modules has {name} twice")
        else:
            adapters[name] = folder
            attempt(checkpoint.require_model, folder, base_model=base)
    attempt(engine.check_precision, args.dtype, args.quantization, args.kv_cache_dtype)
    for folder in adapters.values():
        attempt(model_facts.check_adapter, folder, base)
        attempt(checkpoint.require_base, folder, base)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return keys, base, adapters


def load_models(args, base: str, adapters: dict[str, str]):
    """The served models, each with the tokenizer and template of its own folder, and the context in tokens."""
    from sllm import chat
    from sllm.serve import model_facts
    from sllm.serve.service import Model

    def model(name: str, folder: str, parent: str | None) -> Model:
        tokenizer = chat.load_tokenizer(folder)
        template = chat.install_template(tokenizer, args.chat_template)
        record = checkpoint.read_run(folder)
        chat.check_probe(tokenizer, record, folder)
        kind = record["stage"] if record else "adapter" if parent else "model"
        stops = model_facts.stop_ids(tokenizer, base)
        return Model(name, kind, folder if parent else None, tokenizer, stops, template, parent)

    own = None if checkpoint.is_adapter(args.model_id) else args.served_model_name
    name = own or (Path(base).resolve().name if Path(base).exists() else base)
    if name in adapters:
        raise InputError(f"the model and an adapter are both called {name}; choose --served_model_name")
    models = cli.gather(
        lambda: model(name, base, None),
        *(lambda n=n, folder=folder: model(n, folder, name) for n, folder in adapters.items()),
    )
    for other in models[1:]:
        if other.tokenizer.get_vocab() != models[0].tokenizer.get_vocab():
            raise InputError(f"adapter {other.adapter} has another vocabulary than {base}: it is of another base")
    if checkpoint.is_adapter(args.model_id):  # the model that was named comes first
        models = [*models[1:], models[0]]
    return models, min(args.max_seq_length, model_facts.context_length(base) or args.max_seq_length)


def say(what: str, value: str) -> None:
    print(f"{what:<16}{value}", flush=True)


if __name__ == "__main__":
    cli.run(main, build_parser())
