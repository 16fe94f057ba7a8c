"""Spreadsheets as people have them."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.corpora.ratings import Columns, choices_of, gather, table_ratings
from shala_audio.corpora.tables import csv_records, plain_label, plain_text
from shala_audio.errors import UserError

TABLE = "file,who,feels\na.wav,r1,glücklich\nb.wav,r2,„so“\n"


def read(path):
    notes: list[str] = []
    return [record for _, record in csv_records(path, notes.append)], notes


EXPECTED = [
    {"file": "a.wav", "who": "r1", "feels": "glücklich"},
    {"file": "b.wav", "who": "r2", "feels": "„so“"},
]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (TABLE.encode(), []),
        (TABLE.encode("utf-8-sig"), []),
        (TABLE.replace("\n", "\r\n").encode(), []),
        (TABLE.encode("utf-16"), ["utf-16"]),
        (TABLE.encode("utf-16-le"), ["utf-16-le"]),
        (TABLE.encode("utf-16-be"), ["utf-16-be"]),
        (TABLE.encode("cp1252"), ["cp1252"]),
        (TABLE.replace(",", ";").encode(), ["a semicolon"]),
        (TABLE.replace(",", "\t").encode(), ["a tab"]),
        (TABLE.replace(",", "|").encode(), ["a bar"]),
        (b"sep=;\n" + TABLE.replace(",", ";").encode(), ["a semicolon"]),
        (b'"sep=;"\r\n' + TABLE.replace(",", ";").replace("\n", "\r\n").encode(), ["a semicolon"]),
        (TABLE.replace("\n", ",,\n").encode(), []),
        ((TABLE + ",,\n,,\n").encode(), ["2 lines without any value"]),
        (("\n" + TABLE).encode(), []),
        (TABLE.replace("who", "“who”").replace("“who”", " who\u200b").encode(), []),
    ],
)
def test_delimiters_encodings_and_empty_cells(tmp_path, raw, told):
    (tmp_path / "v.csv").write_bytes(raw)
    found, notes = read(tmp_path / "v.csv")
    assert found == EXPECTED
    assert len(notes) == len(told) and all(part in note for part, note in zip(told, notes, strict=True)), notes


def test_excel(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [["file", "rating", None], ["007", 3.0, None], ["b.wav", "sad", None], [None, None, None]]:
        book.active.append(row)
    book.create_sheet("notes")
    book.save(tmp_path / "v.xlsx")
    found, notes = read(tmp_path / "v.xlsx")
    assert found == [{"file": "007", "rating": "3"}, {"file": "b.wav", "rating": "sad"}]
    assert "only the first of its sheets is read: Sheet, notes" in notes[0]
    (tmp_path / "w.xlsx").write_bytes(b"no workbook")
    with pytest.raises(UserError, match=r"w\.xlsx: cannot be read as an Excel file"):
        read(tmp_path / "w.xlsx")
    with pytest.raises(UserError, match=r"w\.xls: save it as .xlsx or as CSV in UTF-8"):
        read(tmp_path / "w.xls")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,3\n", ":2: not as many values"),
        ("a,b\n1\n", ":2: not as many values"),
        ("a,a\n1,2\n", "two columns named 'a'"),
        ("a,,\n1,,2\n", ":2: not as many values"),
        ("a,,b,,c\n1,2,3,,4\n", "column 2, which has no name"),
    ],
)
def test_lines_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "v.csv")


cells = st.text(
    st.characters(codec="cp1252", exclude_categories=("Cc", "Zl", "Zp", "Zs"), exclude_characters='"'), min_size=1
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(cells, cells, cells), min_size=2, max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_spreadsheet_is_read_as_it_was_written(tmp_path_factory, lines, delimiter, encoding, hint, end):
    if encoding == "cp1252" and not any(ord(letter) > 127 for line in lines for cell in line for letter in cell):
        encoding = "utf-8"
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
    writer.writerows([["item", "label", "rater"], *lines])
    path = tmp_path_factory.mktemp("sheets") / "v.csv"
    text = (f"sep={delimiter}{end}" if hint and delimiter != "\t" else "") + file.getvalue()
    raw = text.encode(encoding)
    if encoding == "cp1252":
        foreign = [line for line in raw.split(b"\n") if not line.isascii()]
        also = [line.decode("utf-8", errors="ignore").encode() == line for line in foreign]
        if all(also):  # bytes that are UTF-8 too are taken for that
            return
        if any(also):  # and where only some lines are, nobody can tell
            path.write_bytes(raw)
            with pytest.raises(UserError, match="is not UTF-8"):
                read(path)
            return
    path.write_bytes(raw)
    found, _ = read(path)
    assert [tuple(record.values()) for record in found] == lines


# Layouts -----------------------------------------------------------------------------------------------------------------


def votes(path, item="file", label="", layout=None, several="refuse", **options):
    left_out: Counter[str] = Counter()
    notes: list[str] = []
    columns = Columns(item, label, **options.pop("columns", {}))
    separator = options.pop("separator", None)
    ratings = table_ratings(path, columns, left_out, layout, separator, None, notes.append)
    items = gather(ratings, left_out, several=several, joined=separator is not None, note=notes.append, **options)
    return {name: item.votes() for name, item in items.items()}, notes


def table(tmp_path, text):
    (tmp_path / "v.csv").write_text(text)
    return tmp_path / "v.csv"


def test_a_column_for_each_rater(tmp_path):
    path = table(tmp_path, "file,rater1,rater2,rater3\na,sad,sad,calm\nb,calm,,calm\n")
    found, notes = votes(path)
    assert found == {"a": {"sad": 2, "calm": 1}, "b": {"calm": 2}}
    assert "read as --layout wide, a column for each rater: rater1, rater2, rater3" in notes[0]
    assert votes(path, label="rater1,rater2", layout="wide")[0] == {"a": {"sad": 2}, "b": {"calm": 1}}


def test_raters_who_give_numbers_are_no_counts(tmp_path):
    assert votes(table(tmp_path, "file,rater_1,rater_2\na,1,5\nb,3,3\n"))[0] == {"a": {"1": 1, "5": 1}, "b": {"3": 2}}


def test_a_table_of_counts(tmp_path):
    """Its numbers were taken for labels."""
    path = table(tmp_path, "file,happy,sad,calm\na,3,1,1\nb,0,5,\n")
    found, notes = votes(path)
    assert found == {"a": {"happy": 3, "sad": 1, "calm": 1}, "b": {"sad": 5}}
    assert "read as --layout counts, a column for each label, with how many chose it: happy, sad, calm" in notes[0]
    with pytest.raises(
        UserError, match="happy, sad, calm all hold numbers, as a table of counts does: say --layout counts"
    ):
        votes(path, label="happy")
    assert votes(path, label="happy,sad", layout="counts")[0] == {"a": {"happy": 3, "sad": 1}, "b": {"sad": 5}}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("file,happy,sad\na,0.3,0.7\nb,1,0\n", {}, "every line sums to 1 or less: shares, and not counts"),
        ("file,happy,sad\na,1,2\na,1,2\n", {}, ":3: a stands there twice"),
        ("file,happy,sad\na,1,x\nb,1,2\n", {"layout": "counts"}, ":2: sad is 'x'; how many chose it"),
        ("file,happy,sad,why\na,1,2,so\nb,1,2,so\n", {}, "name the column of the choice with --label, or say --layout"),
        ("file,happy\na,1\n", {}, "name the column of the choice with --label: happy"),
        ("file,x\na,b\n", {"layout": "tall"}, "--layout is 'tall'"),
        ("file,sad,happy,total\na,3,2,5\nb,1,4,5\n", {}, "column total is the sum of the others"),
        ("file,sad,happy,n\na,3,2,6\nb,1,4,6\n", {}, "column n reads like a sum"),
        ("file,sad,happy\na,.33,.33\nb,.9,.05\n", {}, "every line sums to 1 or less: shares"),
        ("file,who,r1,r2\na,s1,sad,sad\nb,s2,sad,calm\nc,s3,calm,sad\n", {}, "column who has no value in common"),
    ],
)
def test_layouts_that_cannot_be_told(tmp_path, text, options, message):
    with pytest.raises(UserError, match=message):
        votes(table(tmp_path, text), **options)


counted = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1)


@settings(max_examples=60, deadline=None)
@given(counted)
def test_one_corpus_in_three_layouts_has_the_same_votes(tmp_path_factory, counts):
    folder = tmp_path_factory.mktemp("layouts")
    labels = ("happy", "quite sad", "calm")
    counts = {item: found for item, found in counts.items() if sum(found)} or {"a": [1, 2, 1]}
    counts = {**counts, "z": [2, 3, 2]}  # so that not every line sums to 1, or to 100
    long = [
        f"{item},{label}"
        for item, found in counts.items()
        for label, n in zip(labels, found, strict=True)
        for _ in range(n)
    ]
    most = max(sum(found) for found in counts.values())
    wide = []
    for item, found in counts.items():
        said = [label for label, n in zip(labels, found, strict=True) for _ in range(n)]
        wide.append(",".join([item, *said, *[""] * (most - len(said))]))
    (folder / "long.csv").write_text("\n".join(["file,label", *long]))
    (folder / "wide.csv").write_text("\n".join([",".join(["file", *(f"r{n}" for n in range(most))]), *wide]))
    lines = [",".join([item, *map(str, found)]) for item, found in counts.items()]
    (folder / "counts.csv").write_text("\n".join([",".join(["file", *labels]), *lines]))
    expected = {item: {label: n for label, n in zip(labels, found, strict=True) if n} for item, found in counts.items()}
    assert votes(folder / "long.csv", label="label")[0] == expected
    assert votes(folder / "wide.csv")[0] == expected
    assert votes(folder / "counts.csv")[0] == expected


# Labels ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "happy, sad",
        '{"choices": ["happy", "sad"]}',
        '["happy", "sad"]',
        '[{"feels": {"happy": true, "sad": true, "no": false}}]',
    ],
)
def test_cells_of_several_labels(tmp_path, cell):
    """They became labels of their own."""
    path = tmp_path / "v.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["file", "feels"], ["a", cell], ["b", "happy"]])
    asked = {"separator": ","} if "," in cell and cell[0] not in "[{" else {}
    if asked:
        with pytest.raises(UserError, match="1 ratings hold ',', such as 'happy, sad': --choices-separator ','"):
            votes(path, label="feels")
        assert votes(path, label="feels", separator="")[0]["a"] == {"happy, sad": 1}
    with pytest.raises(
        UserError, match=r"1 times a rater names several labels.*v\.csv:2 \(happy, sad\): --several split"
    ):
        votes(path, label="feels", **asked)
    found, notes = votes(path, label="feels", several="split", **asked)
    assert found == {"a": {"happy": 0.5, "sad": 0.5}, "b": {"happy": 1}} and "1 votes are shared" in notes[-1]
    assert votes(path, label="feels", several="leave-out", **asked)[0] == {"a": {}, "b": {"happy": 1}}


def test_a_bar_between_two_words_of_one_label_is_none_between_two_labels(tmp_path):
    path = table(tmp_path, "file,feels\na,anger/frustration\nb,calm\n")
    assert votes(path, label="feels")[0] == {"a": {"anger/frustration": 1}, "b": {"calm": 1}}
    path = table(tmp_path, "file,feels\na,sad/calm\nb,calm\nc,sad\n")
    with pytest.raises(UserError, match="--choices-separator '/'"):
        votes(path, label="feels")


@pytest.mark.parametrize("word", ["nan", "NA", "None", "null", "N/A", "#N/A", "?"])
def test_missing_values_are_named_and_counted(tmp_path, word):
    path = table(tmp_path, f"file,feels\na,{word}\nb,calm\nc,{word}\nd,sad\n")
    with pytest.raises(
        UserError, match=rf"2 ratings say '{word}'.*--leave-out '{word}' leaves them out".replace("?", r"\?")
    ):
        votes(path, label="feels")
    assert votes(path, label="feels", leave_out=[word])[0]["c"] == {}
    assert votes(path, label="feels", known=[word, "calm"])[0]["a"] == {word: 1}


def test_spellings_that_nobody_sees_are_one_label(tmp_path):
    forms = ["café", unicodedata.normalize("NFD", "café"), "café\u200b", "\ufeffcafé ", "caf\u00adé"]
    path = table(
        tmp_path, "file,feels\n" + "".join(f"x{n},{form}\n" for n, form in enumerate([*forms, "don’t", "don't"]))
    )
    found, _ = votes(path, label="feels")
    assert {label for counts in found.values() for label in counts} == {"café", "don't"}


@pytest.mark.parametrize(
    ("one", "two"), [("happy", "hapy"), ("angry", "anrgy"), ("very happy", "very-happy"), ("calm", "calm.")]
)
def test_labels_that_look_alike_are_told_with_their_counts(tmp_path, one, two):
    path = table(tmp_path, f"file,feels\na,{one}\nb,{one}\nc,{two}\n")
    _, notes = votes(path, label="feels")
    assert any(f"{one!r} (2)" in note and f"{two!r} (1)" in note and "look alike" in note for note in notes)
    assert not votes(table(tmp_path, "file,feels\na,sad\nb,mad\n"), label="feels")[1], "short words often do"


def test_capitals_are_told(tmp_path):
    _, notes = votes(table(tmp_path, "file,feels\na,Sad\nb,sad\nc,sad\nd,calm\n"), label="feels")
    assert notes == ["labels that differ in capitals alone are one: 'sad' (2), 'Sad' (1)"]


def test_rejected_assignments_do_not_count(tmp_path):
    path = table(tmp_path, "file,feels,AssignmentStatus\na,sad,Approved\na,calm,Rejected\nb,calm,Submitted\n")
    assert votes(path, label="feels")[0] == {"a": {"sad": 1}, "b": {"calm": 1}}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_plain_forms_are_stable(text):
    assert plain_text(plain_text(text)) == plain_text(text)
    assert plain_label(plain_label(text)) == plain_label(text)
    assert plain_label(unicodedata.normalize("NFD", text)) == plain_label(unicodedata.normalize("NFC", text))


def test_choices_of_odd_cells():
    assert choices_of(None) == choices_of("") == choices_of("  ") == choices_of(True) == []
    assert choices_of(4) == ["4"] and choices_of("[sic]") == ["[sic]"]
    with pytest.raises(UserError, match="a label, or a list of them, is needed"):
        choices_of({"a": 1, "b": 2})


def test_a_column_of_how_many_is_read(tmp_path):
    """The numbers were dropped, and each line was one vote."""
    found, notes = votes(table(tmp_path, "file,feels,count\na,sad,3\na,happy,1\nb,sad,2\n"), label="feels")
    assert found == {"a": {"sad": 3, "happy": 1}, "b": {"sad": 2}}
    assert "column count is taken for how many chose the label" in notes[0]


@pytest.mark.parametrize(("yes", "no"), [("TRUE", "FALSE"), ("x", ""), ("1", "0")])
def test_a_tick_for_each_label_of_a_rater(tmp_path, yes, no):
    """The ticks were taken for labels."""
    lines = [f"a,r1,{yes},{no}", f"a,r2,{no},{yes}", f"b,r1,{yes},{no}", f"c,r1,{no},{no}"]
    path = table(tmp_path, "\n".join(["file,who,sad,happy", *lines]))
    found, _ = votes(path, columns={"rater": "who"}, layout="counts")
    assert found == {"a": {"sad": 1, "happy": 1}, "b": {"sad": 1}}


def test_missing_people_and_texts(tmp_path):
    path = table(tmp_path, "file,feels,who,said\na,sad,nan,x\nb,calm,r1,nan\n")
    with pytest.raises(UserError, match=r":2: who says 'nan'; ratings of nobody known"):
        votes(path, label="feels", columns={"rater": "who"})
    left_out: Counter[str] = Counter()
    items = gather(table_ratings(path, Columns("file", "feels", text="said"), left_out), left_out)
    assert items["b"].fields["text"] == "" and left_out["values of text that say nan"] == 1


def test_a_column_of_remarks_is_no_label(tmp_path):
    lines = [f"i{number},remark number {number}" for number in range(400)]
    with pytest.raises(UserError, match="400 different labels, such as 'remark number 0': is --label the column"):
        votes(table(tmp_path, "\n".join(["file,why", *lines])), label="why")


@pytest.mark.parametrize(
    ("one", "two"), [("sad", "sаd"), ("sad", "ｓａｄ"), ("fine", "ﬁne"), ("1", "1.0"), ("so so", "so_so")]
)
def test_labels_in_other_letters_are_told(tmp_path, one, two):
    _, notes = votes(table(tmp_path, f"file,feels\na,{one}\nb,{two}\n"), label="feels")
    assert any("look alike" in note or "are one" in note for note in notes)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a,b\n1,caf\xe9\n2,caf\xc3\xa9\n", ":2: is not UTF-8, as 1 other lines are"),
        (b"PK\x03\x04abc", "is a file of Excel or an archive"),
        (b"<!DOCTYPE html><html>", "is an HTML page, and no table"),
        (b"a,b\n1,2\0\n", "holds bytes that are 0"),
        (b"a,b\n1,2\na,b\n", ":3: the header stands there again"),
        (b"Survey results\na,b\n1,2\n", "the first line must be the header"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, raw, message):
    (tmp_path / "v.csv").write_bytes(raw)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "v.csv")


def test_an_encoding_that_is_named(tmp_path):
    (tmp_path / "v.csv").write_bytes("file,feels\na,грусть\n".encode("cp1251"))
    records = [record for _, record in csv_records(tmp_path / "v.csv", encoding="cp1251")]
    assert records == [{"file": "a", "feels": "грусть"}]
    with pytest.raises(UserError, match="cannot be read as klingon"):
        list(csv_records(tmp_path / "v.csv", encoding="klingon"))


def test_quotes_in_a_tsv_are_letters(tmp_path):
    (tmp_path / "v.tsv").write_text('file\tsaid\na\t"Hi" he said\nb\tso\n')
    assert read(tmp_path / "v.tsv")[0] == [{"file": "a", "said": '"Hi" he said'}, {"file": "b", "said": "so"}]
