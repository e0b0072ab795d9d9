"""What every task says, it says through one console."""

from mprm.stages.devices import console


def test_a_path_with_brackets_is_printed_as_it_is() -> None:
    with console.capture() as captured:
        console.print("wrote runs/[b]x[/b][/nowhere] :smile:")
    assert captured.get() == "wrote runs/[b]x[/b][/nowhere] :smile:\n"
