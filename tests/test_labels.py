"""Labels from folders and CSV files, and the refusal of what cannot be meant."""

import pytest

from inpaint.errors import BadData
from training import labels

NAMES = ["cat/1.png", "dog/old/2.png", "3.png", "s.tar:dog/4.png", "s.tar:5.png"]


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding=encoding)
    return str(path)


def test_the_first_folder_is_the_class_and_what_lies_in_none_is_unlabelled():
    found = labels.read("folders", NAMES)
    assert found.classes == ("cat", "dog")
    assert found.numbers.dtype == "int64"
    assert found.numbers.tolist() == [0, 1, -1, 1, -1]


def test_a_csv_file_labels_what_it_names(tmp_path):
    text = "note,file,class\r\n,3.png,fish\r\n,s.tar:5.png, ape \r\n\r\n,3.png,fish\r\n"
    found = labels.read(written(tmp_path, text, "utf-8-sig"), NAMES)
    assert found.classes == ("ape", "fish")
    assert found.numbers.tolist() == [-1, -1, 1, -1, 0]


def test_classes_given_keep_their_order(tmp_path):
    path = written(tmp_path, "file,class\n3.png,ape\n")
    found = labels.read(path, NAMES, classes=("fish", "bird", "ape"))
    assert found.classes == ("fish", "bird", "ape")
    assert found.numbers.tolist() == [-1, -1, 2, -1, -1]
    with pytest.raises(BadData, match="the class 'ape' is none of fish, bird"):
        labels.read(path, NAMES, classes=("fish", "bird"))


def test_a_file_that_could_not_be_read_may_have_a_label(tmp_path):
    path = written(tmp_path, "file,class\nbad.png,ape\n3.png,ape\ncat/1.png,cat\n")
    with pytest.raises(BadData, match="row 2: 'bad.png' is no photograph of the data"):
        labels.read(path, NAMES)
    found = labels.read(path, NAMES, skipped=["bad.png: it is truncated"])
    assert found.numbers.tolist() == [1, -1, 0, -1, -1]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("file,class\n3.png,a\n9.png,b\n", "row 3: '9.png' is no photograph of the data"),
        ("file,class\n3.png,a\ncat/1.png,b\n3.png,b\n", "row 4: '3.png' is 'b', but 'a' in row 2"),
        ("file,class\n3.png,a\ncat/1.png\n", "row 3: 'cat/1.png' has an empty class"),
        ("file,class\n3.png,a\ncat/1.png,a\n", "the only class is 'a'; two are needed"),
        ("file,label\n3.png,a\n", "no column 'class'; its columns are file, label"),
        ("file,class\n", "no photograph has a label"),
        ("", "no column 'file'; its columns are none"),
    ],
)
def test_a_csv_file_that_cannot_be_meant_is_refused_by_file_and_row(tmp_path, text, refusal):
    path = written(tmp_path, text)
    with pytest.raises(BadData) as refused:
        labels.read(path, NAMES)
    assert refusal in refused.value.detail
    assert path in refused.value.detail


def test_a_name_of_two_data_folders_is_refused(tmp_path):
    path = written(tmp_path, "file,class\n3.png,a\ncat/1.png,b\n")
    with pytest.raises(BadData, match="row 2: '3.png' lies in 2 of the data folders"):
        labels.read(path, [*NAMES, "3.png"])


def test_a_file_that_is_no_csv_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "labels.csv", tmp_path / "nothing.csv", tmp_path):
        with pytest.raises(BadData, match="cannot be read"):
            labels.read(str(path), NAMES)


@pytest.mark.parametrize("names", [["1.png", "s.tar:2.png"], ["cat/1.png", "cat/2.png"]])
def test_folders_that_tell_nothing_apart_are_refused(names):
    with pytest.raises(BadData, match="no photograph has a label|the only class is 'cat'"):
        labels.read("folders", names)
