import json
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Annotated, Any

import typer

from nasbench.commands.found import records, write_file
from nasbench.commands.shared import Records
from nasbench.config import dump_config, read_config
from nasbench.errors import NasbenchError, OptionError, RecordError
from nasbench.packs import SUFFIX, write_pack
from nasbench.record import CONFIG, DATA_FILES, ENVIRONMENT, RESULT, STATUS, Record, with_sums
from nasbench.terminal import say

DATA_ROOT = Path("data")  # in the place of this machine's


def command(
    runs: Records,
    output: Annotated[Path, typer.Option("-o", "--output", help=f"File that is written; its name ends in {SUFFIX}.")],
) -> None:
    """Make one compressed file of finished records, without weights and logs, which every command reads in place."""
    if not output.name.endswith(SUFFIX):
        raise OptionError(f"the name of a pack ends in {SUFFIX}, and that of {output} does not")
    packed: dict[str, dict[str, bytes]] = {}
    for folder in runs:
        for path in records(folder):
            inside = path.relative_to(folder).parts or (path.resolve().name,)
            name = "/".join(part.removesuffix(SUFFIX) for part in inside)
            if name in packed:
                raise OptionError(f"two records would both be called {name} in the pack: pack their common folder")
            try:
                packed[name] = _content(Record(path), name)
            except NasbenchError as e:
                say(f"skipped {path}: {e}")
    if not packed:
        raise RecordError(f"there is no finished run in {', '.join(map(str, runs))}")
    content = write_pack(packed)
    with suppress(OSError):  # which writing tells
        if output.read_bytes() != content:
            raise OptionError(f"{output} exists and holds something else: choose another name, or remove it")
    write_file(output, content, f", {len(packed)} record(s), {len(content) / 2**20:.1f} MiB")


def _content(record: Record, name: str) -> dict[str, bytes]:
    """The files of a finished record, without the folders of the machine that made it; else a RecordError."""
    if not record.finished("test"):
        raise RecordError(f"not finished: {record.status().state}")
    record.data(), record.architecture(), record.decisions(), record.environment()  # damaged ones are left out
    files = {file: path.read_bytes() for file in DATA_FILES if (path := record.file(file)) is not None}
    environment = json.loads(files[ENVIRONMENT])
    environment["command"] = [_without_folder(word) for word in environment.get("command", ())]
    # As it was written: settings that the version of the run did not have would change its SHA-256.
    files[CONFIG] = dump_config({**read_config(record.intact(CONFIG)), "data_root": str(DATA_ROOT)}).encode()
    files[ENVIRONMENT] = _json(environment)
    files[RESULT] = _json({**record.result().model_dump(mode="json"), "record": name})
    files[STATUS] = _json(with_sums(json.loads(files[STATUS]), files))
    return files


def _without_folder(word: Any) -> Any:
    """A word of a command; of an absolute path, also behind `--option=`, its last part."""
    before, sign, value = str(word).rpartition("=")
    return f"{before}{sign}{PurePath(value).name}" if PurePath(value).is_absolute() else word


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
