"""Result files that are not as they should be: one line that names the file and what is wrong."""

import json

import pytest

from fcos_tf.cli import evaluate
from fcos_tf.jobs.evaluate import score_files
from tests.tools import run

BOX = [10, 10, 50, 50]
TRUTH = {
    "images": [{"id": 7}],
    "categories": [{"id": 3, "name": "cell"}],
    "annotations": [{"image_id": 7, "category_id": 3, "bbox": BOX}],
}
FOUND = {"image_id": 7, "category_id": 3, "bbox": BOX, "score": 0.5}


@pytest.fixture
def score(tmp_path):
    """Scores two files with these contents; text is written as it is."""

    def run(truth, found):
        paths = []
        for name, content in (("truth.json", truth), ("found.json", found)):
            paths.append(str(tmp_path / name))
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return score_files(*paths)

    return run


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ({}, "null", "found.json: detections: expected a list, got None"),
        ({}, "5", "found.json: detections: expected a list, got 5"),
        ({}, [{**FOUND, "image_id": [7]}], r"position 0 refers to image id \[7\], which"),
        ({}, [{**FOUND, "category_id": [3]}], r"refers to category id \[3\]; .* has \[3\]"),
        ({}, [{**FOUND, "score": 10**400}], "position 0 .*: expected a finite score, got 1000"),
        ({"annotations": None}, [FOUND], "'annotations' of .*: expected a list, got None"),
        ({"images": 5}, [FOUND], "truth.json and .*'images' of .*: expected a list, got 5"),
        ({"categories": 5}, [FOUND], "'categories' of .*: expected a list, got 5"),
        ({"images": [{"id": 10**23}]}, [FOUND], "image at position 0: .* 64 bits, got 10{23}$"),
        ({"categories": [{"id": 10**23}]}, [FOUND], "category at .* 64 bits, got 10{23}$"),
        ({}, NESTED, "--detections: .*found.json cannot be read as JSON: it is nested too"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(score, truth, found, message):
    with pytest.raises(ValueError, match=message) as error:
        score({**TRUTH, **truth}, found)
    assert "\n" not in str(error.value)


def test_numbers_as_text_are_taken_for_crowds_too(score):
    # A crowd asks for nothing, so that there is nothing to be measured on.
    crowd = {**TRUTH["annotations"][0], "iscrowd": "1.0"}
    assert score({**TRUTH, "annotations": [crowd]}, [FOUND]).metrics["AP"] == -1


def test_files_that_begin_with_a_byte_order_mark(score):
    scores = score("\ufeff" + json.dumps(TRUTH), "\ufeff" + json.dumps([FOUND]))
    assert scores.metrics["AP"] == pytest.approx(1)


@pytest.mark.parametrize("given", ["bogus", "flip"])
def test_bare_files_have_no_further_views(score, tmp_path, capsys, given):
    score(TRUTH, [FOUND])
    files = (f"--ground_truth={tmp_path / 'truth.json'}", f"--detections={tmp_path / 'found.json'}")
    code, _, error = run(capsys, evaluate, *files, f"--tta={given}")
    assert code == 1
    (line,) = error.splitlines()
    assert line.startswith("evaluate.py: error: --tta: not used with --ground_truth")
