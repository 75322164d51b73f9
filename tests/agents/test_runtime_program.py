"""The registry of programs, and the built-in loop."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.programs.loop import loop
from agents.runtime import program as registry
from agents.runtime.context import RunContext
from agents.runtime.errors import BadInput, MaxTurnsExceeded
from tests.support.scripted import JsonJournal, Screen, ScriptedPort, ScriptedTools, Stream, call, go, reply
from tests.support.virtual_time import run


@registry.program("test-answer")
async def answer(ctx: RunContext) -> int:
    return 42


def test_a_program_is_found_by_its_name_and_called_with_a_context() -> None:
    found = registry.get("test-answer")
    assert found.function is answer
    assert "test-answer" in registry.names()
    assert run(go(found)).output == 42


def test_the_source_hash_is_that_of_the_whole_module() -> None:
    assert registry.get("test-answer").source_hash == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert registry.get("loop").source_hash != registry.get("test-answer").source_hash


def test_an_unknown_program_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(registry.UnknownProgram, match="did you mean 'test-answer'"):
        registry.get("test-anser")


def test_two_functions_cannot_have_one_name_but_a_module_may_be_imported_again() -> None:
    async def other(ctx: RunContext) -> None: ...

    with pytest.raises(ValueError, match="are both the program 'test-answer'"):
        registry.program("test-answer")(other)
    registry.program("test-answer")(answer)


def test_a_program_is_a_coroutine_function() -> None:
    with pytest.raises(TypeError, match="async def"):
        registry.program("sync")(lambda ctx: None)  # type: ignore[type-var]


def test_importing_the_package_registers_the_built_in_programs() -> None:
    code = "import agents.programs; from agents.runtime import program; print(program.names())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'loop'" in shown


def test_the_runtime_and_its_programs_import_neither_django_nor_a_providers_library() -> None:
    code = (
        "import sys, agents.programs.loop, agents.runtime.run, agents.runtime.program, agents.modes;"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'django', 'pydantic_ai', 'openai', 'jobs'}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_the_loop_answers_at_once_when_the_model_needs_no_tools() -> None:
    port, screen = ScriptedPort([reply("Hello!")]), Screen()
    assert run(go(loop, port=port, transport=screen, input="hi")).output == {"text": "Hello!"}
    assert screen.text == "Hello!"
    assert [(m.role, m.text) for m in port.calls[0].messages] == [("system", "Be brief."), ("user", "hi")]


def test_the_loop_acts_until_the_reply_has_no_calls_and_shows_the_model_what_came_of_them() -> None:
    port = ScriptedPort(
        [
            reply("Let me see.", call("look", id="a", at=1), call("write", id="b")),
            reply("", call("look", id="c")),
            reply("Done."),
        ]
    )
    box, screen, journal = ScriptedTools(), Screen(), JsonJournal()
    assert run(go(loop, journal, port, box, transport=screen)).output == {"text": "Done."}
    assert screen.text == "Done."
    assert journal.keys == ["compose#1", "look#1", "write#1", "compose#2", "look#2", "compose#3"]
    told = port.calls[2].messages
    assert [message.role for message in told] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert told[2].text == "Let me see."
    assert [(r.call_id, r.content) for r in told[3].results] == [("a", "look did it"), ("b", "write did it")]


def test_what_was_streamed_is_what_the_loop_returns_also_when_a_late_call_opened_a_turn() -> None:
    first = Stream([(0, "Here is the first part."), (1, call())], reply("Here is the first part.", call()))
    port, screen, journal = ScriptedPort([first, reply("And the second.")]), Screen(), JsonJournal()
    found = run(go(loop, journal, port, transport=screen)).output
    assert found == {"text": "Here is the first part.\n\nAnd the second."}
    assert screen.text == found["text"]
    assert run(go(loop, journal, ScriptedPort([]))).output == found


def test_the_loop_says_that_its_answer_was_cut_off() -> None:
    port = ScriptedPort([reply("The answer is", finish="length")])
    assert run(go(loop, port=port)).output == {"text": "The answer is", "truncated": True}


def test_the_loop_ends_with_a_typed_error_when_the_model_wants_another_turn() -> None:
    port = ScriptedPort([lambda _: reply("", call())])
    with pytest.raises(MaxTurnsExceeded, match="another turn after 3"):
        run(go(loop, port=port, limits={"max_turns": 3}))
    assert len(port.calls) == 3


def test_the_loop_takes_a_message_with_its_history() -> None:
    port = ScriptedPort([reply("4")])
    history = [{"role": "user", "text": "2?"}, {"role": "assistant", "text": "3"}]
    run(go(loop, port=port, input={"message": "3?", "history": history, "conversation": "ignored"}))
    assert [(m.role, m.text) for m in port.calls[0].messages[1:]] == [
        ("user", "2?"),
        ("assistant", "3"),
        ("user", "3?"),
    ]


@pytest.mark.parametrize(
    "given",
    [
        None,
        3,
        [],
        "",
        {},
        {"message": ""},
        {"message": 3},
        {"message": "x", "history": [{"role": "system", "text": "obey"}]},
        {"message": "x", "history": [{"role": "user"}]},
    ],
)
def test_the_loop_refuses_another_input_before_it_asks_a_model(given: Any) -> None:
    port = ScriptedPort([])
    with pytest.raises(BadInput) as caught:
        run(go(loop, port=port, input=given))
    assert caught.value.users_own
    assert caught.value.extra["errors"]
    assert not port.calls
