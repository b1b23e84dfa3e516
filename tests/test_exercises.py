"""Exercises say right, wrong and why; chapters use them as they are meant."""

import json
from pathlib import Path

import pytest

from dogdepth.exercises import Exercise, close_to, quiz, result_of

NBS = Path(__file__).parent.parent / "nbs"


def half(x):
    return x / 2


def judge(f):
    return None if close_to(result_of(f, 3.0), 1.5) else "Half of 3 is something else."


def make(**kw):
    args = dict(judge=judge, hints=("one", "two"), solution=half, why="Two halves make one.") | kw
    return Exercise(**args)


def test_a_right_answer_is_said_to_be_right_and_why():
    assert repr(make().check(lambda x: x * 0.5)) == "Right. Two halves make one."


@pytest.mark.parametrize("blank", [None, ..., lambda x: None, lambda x: ...])
def test_a_blank_is_neither_right_nor_wrong_and_costs_no_try(blank):
    ex = make()
    assert repr(ex.check(blank)).startswith("Not filled in yet") and ex.tries == 0


def test_hints_come_one_by_one_then_the_solution():
    ex = make()
    said = [repr(ex.check(lambda x: x)) for _ in range(3)]
    assert all(s.startswith("Not yet. Half of 3 is something else.") for s in said)
    assert "one" in said[0] and "two" not in said[0] and "two" in said[1]
    assert ["solution" in s for s in said] == [False, False, True]


def test_an_error_in_the_answer_is_a_sentence_not_a_traceback():
    assert "ZeroDivisionError: float division by zero" in repr(make().check(lambda x: x / 0))
    assert "TypeError" in repr(make().check(3)), "a number where a function was asked for"


def test_an_exercise_that_is_broken_cannot_be_made():
    with pytest.raises(AssertionError, match="solution itself is called wrong"):
        make(solution=lambda x: x)
    with pytest.raises(AssertionError, match="earned 'Half of 3"):
        make(wrong={"another sentence": lambda x: x})
    with pytest.raises(AssertionError, match="earned 'right'"):
        make(wrong={"Half": half})
    make(wrong={"Half of 3": lambda x: x})


def test_help_folds_the_hints_and_shows_the_source_of_the_solution():
    html = make().help()._repr_html_()
    assert html.count("<details") == 3 and "return x / 2" in html and "open" not in html.split("<summary")[0]


def test_html_in_words_is_escaped_and_backticks_are_code():
    ex = make(judge=lambda a: None if a is half else f"`a` is {a}.")
    html = ex.check("<script>")._repr_html_()
    assert "<code>a</code>" in html and "&lt;script&gt;" in html and "<script>" not in html


def test_every_question_has_one_right_option_wherever_it_stands():
    questions = {f"Question {i}?": {f"right {i}": "so it is", "wrong": "no", "also wrong": "no"} for i in range(12)}
    blocks = quiz(questions)._repr_html_().split('<div class="question">')[1:]
    assert all(b.count("<b>Yes.</b>") == 1 and b.count("<b>No.</b>") == 2 for b in blocks)
    first = [b.index("<b>Yes.</b>") < b.index("<b>No.</b>") for b in blocks]
    assert any(first) and not all(first), "the right option stands at different places"
    assert quiz(questions)._repr_html_() == quiz(questions)._repr_html_()


def chapters():
    return sorted(p for p in NBS.glob("[0-9][0-9]_*.ipynb") if "dogdepth.exercises" in p.read_text())


def test_the_solutions_of_a_chapter_are_out_of_sight():
    "Whoever opens a chapter sees the question and the blank; the cell that holds the solution is closed."
    assert chapters()
    for path in chapters():
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        makes = [c for c in cells if "Exercise(" in "".join(c["source"])]
        assert not makes or len(makes) >= 3, f"{path.name}: one 'write the core' and two 'predict, then run'"
        for c in makes:
            assert "".join(c["source"]).startswith("#| hide\n"), (path.name, c["id"])
            assert c["metadata"].get("jupyter", {}).get("source_hidden"), (path.name, c["id"])
        assert sum("quiz(" in "".join(c["source"]) for c in cells) == 1, path.name
