"""Errors that the command reports in one line, and bugs."""

from rescale_compat.errors import RescaleError

import pytest

from rescale_app import cli
from rescale_arch import AIDN, scale_pair


@pytest.mark.parametrize("call", [lambda: scale_pair(9), lambda: AIDN(num_feat=7)])
def test_what_a_user_can_correct_is_a_rescale_error(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RescaleError):
        call()


def test_a_bug_is_not_reported_as_wrong_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(ValueError, match="broadcast"):
        cli.main(["weights", "list"])
    monkeypatch.setattr(cli, "_run", lambda _: (_ for _ in ()).throw(RescaleError("scale 9")))
    assert cli.main(["weights", "list"]) == 1
    assert capsys.readouterr().err == "rescale: error: scale 9\n"
