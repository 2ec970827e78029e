"""What a terminal is given: names of others cannot move its cursor, colour it or make up lines."""

import io
import sys

import pytest
from tqdm import tqdm

from fairlead.core.printable import has_control, printable, printable_output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größer: 猫 ไก่ 👩‍🚀", "größer: 猫 ไก่ 👩‍🚀"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\x9bb\x85\u2028", r"a\x9bb\x85\u2028"),
        ("\u202eevil\u2066\u200f", r"\u202eevil\u2066\u200f"),
        ("\udcff", r"\udcff"),
        ("\0\x07\x7f", r"\x00\x07\x7f"),
    ],
)
def test_text_is_shown_in_one_line_and_as_it_is_written(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_names_may_have_marks_of_their_script_but_no_control_characters() -> None:
    assert not any(map(has_control, ["cat", "שלום\u200f", "می‌خواهم", "a b", "C++"]))
    assert all(map(has_control, ["a\n", "\x1b", "\u202e", "\u2069", "\ud800", "\x85", "\u2029"]))


def test_standard_output_and_error_pass_text_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with printable_output():
        print("one\ttwo\n\x1b[2Jthree \u202e", "größer")
        print("\x1b]0;title\x07", file=sys.stderr)
        for _ in tqdm(range(2), desc="features"):
            pass
    assert (sys.stdout, sys.stderr) == (out, err)
    assert out.getvalue() == "one\ttwo\n\\x1b[2Jthree \\u202e größer\n"
    assert err.getvalue().startswith("\\x1b]0;title\\x07\n\rfeatures:   0%|")


def test_two_bars_keep_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with printable_output(), tqdm(total=2, position=0) as one, tqdm(total=2, position=1) as two:
        one.update()
        two.update()
    assert "\n\r" in err.getvalue()
    assert "\x1b[A" in err.getvalue()
    assert "\\x1b" not in err.getvalue()
