"""CSV tables with a box on each line, in the two forms that are usual.

With a header, columns in any order, as the object detection API of TensorFlow and Roboflow write
it:

    filename,width,height,class,xmin,ymin,xmax,ymax
    a.jpg,640,480,cat,10,20,110,220

Without one, as keras-retinanet reads it; empty fields are an image without objects:

    photos/a.jpg,10,20,110,220,cat
    photos/b.jpg,,,,,

A column `difficult`, `IsGroupOf` or `iscrowd` marks objects as VOC's difficult ones. Images that no
table names are left out: nobody knows what is in them.

Corners are taken as continuous edges in pixels from 0, width = xmax - xmin, as both programs use
them. Scripts that copy the one-based corners of VOC's XML into such tables leave boxes whose left
and upper edges are a pixel too far in.
"""

import contextlib
import csv
import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats import splits
from fcos_tf.data.formats.listing import Listing, left_out
from fcos_tf.data.formats.records import ImageRecord, ObjectRecord, size_of
from fcos_tf.data.formats.voc_xml import is_difficult
from fcos_tf.image_files import ImageIndex, check_regular, files_below, plain_name, read_utf8

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MARK = "difficult"  # several columns may have it
# Names of columns, lower case without spaces, `_` and `-`.
_COLUMNS = {
    "file": ("filename", "file", "image", "imagename", "imagepath", "path", "filepath", "img",
             "imgname", "imageid"),
    "class": ("class", "label", "classname", "name", "category", "labelname", "categoryname"),
    "xmin": ("xmin", "x1", "left", "bboxxmin", "bboxx1"),
    "ymin": ("ymin", "y1", "top", "bboxymin", "bboxy1"),
    "xmax": ("xmax", "x2", "right", "bboxxmax", "bboxx2"),
    "ymax": ("ymax", "y2", "bottom", "bboxymax", "bboxy2"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    MARK: ("difficult", "isdifficult", "isgroupof", "iscrowd"),
}  # fmt: skip
_COLUMN_OF = {name: column for column, names in _COLUMNS.items() for name in names}
_NO_HEADER = ("file", *CORNERS, "class")
_HEAD = 2**16  # characters of a first line that are looked at


def list_csv(
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
) -> Listing:
    """Lists the images of a table; files that it does not name are left out.

    Args:
        split: For example "train"; see `splits.choose` for a table without splits.
        data_dir: The folder of the table, of which it is the only one, or SPLIT.csv,
            SPLIT_labels.csv or SPLIT/_annotations.csv.
        annotations: The table, instead of the one in `data_dir`; "{split}" in it stands for the
            split.
        images: The folder of the images, instead of that of the table; likewise.

    Returns:
        The listing; its classes are those of all lines of all tables, and objects are numbered
        by their lines, from 1.

    Raises:
        FileNotFoundError: No table, or no folder of images.
        ValueError: A table without the columns that it takes.
    """
    tables = _find_tables(data_dir, annotations, split)
    own = _own_table(tables, split)
    table = own or next(iter(tables.values()))
    folder = str(images).replace("{split}", split) if images else data_dir or table.parent
    read_table = cache(_read_table)
    rows, faults = read_table(table)
    index = ImageIndex(folder)
    spellings: dict[str, list[str]] = {}  # of each image
    for stated in rows:
        file = _find(stated, table.parent, index)
        spellings.setdefault(os.path.abspath(file) if file else stated, []).append(stated)
    named: dict[str, list[str]] = {}
    for file, mine in spellings.items():
        name = _name(mine[0], table.parent, index)
        named[file if name in named else name] = mine

    listed = sorted(named, key=plain_name)

    def read(place: int) -> ImageRecord:
        spelt = named[listed[place]]
        mine = sorted(item for stated in spelt for item in rows[stated].items())
        return _record(str(table), _find(spelt[0], table.parent, index), dict(mine))

    used = set()
    for each in dict.fromkeys(tables.values()):
        with contextlib.suppress(ValueError):  # a fault of another split
            used |= {_name(stated, each.parent, index) for stated in read_table(each)[0]}

    def find_class_names() -> Sequence[str]:
        found = {
            row["class"]
            for each in dict.fromkeys(tables.values())
            for mine in read_table(each)[0].values()
            for row in mine.values()
        } - {""}
        if not found:
            raise ValueError(f"{table}: no object in any line")
        return sorted(found)

    return Listing(
        root=Path(data_dir or folder),
        names=listed,
        read=read,
        find_class_names=find_class_names,
        item="line",
        faults=faults,
        notes=(*index.notes, *left_out(index, used)),
        split=split if own else None,
    )


def is_table(file: Path) -> bool:
    """Whether a CSV file has the columns of boxes, in either form."""
    try:
        check_regular(file)
        with open(file, encoding="utf-8-sig", newline="") as text:
            first = next(filter(str.strip, iter(lambda: text.readline(_HEAD), "")), "")
        return bool(_columns_of([field.strip() for field in next(_reader(first), [])])[0])
    except (OSError, ValueError, csv.Error):
        return False


def _find_tables(data_dir, annotations, split: str) -> dict[str, Path]:
    """The tables: of each split by its name, or one of all under ""."""
    if annotations:
        file = Path(str(annotations).replace("{split}", split))
        if not file.is_file():
            raise FileNotFoundError(f"no table {file}")
        return {split if "{split}" in str(annotations) else "": file}
    if not data_dir:
        raise ValueError("dataset csv needs data_dir, or annotations, the table")
    files = [*Path(data_dir).glob("*.csv"), *Path(data_dir).glob("*/*.csv")]
    files = sorted(filter(is_table, files)) or [
        file for name in files_below(data_dir, ".csv") if is_table(file := Path(data_dir) / name)
    ]
    if len(files) == 1:
        return {"": files[0]}
    found: dict[str, Path] = {}
    for file in files:
        word = (file.parent.name if file.stem == "_annotations" else file.stem).lower()
        for ending in ("_labels", "_annotations"):
            word = word.removesuffix(ending)
        if word in found:
            raise ValueError(f"{data_dir}: expected one table of {word}, got {found[word]}, {file}")
        found[word] = file
    if not found:
        raise FileNotFoundError(f"no CSV table with boxes in {data_dir}")
    return found


def _own_table(tables: dict[str, Path], split: str) -> Path | None:
    """The table of a split; None: there is one for all."""
    if "" in tables:
        return None
    for word in (split, *splits.words_for(split)):
        if word in tables:
            return tables[word]
    names = ", ".join(map(str, tables.values()))
    raise FileNotFoundError(f"no table of split {split!r}; there are: {names}")


def _reader(text: str):
    """A reader of the lines of a table, with the separator of its first line."""
    first = text.lstrip().split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    return csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)


def _columns_of(head: list[str]) -> tuple[list[str], bool]:
    """The column of each field by the first line, and whether that is a header; none: no table."""
    words = [_COLUMN_OF.get(word.lower().translate({32: "", 95: "", 45: ""}), "") for word in head]
    if "file" in words and "xmin" in words:
        return words, True
    is_row = len(head) == 6 and all(_is_number(field) or not field for field in head[1:5])
    return [*_NO_HEADER] if is_row else [], False


def _parse(file: Path) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The lines with their numbers, and the column of each field; no columns: no such table."""
    reader, lines, first = _reader(read_utf8(file)), [], 1
    try:
        for row in reader:
            if any("\n" in field for field in row):
                what = f"got a quote that is open up to line {reader.line_num}"
                raise ValueError(f"{file}: line {first}: expected a record on one line, {what}")
            if any(row):
                lines.append((reader.line_num, [field.strip() for field in row]))
            first = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}: line {first}: expected CSV, got {error}") from None
    columns, has_header = _columns_of(lines[0][1]) if lines else ([], False)
    return lines[has_header:], columns


def _read_table(file: Path) -> tuple[dict[str, dict[int, dict[str, str]]], list[Fault]]:
    """The rows of each image by the number of their line, and lines that are none."""
    lines, columns = _parse(file)
    missing = [column for column in _NO_HEADER if columns.count(column) != 1]
    if missing:
        got = "got none of them" if not columns else f"not one each of {', '.join(missing)}"
        raise ValueError(
            f"{file}: expected a header with filename, class, xmin, ymin, xmax, ymax, or lines of "
            f"path,x1,y1,x2,y2,class; {got}"
        )
    rows: dict[str, dict[int, dict[str, str]]] = {}
    faults = []
    for number, fields in lines:
        row = dict(zip(columns, fields, strict=False))
        if len(fields) != len(columns) or not row["file"]:
            what = f"expected {len(columns)} fields, the first a file, got {','.join(fields)!r}"
            faults.append(Fault(str(file), f"line {number}", what))
        else:
            marks = [field for name, field in zip(columns, fields, strict=True) if name == MARK]
            rows.setdefault(row["file"], {})[number] = row | {MARK: marks}
    _refuse_fractions(file, rows)
    return rows, faults


def _refuse_fractions(file: Path, rows: dict) -> None:
    values = [row[side] for mine in rows.values() for row in mine.values() for side in CORNERS]
    numbers = [float(value) for value in values if _is_number(value)]
    if numbers and max(numbers) <= 1 and any(0 < number < 1 for number in numbers):
        raise ValueError(f"{file}: expected corners in pixels, got none above {max(numbers):g}")


def _find(stated: str, beside: Path, index: ImageIndex) -> str:
    """The path of an image, relative to the table or to the folder of images; "": none."""
    if os.path.isfile(beside / stated):
        return str(beside / stated)
    try:
        return index.path(index.find_stated(stated))
    except ValueError:
        return ""


def _name(stated: str, beside: Path, index: ImageIndex) -> str:
    """The name of an image relative to the folder of images, where it lies in there."""
    name = os.path.relpath(_find(stated, beside, index) or stated, index.root)
    return stated if name.startswith("..") else name.replace(os.sep, "/")


def _record(origin: str, file: str, rows: dict[int, dict[str, str]]) -> ImageRecord:
    """The record of an image from its rows."""
    if not file:
        stated = next(iter(rows.values()))["file"]
        what = f"names no image, or one of several: {stated}; boxes lost with it: {len(rows)}"
        return ImageRecord(origin, faults=[Fault(origin, f"line {min(rows)}", what)])
    objects, faults, size = {}, [], None
    for number, row in rows.items():
        item = f"line {number}"
        size = size_of(row.get("height"), row.get("width")) or size
        if not any(row[side] for side in (*CORNERS, "class")):
            continue
        wrong = [f"{side} {row[side]!r}" for side in CORNERS if not _is_number(row[side])]
        if wrong or not row["class"]:
            what = f"expected a number, got {wrong[0]}" if wrong else "has no class"
            faults.append(Fault(origin, item, what))
            continue
        try:
            difficult = any(map(is_difficult, row[MARK]))
        except ValueError as error:
            faults.append(Fault(origin, item, f"{error}; taken as 0", kept=True))
            difficult = False
        box = tuple(float(row[side]) for side in CORNERS)
        objects[number] = ObjectRecord(row["class"], difficult, box)
    return ImageRecord(origin, file, size, objects, faults)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
