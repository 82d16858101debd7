"""Tables: what is text stays text, and what is wrong is told with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from sj_lang_language.data.tables import examples, table_files

from sj_lang.errors import UserError


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("value", [0, 0.0, "0", "0.0", " 0 ", b"0", "0.000", b"0.0"])
def test_labels_that_are_the_same(value: object) -> None:
    assert examples.written(value) == "0"
    assert [examples.written(other) for other in ("0.5", "v1.0", "1.0.0", "00", None)] == [
        "0.5",
        "v1.0",
        "1.0.0",
        "00",
        "",
    ]


@pytest.mark.parametrize("content", ['{"a": ' + "9" * 5000 + "}", "[" * 90000, '{"a": ' + "[" * 90000 + "}"])
def test_json_that_no_library_reads(content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl"):
        table_files.read(write(tmp_path, "a.jsonl", content))


def test_in_tsv_a_quote_is_text(tmp_path: Path) -> None:
    text = 'sentence\tlabel\n"one "" two\t0\nthree" four\t1\n"five"\t0\n'
    table = table_files.read(write(tmp_path, "a.tsv", text))
    assert table.columns == {"sentence": ['"one "" two', 'three" four', '"five"'], "label": ["0", "1", "0"]}
    assert table.lines == [2, 3, 4]
    with pytest.raises(UserError, match=r"a\.tsv, line 2: "):
        table_files.read(tmp_path / "a.tsv", quotes=True)


def test_in_csv_quotes_hold_commas_and_line_ends(tmp_path: Path) -> None:
    text = 'label,review\n1,"a, ""b""\nc"\n0,d\n'
    table = table_files.read(write(tmp_path, "a.csv", text))
    assert table.columns == {"label": ["1", "0"], "review": ['a, "b"\nc', "d"]}
    assert table.lines == [2, 4]
    assert table_files.read(write(tmp_path, "b.tsv", 'a\tb\n"x\ty"\tz\n'), quotes=True).columns["a"] == ["x\ty"]
    with pytest.raises(UserError, match=r"c\.csv, line 2: "):
        table_files.read(write(tmp_path, "c.csv", 'a,b\n"x,y\n'))


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_crlf_and_a_byte_order_mark_leave_no_trace(tmp_path: Path, name: str) -> None:
    rows = {
        "a.tsv": "sentence\tlabel\r\nnaïve\t0\r\nno\t1\r\n",
        "a.csv": "sentence,label\r\nnaïve,0\r\nno,1\r\n",
        "a.jsonl": '{"sentence": "naïve", "label": "0"}\r\n{"sentence": "no", "label": "1"}\r\n',
    }
    table = table_files.read(write(tmp_path, name, b"\xef\xbb\xbf" + rows[name].encode()))
    assert table.columns == {"sentence": ["naïve", "no"], "label": ["0", "1"]}


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    text = "sentence\tlabel\na\u2028b\x0cc\x85d\t0\n\nlast\t1"
    table = table_files.read(write(tmp_path, "a.tsv", text))
    assert table.columns["sentence"] == ["a\u2028b\x0cc\x85d", "last"]
    assert table.lines == [2, 4]
    assert table_files.read(write(tmp_path, "one.tsv", "sentence\na\n\nb\n")).columns["sentence"] == ["a", "", "b"]


def test_json_parquet_gzip_and_files_without_a_header(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b"}]
    wanted = {"text": ["a", "b"], "label": [1, None]}
    assert table_files.read(write(tmp_path, "a.json", json.dumps(rows))).columns == wanted
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert table_files.read(write(tmp_path, "a.jsonl.gz", gzip.compress(lines.encode()))).columns == wanted
    pyarrow.parquet.write_table(pyarrow.table(wanted), tmp_path / "a.parquet")
    table = table_files.read(tmp_path / "a.parquet")
    assert table.columns == wanted
    assert table.where(1) == f"{tmp_path}/a.parquet, row 2"
    assert len(table_files.read_parquet([tmp_path / "a.parquet"] * 2, "both")) == 4
    pyarrow.parquet.write_table(pyarrow.table(wanted).slice(2), tmp_path / "none.parquet")
    with pytest.raises(UserError, match=r"none\.parquet has no rows"):
        table_files.read(tmp_path / "none.parquet")
    assert table_files.read(write(tmp_path, "c.jsonl", '{"a": "\\ud83d\\ude00"}')).columns == {"a": ["\U0001f600"]}
    plain = table_files.read(write(tmp_path, "b.tsv", "x\t0\ny\t1\n"), columns=["text", "label"])
    assert plain.columns == {"text": ["x", "y"], "label": ["0", "1"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"s\tl\na\t0\nb\xe9\t1\n", r"a\.tsv, line 3: not UTF-8 \(byte 0xe9"),
        ("a.tsv", "s\tl\na\t0\nb\n", r"a\.tsv, line 3: expected 2 fields \(s, l\).* 1 lines have a different number"),
        ("a.tsv", "s\ts\na\t0\n", r"two columns are called 's'"),
        ("a.tsv", b"", r"a\.tsv is empty"),
        ("a.jsonl", '{"a": 1}\n{"a": }\n', r"a\.jsonl, line 2: not JSON"),
        ("a.json", '[{"a": 1},\n{"a": }]', r"a\.json, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"entry 2: expected an object"),
        ("a.tsv", "s\tl\n", r"a\.tsv, line 2: expected a row after the header"),
        ("a.csv", 's,l\n"a,0\nb,1\n', r"a\.csv, line 2: a double quote is never closed"),
        ("a.csv", "s,l", r"a\.csv, line 2: expected a row after the header"),
        ("a.json", "[]", r"a\.json has no rows"),
        ("a.jsonl", '{"a": "b"}\n{"a": "b \\ud800"}\n', r"a\.jsonl, line 2: \\ud800 is half of a surrogate pair"),
        ("a.json", '[{"\\udc00": 1}]', r"a\.json, entry 1: \\udc00 is half"),
        ("a.parquet", b"no parquet", r"a\.parquet cannot be read"),
        ("a.xlsx", b"x", r"a\.xlsx is not a table .*\.tsv, \.txt, \.csv"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table_files.read(write(tmp_path, name, content))


def test_a_missing_file_and_a_wrong_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*missing\.tsv"):
        table_files.read(tmp_path / "missing.tsv")
    table = table_files.read(write(tmp_path, "a.tsv", "sentence\tlabel\na\t0\n"))
    with pytest.raises(UserError, match=r"task.text: .*a\.tsv has no column 'sentense'; did you mean 'sentence'\?"):
        table.column("sentense", "task.text")


def test_malformed_rows_may_be_left_out_and_are_listed(tmp_path: Path) -> None:
    table = table_files.read(write(tmp_path, "a.tsv", "s\tl\na\t0\nb\nc\t1\t2\nd\t1\n"), skip_malformed=True)
    assert table.columns["s"] == ["a", "d"]
    assert table.malformed == [3, 4]


def test_a_message_about_a_wide_table_is_short(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("\t".join(f"c{number}" for number in range(1_000)) + "\n" + "\t".join(["x"] * 1_000) + "\n")
    with pytest.raises(UserError, match=r"has no column 'label'; its columns: c0, c1, .*, c9 \.\.\.$"):
        table_files.read(path).column("label", "task.label")
    path.write_text(path.read_text() + "x\n")
    with pytest.raises(UserError, match=r"line 3: expected 1000 fields \(c0, .*, c9 \.\.\.\), as in the header"):
        table_files.read(path)


def test_dates_that_python_does_not_know(tmp_path: Path) -> None:
    dates = pyarrow.array([1 << 60], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"a": dates}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read: date value out of range"):
        table_files.read(tmp_path / "a.parquet")
