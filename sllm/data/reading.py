"""The inputs of a preparation, read block by block into its state."""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from sllm.cli import InputError
from sllm.data import converters, decontamination, readers
from sllm.data.converters import kind_of_format
from sllm.data.curation import Curation
from sllm.data.parallel import ordered_map
from sllm.data.preparation import Preparation, SourceCounts
from sllm.data.readers import Block, Source
from sllm.data.row_batches import Job, work
from sllm.hashes import file_hash
from sllm.progress import stream

KINDS = ("preference", "training")
SAMPLE = 1000  # records from which the format of an input is detected
SMALL = 2**23  # bytes: what is not worth the start of a process


def open_sources(sources: Sequence[SourceCounts], args: Namespace) -> list[Source | None]:
    """Each input, ready to be read; what is wrong with one that cannot be is in its counts."""
    opened: list[Source | None] = []
    fields = readers.field_map(args.field_map) if args.field_map else None
    for counts in sources:
        try:
            source = readers.open_source(counts.path, field_map=fields, encoding=args.encoding)
            counts.kind, counts.notes, counts.revision = source.kind, source.notes, source.revision
            counts.license, counts.files = counts.license or source.license, source.files
            opened.append(source)
        except InputError as error:
            counts.faults += error.problems
            opened.append(None)
    return opened


def read(
    state: Preparation,
    opened: Sequence[Source | None],
    args: Namespace,
    *,
    processes: int = 1,
    first_block: bool = False,
) -> None:
    """Add the rows of all inputs to `state`, from where it is; with `first_block` only those of the first block of
    each. What is wrong with an input is in its counts."""
    sources = [source for source in opened if source]
    size = sum(source.size for source in sources)
    report = stream("row", size)
    before = 0
    state.open()
    try:
        jobs = _jobs(state.sources, opened, args, first_block)
        small = bool(sources) and all(source.size > 0 for source in sources) and size <= SMALL
        for batch in ordered_map(work, jobs, processes=1 if small else processes):
            state.add(batch)
            position = sum(source.position for source in sources)
            report(batch.records, position - before)
            before = position
    finally:
        state.close()
    report(0, 0, finished=True)


def _jobs(
    sources: Sequence[SourceCounts], opened: Sequence[Source | None], args: Namespace, first_block: bool
) -> Iterator[Job]:
    curation = Curation(args)
    for number, (counts, source) in enumerate(zip(sources, opened, strict=True)):
        try:
            blocks = _blocks(counts, source, args.input_format) if source else iter(())
            for block in islice(blocks, 1 if first_block else None):
                yield Job(number, counts.format or "", block, curation)
        except InputError as error:
            counts.faults += error.problems


def _blocks(counts: SourceCounts, source: Source, input_format: str | None) -> Iterator[Block]:
    done = counts.blocks  # of an earlier run
    for number, block in enumerate(source.blocks()):
        if counts.format is None:
            counts.format = input_format or _format(source, block)
        if number >= done:
            yield block


def _format(source: Source, block: Block) -> str:
    sample = [content for _, content in block.records()[:SAMPLE] if isinstance(content, dict)]
    if not sample:  # nothing of it can be read; the next block may be as well
        return next(iter(converters.FORMATS))
    try:
        return converters.detect(sample)
    except ValueError as error:
        raise InputError(f"{source.path}: {error}") from None


def hash_of(source: SourceCounts) -> str | None:
    """Of the contents of all its files; None of a data set of the Hub, which has a revision."""
    hashes = [file_hash(path) for path in source.files]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest() if hashes else None


def open_all(sources: Sequence[SourceCounts], args: Namespace) -> tuple[list[Source], list[decontamination.ItemSet]]:
    """The inputs and the test sets of --decontaminate. InputError with everything that cannot be opened."""
    opened = open_sources(sources, args)
    faults = [fault for one in sources for fault in one.faults]
    try:
        sets = decontamination.read(args.decontaminate)
    except InputError as error:
        faults += error.problems
    if faults:
        raise InputError(faults)
    return [source for source in opened if source], sets


def first_problems(sources: list[SourceCounts], args: Namespace) -> list[str]:
    """What is wrong with the beginning of each input: for a run that will not start, as its flags are wrong."""
    with TemporaryDirectory() as folder:
        read(Preparation(Path(folder), sources), open_sources(sources, args), args, first_block=True)
    return problems(sources, args)


def require_usable(state: Preparation, args: Namespace) -> None:
    """InputError with everything that stops the run, or if no row is left."""
    lines = problems(state.sources, args)
    if not lines and not state.kept.any():
        reasons = sum((one.refused for one in state.sources), Counter[str]())
        lines = [f"no row is left: {', '.join(f'{count:,} {reason}' for reason, count in reasons.most_common())}"]
    if lines:
        raise InputError(lines)


def problems(sources: Sequence[SourceCounts], args: Namespace) -> list[str]:
    lines = [line for one in sources for line in one.problems(strict=args.strict, skip_bad_rows=args.skip_bad_rows)]
    known = [one for one in sources if one.format]
    by_kind = {kind: [one.path for one in known if kind_of_format(one.format or "") == kind] for kind in KINDS}
    if all(by_kind.values()):
        preference, training = (", ".join(by_kind[kind]) for kind in KINDS)
        lines.append(
            f"preference rows ({preference}) and training rows ({training}) cannot share an output; "
            "prepare them in two runs"
        )
    return lines
