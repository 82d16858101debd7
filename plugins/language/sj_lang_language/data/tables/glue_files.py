"""The tasks of GLUE (Wang et al. 2019, arXiv 1804.07461), and where their tables are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sj_lang.errors import UserError
from sj_lang.hf import HUB
from sj_lang_language.data import hub
from sj_lang_language.data.tables import table_files
from sj_lang_language.data.tables.table_files import DataTable
from sj_lang_language.data.text.text_files import read_file

REPOSITORY = "hub:nyu-mll/glue"
PARTS = ("train", "dev", "dev_mm", "test", "test_mm", "ax")
#: the hub's names of the parts, and of the parts of MNLI
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_SPLITS_OF_PAIR = {
    "train": "train",
    "dev": "validation_matched",
    "dev_mm": "validation_mismatched",
    "test": "test_matched",
    "test_mm": "test_mismatched",
}
_TSV = {"train": ["train.tsv"], "dev": ["dev.tsv", "dev_from_train.tsv"], "test": ["test.tsv"]}
_TSV_OF_PAIR = {
    "train": ["train.tsv"],
    "dev": ["dev_matched.tsv"],
    "dev_mm": ["dev_mismatched.tsv"],
    "test": ["test_matched.tsv"],
    "test_mm": ["test_mismatched.tsv"],
}
_DIAGNOSTIC = ("AX/diagnostic.tsv", "AX/test.tsv", "diagnostic/diagnostic.tsv", "MNLI/diagnostic.tsv", "diagnostic.tsv")


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One task. folder: of the TSV layout. text, label: its columns.

    labels: class names in the order of their numbers; empty for scores from 0 to 5. hub_text: the
    columns in the hub's parquet; (): `text`. figures: what GLUE reports; the first one chooses the
    checkpoint. named: a submission holds class names, not numbers. submissions: those that are not
    called FOLDER.tsv. rows: of GLUE's test sets. tsv, splits: part -> its files in the TSV layout,
    and its name on the hub.
    """

    folder: str
    text: tuple[str, ...]
    hub_text: tuple[str, ...] = ()
    label: str = "label"
    labels: tuple[str, ...] = ()
    figures: tuple[str, ...] = ("accuracy",)
    named: bool = False
    submissions: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    tsv: Mapping[str, list[str]] = field(default_factory=lambda: _TSV)
    splits: Mapping[str, str] = field(default_factory=lambda: _SPLITS)

    def file_of(self, part: str) -> str:
        """The file of the predictions on a part, named as GLUE asks if it is a submission."""
        usual = f"{self.folder}.tsv" if part == "test" else f"{part}.tsv"
        return self.submissions.get(part, usual)


_PAIR = ("sentence1", "sentence2")
_NLI = ("entailment", "neutral", "contradiction")
_MNLI = GlueTask(
    folder="MNLI",
    text=_PAIR,
    hub_text=("premise", "hypothesis"),
    label="gold_label",
    labels=_NLI,
    named=True,
    submissions={"test": "MNLI-m.tsv", "test_mm": "MNLI-mm.tsv", "ax": "AX.tsv"},
    rows={"test": 9796, "test_mm": 9847, "ax": 1104},
    tsv=_TSV_OF_PAIR,
    splits=_SPLITS_OF_PAIR,
)
SPECS: Mapping[str, GlueTask] = {
    "cola": GlueTask(
        folder="CoLA",
        text=("sentence",),
        labels=("unacceptable", "acceptable"),
        figures=("matthews", "accuracy"),
        columns=("source", "label", "mark", "sentence"),  # its train and dev have no header line
        rows={"test": 1063},
    ),
    "sst2": GlueTask(folder="SST-2", text=("sentence",), labels=("negative", "positive"), rows={"test": 1821}),
    "mrpc": GlueTask(
        folder="MRPC",
        text=("#1 String", "#2 String"),
        hub_text=_PAIR,
        label="Quality",
        labels=("not_equivalent", "equivalent"),
        figures=("f1", "accuracy"),
        rows={"test": 1725},
    ),
    "stsb": GlueTask(folder="STS-B", text=_PAIR, label="score", figures=("spearman", "pearson"), rows={"test": 1379}),
    "qqp": GlueTask(
        folder="QQP",
        text=("question1", "question2"),
        label="is_duplicate",
        labels=("not_duplicate", "duplicate"),
        figures=("f1", "accuracy"),
        rows={"test": 390965},
    ),
    "mnli": _MNLI,
    "ax": _MNLI,
    "qnli": GlueTask(
        folder="QNLI",
        text=("question", "sentence"),
        labels=("entailment", "not_entailment"),
        named=True,
        rows={"test": 5463},
    ),
    "rte": GlueTask(folder="RTE", text=_PAIR, labels=("entailment", "not_entailment"), named=True, rows={"test": 3000}),
    "wnli": GlueTask(folder="WNLI", text=_PAIR, labels=("not_entailment", "entailment"), rows={"test": 146}),
}


def read(name: str, data: str | Mapping[str, str], files: Mapping[str, str], notes: list[str]) -> dict[str, DataTable]:
    """The tables of a task by part, `train` and `dev` among them.

    data: "hub", "hub:owner/name", a folder in GLUE's TSV layout or of parquet files, or a mapping
    of parts to files.
    files: part -> file, in place of what data has. UserError for what is missing or cannot be read.
    """
    places: dict[str, list[Path]] = {}
    by_part: dict[str, DataTable] = {}
    source = "the mapping"
    if isinstance(data, Mapping):
        files = {**data, **files}
    elif data == "hub" or data.startswith(HUB):
        source = data
        by_part = _of_hub(name, data, skip=set(files))
    else:
        folder = _folder(name, Path(data).expanduser())
        source, places = str(folder), _locate(name, folder, notes)
    places |= {part: [Path(file).expanduser()] for part, file in files.items()}
    for part, paths in places.items():
        by_part[part] = _read(name, part, paths, notes)
    for part in ("train", "dev", *(["ax"] if name == "ax" else [])):
        if part not in by_part:
            raise UserError(
                f"task.data: {source} has no {_expected(name, part)}; name the file: task.files.{part}=FILE"
            )
    if name in ("mnli", "ax"):
        if name == "mnli" and "dev_mm" not in by_part:
            notes.append("there is no mismatched dev set (dev_mismatched.tsv), so dev_mm is not reported")
        kept = PARTS if name == "mnli" else ("train", "dev", "ax")
        by_part = {part: table for part, table in by_part.items() if part in kept}
    return {part: by_part[part] for part in PARTS if part in by_part}


def _folder(name: str, place: Path) -> Path:
    """The task's folder inside a folder of GLUE, or this folder if it is the task's own."""
    if not place.is_dir():
        raise UserError(f"task.data: no folder {place}; expected 'hub', or a folder with GLUE's TSV or parquet files")
    for inner in (SPECS[name].folder, _hub_name(name)):
        if (place / inner).is_dir():
            return place / inner
    if any(place.glob("train.tsv")) or any(place.glob("train*.parquet")):
        return place
    held = ", ".join(sorted(path.name for path in place.iterdir() if path.is_dir())) or "no folder"
    raise UserError(
        f"task.data: {place} has neither {SPECS[name].folder}/ (TSV files) nor {_hub_name(name)}/ (parquet files), and "
        f"no train.tsv; it holds {held}"
    )


def _locate(name: str, folder: Path, notes: list[str]) -> dict[str, list[Path]]:
    spec = SPECS[name]
    places: dict[str, list[Path]] = {}
    for part, candidates in spec.tsv.items():
        there = [folder / file for file in candidates if (folder / file).is_file()]
        if there:
            places[part] = there[:1]
            if there[0].name != candidates[0]:
                notes.append(f"{part}: there is no {candidates[0]}, {there[0].name} is used instead")
    for part, split in spec.splits.items():
        shards = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")])
        if shards and part not in places:
            places[part] = shards
    if spec is _MNLI:
        above = [folder.parent / place for place in _DIAGNOSTIC] + [folder / "diagnostic.tsv"]
        texts = [path for path in above if path.is_file()]
        shards = sorted((folder.parent / "ax").glob("test*.parquet"))
        if texts or shards:
            places["ax"] = texts[:1] or shards
    return places


def _read(name: str, part: str, paths: list[Path], notes: list[str]) -> DataTable:
    path = paths[0]
    if not path.is_file():
        raise UserError(f"task.files.{part}: no file {path}")
    if len(paths) > 1 or path.suffix == ".parquet":
        return table_files.read_parquet(paths, str(path if len(paths) == 1 else path.parent / f"{part}*"))
    columns = SPECS[name].columns
    if columns and path.name.removesuffix(".gz").endswith(table_files.TAB):
        header = read_file(path).split("\n", 1)[0].rstrip("\r").split("\t")
        columns = None if "sentence" in header else columns
    else:
        columns = None
    # a line that is missing from a test part would shift the later ones in the submission
    table = table_files.read(path, columns=columns, skip_malformed=name == "qqp" and part in ("train", "dev"))
    if table.malformed:
        notes.append(f"{part}: {len(table.malformed):,} lines with a wrong number of fields are left out")
    return table


def _of_hub(name: str, data: str, *, skip: set[str]) -> dict[str, DataTable]:
    repository = REPOSITORY if data == "hub" else data
    spec = SPECS[name]
    loaded = hub.load(f"{repository}/{_hub_name(name)}")
    splits = {part: split for part, split in spec.splits.items() if part not in skip}
    by_part = {part: hub.table(loaded[split], f"{data}, {split}") for part, split in splits.items() if split in loaded}
    if spec is _MNLI and "ax" not in skip:
        by_part["ax"] = hub.table(hub.load(f"{repository}/ax")["test"], f"{data}, ax")
    return by_part


def _hub_name(name: str) -> str:
    return "mnli" if name == "ax" else name


def _expected(name: str, part: str) -> str:
    if part == "ax":
        return f"diagnostic set (looked for {', '.join(_DIAGNOSTIC)})"
    spec = SPECS[name]
    return f"{spec.tsv[part][0]} (or {spec.splits[part]}-*.parquet)"
