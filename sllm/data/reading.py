"""The files of a preparation, read block by block into its state."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from sllm.cli import InputError
from sllm.data import converters, readers
from sllm.data.curation import Curation
from sllm.data.parallel import ordered_map
from sllm.data.preparation import FileCounts, Preparation
from sllm.data.readers import Block, Source
from sllm.data.row_batches import Job, work
from sllm.progress import stream

SAMPLE = 1000  # records from which the format of a file is detected
SMALL = 2**23  # bytes: what is not worth the start of a process


def read(state: Preparation, args: Namespace, *, processes: int = 1, first_block: bool = False) -> None:
    """Add the rows of all files to `state`, from where it is; with `first_block` only those of the first block of each.
    What is wrong with a file is in its counts."""
    size = size_of(state.files)
    report = stream("row", size)
    state.open()
    try:
        jobs = _jobs(state.files, args, first_block)
        for batch in ordered_map(work, jobs, processes=processes if size > SMALL else 1):
            state.add(batch)
            report(batch.records, batch.size)
    finally:
        state.close()
    report(0, 0, finished=True)


def _jobs(files: Sequence[FileCounts], args: Namespace, first_block: bool) -> Iterator[Job]:
    curation = Curation(args)
    for number, file in enumerate(files):
        try:
            for block in islice(_blocks(file, args.input_format), 1 if first_block else None):
                yield Job(number, file.format or "", block, curation)
        except InputError as error:
            file.faults += error.problems


def _blocks(file: FileCounts, input_format: str | None) -> Iterator[Block]:
    done = file.blocks  # of an earlier run
    source = readers.open_source(file.path)
    file.kind, file.notes = source.kind, source.notes
    file.license = file.license or source.license
    for count, block in enumerate(source.blocks()):
        if file.format is None:
            file.format = input_format or _format(source, block)
        if count >= done:
            yield block


def _format(source: Source, block: Block) -> str:
    sample = [content for _, content in block.records()[:SAMPLE] if isinstance(content, dict)]
    if not sample:  # nothing of it can be read; the next block may be as well
        return next(iter(converters.FORMATS))
    try:
        return converters.detect(sample, source.path)
    except ValueError as error:
        raise InputError(f"{source.path}: {error}") from None


def size_of(files: Sequence[FileCounts]) -> int:
    """Bytes of all files, as they are on disk."""
    return sum(Path(file.path).stat().st_size for file in files if Path(file.path).is_file())


def first_problems(files: list[FileCounts], args: Namespace) -> list[str]:
    """What is wrong with the beginning of each file: for a run that will not start, as its flags are wrong."""
    with TemporaryDirectory() as folder:
        read(Preparation(Path(folder), files), args, first_block=True)
    return problems(files, args)


def require_usable(files: Sequence[FileCounts], args: Namespace) -> None:
    """InputError with everything that stops the run."""
    if lines := problems(files, args):
        raise InputError(lines)


def problems(files: Sequence[FileCounts], args: Namespace) -> list[str]:
    lines = [line for file in files for line in file.problems(strict=args.strict, skip_bad_rows=args.skip_bad_rows)]
    preference = [file.path for file in files if file.format == "preference"]
    training = [file.path for file in files if file.format not in (None, "preference")]
    if preference and training:
        lines.append(
            f"preference rows ({', '.join(preference)}) and training rows ({', '.join(training)}) cannot share an "
            "output; prepare them in two runs"
        )
    return lines
