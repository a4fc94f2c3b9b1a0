"""Accept a folder of ours as it is now: hash its files again and write that to its run.json.

For a config or a template that was edited on purpose, a folder of an older version, or an adapter that is to be used
on another base than the one it was trained on. What was accepted, and when, stays in run.json.

    python -m sllm.accept outputs/merged
"""

from datetime import UTC, datetime
from pathlib import Path

from sllm import checkpoint, cli, finite, hashes, runs


def build_parser():
    p = cli.parser(__doc__, "-m sllm.accept")
    p.add_argument("folder", help="a folder with run.json")
    p.add_argument("--base_model", metavar="ID", help="an adapter's base from now on: a folder, or a Hub id")
    return p


def main(args) -> dict:
    import json

    folder = Path(args.folder)
    record = checkpoint.read_run(folder)
    if record is None:
        raise cli.InputError(f"{folder} has no {checkpoint.RUN_FILE}: there is nothing to accept it against")
    if args.base_model and not hashes.is_adapter(folder):
        raise cli.InputError(f"--base_model: {folder} is not an adapter")
    changed = runs.changes(folder, record.get("files") or {})
    missing = [
        name for name, change in changed.items() if change == "is missing" and name.endswith((".safetensors", ".bin"))
    ]
    if missing or not hashes.deciding_files(folder):
        raise cli.InputError(f"{folder} no longer has {', '.join(missing) or 'its files'}, which cannot be accepted")
    broken = finite.problems(folder)
    if broken:
        raise cli.InputError(broken)
    base = args.base_model
    if base and checkpoint.require_model(base)[1]:
        raise cli.InputError(f"--base_model {base} is an adapter itself; name its base")
    if hashes.is_adapter(folder) and not (base or (record.get("base") or {}).get("weights")):
        base = hashes.read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "files": sorted(changed), "base": base}
    if base:
        record["base"] = checkpoint.base_record(folder, base)
    if args.base_model:
        config = hashes.read_json(folder / "adapter_config.json") | {"base_model_name_or_path": record["base"]["path"]}
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        checkpoint.write_atomically(folder / "adapter_config.json", text)
    record["files"] = runs.recorded(folder)
    record["accepted"] = [*record.get("accepted", []), entry]
    text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    checkpoint.write_atomically(folder / checkpoint.RUN_FILE, text)
    for name, change in changed.items():
        print(f"{folder / name} {change}")
    return {"stage": "accepted", "folder": str(folder), "files": sorted(changed), "base": base}


if __name__ == "__main__":
    cli.run(main, build_parser())
