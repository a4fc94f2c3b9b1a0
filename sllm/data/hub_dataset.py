"""`hub:owner/name[:split]` and `hub:owner/name:config:split`: a data set of the Hugging Face Hub, streamed by
`datasets`. Standard library only, until one is opened."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sllm.cli import InputError
from sllm.data.blocks import Block, Parsed, Record
from sllm.data.field_map import FieldMap
from sllm.data.tables import plain

PREFIX = "hub:"
_ROWS = 1000  # in a block
_TIMEOUT = 10  # seconds


class Name(NamedTuple):
    repository: str
    config: str | None
    split: str | None


def parse(text: str) -> Name:
    """InputError for a name that is not valid for a data set."""
    match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+|[\w-]+)(?::([^:]*))?(?::([^:]+))?", text)
    if not match:
        raise InputError(
            f"{text}: a data set of the Hub is named hub:owner/name, hub:owner/name:split or …:config:split"
        )
    repository, second, third = match.groups()
    return Name(repository, (second or None) if third else None, third or second or None)


@dataclass
class HubDataset:
    """`revision`: the commit that is read. `license`: of its card, None where it names none."""

    name: Name
    rows: Any
    split: str
    notes: list[str]
    license: str | None
    revision: str | None

    def read(self, text: str, fields: FieldMap | None) -> Iterator[Block]:
        fields = fields and fields.for_record()
        records: list[Record] = []
        try:
            for number, row in enumerate(self.rows, 1):
                records.append((number, plain(row)))
                if len(records) == _ROWS:
                    yield Parsed(path=text, end=0, fields=fields, parsed=records)
                    records = []
        except Exception as error:  # of any library that it talks through
            if records:
                yield Parsed(path=text, end=0, fields=fields, parsed=records)
            raise _unavailable(text, self.name, error) from None
        if records:
            yield Parsed(path=text, end=0, fields=fields, parsed=records)


def open_dataset(text: str) -> HubDataset:
    """InputError where the Hub cannot be reached or has no such data set, with the command that downloads it."""
    name = parse(text)
    import datasets
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(name.repository, timeout=_TIMEOUT)
        splits = datasets.get_dataset_split_names(name.repository, name.config, revision=info.sha)
        split = name.split or ("train" if "train" in splits else splits[0])
        if split not in splits:
            raise InputError(f"{text}: no split {split!r}; it has {', '.join(splits)}")
        rows = datasets.load_dataset(name.repository, name.config, split=split, revision=info.sha, streaming=True)
    except InputError:
        raise
    except ValueError as error:  # such as a config that has to be named
        raise InputError(
            f"{text}: {_one_line(error)}; a config is named as {PREFIX}{name.repository}:CONFIG:SPLIT"
        ) from None
    except Exception as error:  # of any library that it talks through
        raise _unavailable(text, name, error) from None
    others = [other for other in splits if other != split]
    notes = [f"read is the split {split}, not {', '.join(others)}"] if others and not name.split else []
    notes.append(f"revision {info.sha}")
    return HubDataset(name, rows, split, notes, _license(info), info.sha)


def _license(info: Any) -> str | None:
    named = (getattr(info, "card_data", None) or {}).get("license")
    return ", ".join(named) if isinstance(named, list) else named


def _unavailable(text: str, name: Name, error: Exception) -> InputError:
    folder = name.repository.rpartition("/")[2]
    command = f"hf download {name.repository} --repo-type dataset --local-dir {folder}"
    return InputError(
        f"{text}: cannot be had from the Hub ({_one_line(error)}); check the name, or download it where there is a "
        f"network ({command}) and give the folder: {folder}"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
