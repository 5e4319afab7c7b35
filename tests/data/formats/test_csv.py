"""CSV tables of boxes: both forms, and what is wrong with them."""

import pytest

from fcos_tf.data import read_annotations
from fcos_tf.data.annotations import Fault
from tests.data.formats.own_data import add, names_of

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def test_a_table_with_a_header(tmp_path):
    add(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    lines = "b.jpg,40,30,dog,1,2,11,22\na.jpg,40,30,cat,0,0,40,30\nb.jpg,40,30,cat,3,4,5,6.5\n"
    (tmp_path / "boxes.csv").write_text(HEADER + lines)
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and names_of(found, tmp_path) == ["images/a.jpg", "images/b.jpg"]
    # Continuous edges: the numbers as they are.
    assert found.boxes.tolist() == [[0, 0, 40, 30], [1, 2, 11, 22], [3, 4, 5, 6.5]]
    assert found.owners.tolist() == [0, 1, 1] and found.labels.tolist() == [0, 1, 0]
    assert found.numbers.tolist() == [3, 2, 4] and found.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("x_max,y_max,x_min,y_min,Label,Image_Path", "5,6,3,4,cat,a.jpg"),
        ("image;x1;y1;x2;y2;class name", "a.jpg;3;4;5;6;cat"),
        ("category\tfile-name\tleft\ttop\tright\tbottom\tnote", "cat\ta.jpg\t3\t4\t5\t6\t,"),
        ("\ufefffilename,xmin,ymin,xmax,ymax,class", ' "a.jpg",3, 4 ,5.0,6,"cat"'),
    ],
)
def test_columns_of_other_names_in_any_order(tmp_path, header, line):
    add(tmp_path, "a.jpg")
    (tmp_path / "x.csv").write_text(f"{header}\r\n{line}\r\n", encoding="utf-8", newline="")
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and found.boxes.tolist() == [[3, 4, 5, 6]]
    assert found.class_names == ("cat",)


def test_photos_that_were_resized_after_annotation(tmp_path):
    # Annotated at 80x60, the image has 40x30: half of all numbers, and a note that tells it.
    add(tmp_path, "a.jpg")
    (tmp_path / "boxes.csv").write_text(f"{HEADER}a.jpg,80,60,cat,10,20,30,60\n")
    found, _, _ = read_annotations("csv", "all", data_dir=tmp_path, scale_boxes=True)
    assert found.boxes.tolist() == [[5, 10, 15, 30]]
    assert found.notes == ("boxes scaled by 0.5 to 0.5",)


def test_a_table_without_header(tmp_path):
    add(tmp_path, "photos/a.jpg", "photos/b.jpg")
    text = "photos/b.jpg,,,,,\nphotos/a.jpg,1,2,3,4,cat\n"
    (tmp_path / "boxes.csv").write_text(text), (tmp_path / "classes.csv").write_text("cat,0\n")
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and names_of(found, tmp_path) == ["photos/a.jpg", "photos/b.jpg"]
    assert found.boxes.tolist() == [[1, 2, 3, 4]] and found.owners.tolist() == [0]


def test_boxes_of_an_image_in_two_spellings_are_merged(tmp_path):
    add(tmp_path, "images/a.jpg", "images/b.jpg")
    spelled = ("images/a.jpg", "b.jpg", "a.jpg", "images/./a.jpg", f"{tmp_path}/images/a.jpg")
    lines = "".join(f"{name},40,30,cat,{x},2,30,4\n" for x, name in enumerate(spelled))
    (tmp_path / "boxes.csv").write_text(HEADER + lines)
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and names_of(found, tmp_path) == ["images/a.jpg", "images/b.jpg"]
    assert found.numbers.tolist() == [2, 4, 5, 6, 3] and found.boxes[:, 0].tolist() == [
        0, 2, 3, 4, 1
    ]  # fmt: skip


def test_images_of_one_name_beside_the_table_and_in_the_folder_are_two(tmp_path):
    add(tmp_path, "tables/a.jpg", "photos/a.jpg")
    table, inside = tmp_path / "tables" / "boxes.csv", tmp_path / "photos" / "a.jpg"
    table.write_text(f"a.jpg,1,2,3,4,cat\n{inside},5,2,9,4,cat\n")
    found, faults, _ = read_annotations("csv", "all", annotations=table, images=tmp_path / "photos")
    boxes = dict(zip(found.files, found.boxes.tolist(), strict=True))
    assert faults == []
    assert boxes == {str(table.parent / "a.jpg"): [1, 2, 3, 4], str(inside): [5, 2, 9, 4]}


def test_paths_relative_to_the_table_to_the_images_and_bare_names(tmp_path):
    add(tmp_path, "sub/beside.jpg", "photos/x/deep.jpg", "photos/flat.jpg")
    (tmp_path / "sub" / "boxes.csv").write_text(
        "beside.jpg,1,2,3,4,cat\nx/deep.jpg,1,2,3,4,cat\nC:\\mine\\flat.jpg,1,2,3,4,cat\n"
        f"{tmp_path}/photos/y/gone.jpg,1,2,3,4,cat\n"
    )
    found, faults, _ = read_annotations(
        "csv", "all", annotations=tmp_path / "sub" / "boxes.csv", images=tmp_path / "photos"
    )
    assert sorted(names_of(found, tmp_path)) == [
        "photos/flat.jpg", "photos/x/deep.jpg", "sub/beside.jpg"
    ]  # fmt: skip
    what = f"names no image, or one of several: {tmp_path}/photos/y/gone.jpg; boxes lost with it: 1"
    assert faults == [Fault(str(tmp_path / "sub" / "boxes.csv"), "line 4", what)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("a.jpg,40,30,cat,one,2,3,4", "expected a number, got xmin 'one'"),
        ("a.jpg,40,30,cat,1,2,3,", "expected a number, got ymax ''"),
        ("a.jpg,40,30,,1,2,3,4", "has no class"),
        ("a.jpg,40,30,cat,1,2,3", "expected 8 fields, the first a file, got "
                                  "'a.jpg,40,30,cat,1,2,3'"),
        (",40,30,cat,1,2,3,4", "expected 8 fields, the first a file, got ',40,30,cat,1,2,3,4'"),
        ("a.jpg,40,30,cat,5,2,3,4", "box (5, 2, 3, 4) has no area"),
        ("a.jpg,40,30,cat,nan,2,3,4", "box (nan, 2, 3, 4) is not finite"),
        ("a.jpg,40,30,cat,50,2,60,4", "box (50, 2, 60, 4) lies outside the image of 40x30 pixels"),
    ],
)  # fmt: skip
def test_lines_with_faults_are_named(tmp_path, line, what):
    add(tmp_path, "a.jpg")
    good = "a.jpg,40,30,cat,1,2,3,4\n"
    (tmp_path / "boxes.csv").write_text(f"{HEADER}{good}{line}\n\n{good}")
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [Fault(str(tmp_path / "boxes.csv"), "line 3", what)]
    assert found.numbers.tolist() == [2, 5]


def test_a_size_that_disagrees_is_a_fault(tmp_path):
    add(tmp_path, "a.jpg", "b.jpg")
    lines = "a.jpg,30,40,cat,1,2,3,4\nb.jpg,40,30,cat,1,2,3,4\n"
    (tmp_path / "boxes.csv").write_text(HEADER + lines)
    found, (fault,), _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert fault[:2] == (str(tmp_path / "boxes.csv"), "size") and not fault.kept
    assert fault.what.startswith("expected an image of 30x40 pixels, as annotated, got 40x30")
    assert names_of(found, tmp_path) == ["b.jpg"]


@pytest.mark.parametrize("size", ["inf,30", "40,nan", "1e99,30", "-40,30", "0,30", "wide,30"])
def test_a_size_that_is_none_is_unknown(tmp_path, size):
    add(tmp_path, "a.jpg")
    (tmp_path / "boxes.csv").write_text(f"{HEADER}a.jpg,{size},cat,1,2,3,4\n")
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and found.sizes.tolist() == [[30, 40]]


def test_images_that_no_table_names_are_left_out_and_counted(tmp_path):
    add(tmp_path, *(f"{split}/{name}.jpg" for split in ("train", "val") for name in "ab"))
    for split in ("train", "val"):
        text = f"{HEADER}a.jpg,40,30,cat,1,2,3,4\n"
        (tmp_path / split / "_annotations.csv").write_text(text)
    found, faults, _ = read_annotations("csv", "train", data_dir=tmp_path)
    what = "2 images without annotations are left out, first train/b.jpg"
    assert faults == [] and found.notes == (f"{tmp_path}: {what}",)


def test_objects_marked_difficult_or_as_groups_are_not_learned(tmp_path):
    add(tmp_path, "a.jpg")
    header = "filename,class,xmin,ymin,xmax,ymax,IsGroupOf,difficult\n"
    marks = ["0,0", "1,0", "False,True", ",", "-1,nan", "2,0"]
    lines = [f"a.jpg,cat,{x},1,{x + 2},9,{mark}\n" for x, mark in enumerate(marks)]
    (tmp_path / "boxes.csv").write_text(header + "".join(lines))
    found, (fault,), _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert found.ignored.tolist() == [False, True, True, False, False, False]
    assert fault[1:] == ("line 7", "difficult: expected 0 or 1, got '2'; taken as 0", True)


def test_an_unclosed_quote_is_refused(tmp_path):
    add(tmp_path, "a.jpg", "b.jpg")
    lines = 'a.jpg,40,30,"cat,1,2,3,4\nb.jpg,40,30,dog,1,2,3,4\n'
    (tmp_path / "boxes.csv").write_text(HEADER + lines)
    with pytest.raises(ValueError, match=r"boxes\.csv: line 2: .* quote that is open up to line 3"):
        read_annotations("csv", "all", data_dir=tmp_path)
    lines = '"a.jpg" ,40,30,"cat" ,1,2,3,4\nb.jpg,40,30,"6"" dog",1,2,3,4\n'
    (tmp_path / "boxes.csv").write_text(HEADER + lines)
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and found.class_names == ('6" dog', "cat") and found.num_images == 2


def test_a_faulty_table_of_another_split_is_no_matter(tmp_path):
    add(tmp_path, "a.jpg")
    (tmp_path / "train.csv").write_text(f"{HEADER}a.jpg,40,30,cat,1,2,3,4\n")
    (tmp_path / "test.csv").write_text("filename,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n")
    found, faults, _ = read_annotations("csv", "train", data_dir=tmp_path, classes=["cat"])
    assert faults == [] and found.num_images == 1
    with pytest.raises(ValueError, match=r"test\.csv: expected a header"):  # it may have classes
        read_annotations("csv", "train", data_dir=tmp_path)


def test_tables_are_told_by_their_first_lines_at_any_depth(tmp_path):
    add(tmp_path, "a.jpg")
    (tmp_path / "log.csv").write_text("time,loss\n" + '1,"\n' * 3)  # no CSV from line 2 on
    (tmp_path / "p" / "q").mkdir(parents=True)
    (tmp_path / "p" / "q" / "boxes.csv").write_text(f"\n{HEADER}a.jpg,40,30,cat,1,2,3,4\n")
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and names_of(found, tmp_path) == ["a.jpg"]
    add(tmp_path, "b.jpg")  # deeper ones count only where there are no others
    (tmp_path / "boxes.csv").write_text(f"{HEADER}b.jpg,40,30,cat,1,2,3,4\n")
    assert names_of(read_annotations("csv", "all", data_dir=tmp_path)[0], tmp_path) == ["b.jpg"]


def test_the_stated_ending_is_preferred(tmp_path):
    add(tmp_path, "x/a.jpg", "x/a.png")
    (tmp_path / "boxes.csv").write_text(f"{HEADER}/elsewhere/a.PNG,40,30,cat,1,2,3,4\n")
    found, faults, _ = read_annotations("csv", "all", data_dir=tmp_path)
    assert faults == [] and names_of(found, tmp_path) == ["x/a.png"]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train.csv", "val.csv"),
        ("train_labels.csv", "validation_labels.csv"),
        ("train/_annotations.csv", "valid/_annotations.csv"),
    ],
)
def test_a_table_for_each_split(tmp_path, train, val):
    for table, name in ((train, "cat"), (val, "dog")):
        folder = (tmp_path / table).parent
        add(folder, f"{name}.jpg")
        (tmp_path / table).write_text(f"{HEADER}{name}.jpg,40,30,{name},1,2,3,4\n")
    for split, label in (("train", 0), ("val", 1)):
        found, faults, _ = read_annotations("csv", split, data_dir=tmp_path)
        # Classes are those of both.
        assert faults == [] and found.class_names == ("cat", "dog")
        assert found.labels.tolist() == [label] and found.notes == ()
    with pytest.raises(FileNotFoundError, match="no table of split 'test'; there are: "):
        read_annotations("csv", "test", data_dir=tmp_path)
    pattern = str(tmp_path / train).replace("train", "{split}")
    found, _, _ = read_annotations("csv", "train", annotations=pattern, images=tmp_path)
    assert found.num_images == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,1,2,3,4\n", "expected a header with filename, class, .*; got none of them"),
        ("filename,xmin,ymin,xmax,class\na.jpg,1,2,3,cat\n", "; not one each of ymax"),
        (f"{HEADER}a.jpg,40,30,cat,.1,.2,.5,1\n", "expected corners in pixels, got none above 1"),
        (f'{HEADER}a.jpg,40,30,"{"c" * 200_000}",1,2,3,4\n', "line 2: expected CSV, got field la"),
    ],
)
def test_tables_of_another_form_are_refused(tmp_path, text, message):
    add(tmp_path, "a.jpg")
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"boxes\.csv: .*{message}"):
        read_annotations("csv", "all", annotations=tmp_path / "boxes.csv")


def test_missing_tables(tmp_path):
    with pytest.raises(ValueError, match="csv needs data_dir, or annotations, the table"):
        read_annotations("csv", "train")
    with pytest.raises(FileNotFoundError, match="no CSV table with boxes in"):
        read_annotations("csv", "train", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no table .*nowhere\.csv"):
        read_annotations("csv", "train", annotations=tmp_path / "nowhere.csv")
