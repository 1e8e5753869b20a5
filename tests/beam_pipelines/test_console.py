"""A command's failures: one line and an exit code, or a traceback where it is a bug."""

import gcsfs.retry
import pytest

from beam_pipelines import console
from schemas.errors import DataError, Stopped


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (DataError("nothing\nmatches"), 1, "superbatch x: nothing matches"),
        (FileNotFoundError("no such file"), 1, "superbatch x: FileNotFoundError: no such file"),
        (gcsfs.retry.HttpError({"code": 503, "message": "Backend Error"}), 1,
         "superbatch x: HttpError: Backend Error, 503"),
        (Stopped("saved at step 3"), 0, "superbatch x: saved at step 3"),
        (KeyboardInterrupt(), 130, "superbatch x: interrupted; run it again to go on where it stopped"),
    ],
)  # fmt: skip
def test_failures_are_told_in_one_line(failure, code, line, capsys):
    def fail() -> int:
        raise failure

    assert console.run_command("superbatch x", fail) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_bug_keeps_its_traceback():
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        console.run_command("superbatch x", fail)
