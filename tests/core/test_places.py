"""A place is refused before the work or not at all, and looking at it leaves nothing behind."""

import os
import re
from pathlib import Path

import pytest

from fairlead.core.errors import UsageError
from fairlead.core.places import check_file, check_folder, home_expanded, is_folder, is_there, read_text, unreadable

LONG = "n" * 300


def test_a_folder_yet_to_be_made_is_fine_and_stays_so(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b" / "c")
    check_folder(tmp_path)
    check_file(tmp_path / "a" / "numbers.json")
    assert not list(tmp_path.iterdir())


def test_what_a_folder_must_not_hold(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "grid.png").mkdir()
    with pytest.raises(UsageError, match="already holds a run; choose another --out"):
        check_folder(tmp_path, fresh={"run.json": "a run"})
    with pytest.raises(UsageError, match=r"holds a folder 'grid\.png', where a file is to be written"):
        check_folder(tmp_path, files=["grid.png"])
    check_folder(tmp_path, fresh={"other.json": "a run"}, files=["run.json"])


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "is a file; choose another --out"),
        ("file/inside", "not a directory"),
        ("pipe", "is a pipe"),
        ("loop", "too many levels of symbolic links"),
        ("loop/inside", "too many levels of symbolic links"),
        ("dangling", "is a link to nothing"),
        ("dangling/inside", "is a link to nothing"),
        (LONG, "file name too long"),
        (f"new/{LONG}", "a name of 300 bytes is too long"),
        (f"new/{'ä' * 200}/x", "a name of 400 bytes is too long"),
        ("nu\0ll", "holds a null character"),
        ("/dev/null", "is a device"),
        ("/proc/new", "cannot write to /proc/new"),
    ],
)
def test_where_nothing_can_be_written(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for check in (check_folder, lambda path: check_file(path / "numbers.json", "choose another --out")):
        with pytest.raises(UsageError, match=re.escape(reason)) as error:
            check(tmp_path / place)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600


def test_a_file_of_the_longest_name_can_be_written(tmp_path: Path) -> None:
    from fairlead.core.files import replacing

    path = tmp_path / ("n" * 255)
    check_file(path)
    with replacing(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    with pytest.raises(UsageError, match="a name of 256 bytes is too long"):
        check_file(tmp_path / ("n" * 256))


def test_looking_never_raises_for_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("words")
    for path in (tmp_path / "no", tmp_path / "loop", tmp_path / "file" / "x", tmp_path / LONG, "nu\0ll", "~no-such/x"):
        assert not is_folder(path)
        assert not is_there(path)
    assert is_folder(tmp_path)
    assert not is_folder(tmp_path / "file")
    assert is_there(tmp_path / "file")
    assert home_expanded("~no-such-user/x") == Path("~no-such-user/x")


def test_text_is_read_from_files_and_pipes_of_the_shell_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfwords")
    (tmp_path / "other").write_bytes(b"\xff\xfe")
    assert read_text(tmp_path / "marked", "prompts") == "words"
    for name, reason in (
        ("pipe", "is a pipe; expected a file"),
        ("", "is a folder"),
        ("other", "is not text in UTF-8"),
    ):
        with pytest.raises(UsageError, match=reason):
            read_text(tmp_path / name, "prompts")
    read, write = os.pipe()
    os.write(write, b"from a shell")
    os.close(write)
    assert read_text(Path(f"/dev/fd/{read}"), "prompts") == "from a shell"
    os.close(read)


def test_an_error_of_the_file_system_says_path_and_reason() -> None:
    assert unreadable(PermissionError(13, "Permission denied", "/a/b")) == "cannot open '/a/b': permission denied"
    assert unreadable(OSError(28, "No space left on device")) == "no space left on device"
    assert len(unreadable(OSError(36, "File name too long", "n" * 100_000))) < 300
