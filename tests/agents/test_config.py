from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from django.conf import settings

from agents.config import Config, ConfigError, load_config
from agents.config.source import MAX_BYTES
from agents.programs.research import MOST_PAGES
from tests.support.configs import BASE, write

GOOD = """\
models:
  strong: anthropic:claude-sonnet-4-5
  fast: {model: openai:gpt-5-mini, input_usd_per_mtok: 0.25, output_usd_per_mtok: 2}
agents:
  helper:
    version: 1
    instructions: Help.
    model: {default: strong, downshift: fast, fallback: [fast]}
    tools: [web_crawl]
    limits: {max_turns: 3}
endpoints:
  help.v1: {agent: helper, mode: async-queue}
"""


def config(text: str) -> Config:
    return load_config(write(textwrap.dedent(text)))


def faults(text: str) -> list[str]:
    """Return what is wrong, as `line: key path: message`."""
    with pytest.raises(ConfigError) as caught:
        config(text)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("astra.yml:") for line in lines)
    return [line.removeprefix("astra.yml:") for line in lines]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_shipped_file_is_valid_and_has_the_stable_endpoints() -> None:
    shipped = load_config(settings.BASE_DIR / "astra.yml")
    assert {"answer.v1", "chat.v1", "research.v1"} <= set(shipped.endpoints)
    assert shipped.endpoints["chat.v1"].agent == shipped.endpoints["answer.v1"].agent
    assert shipped.endpoints["chat.v1"].escape == "research.v1"
    size = shipped.endpoints["research.v1"].request_size
    assert size is not None
    assert (size.of, size.max) == ("max_pages", MOST_PAGES)


def test_a_file_is_read_whole() -> None:
    read = config(GOOD)
    assert read.model("strong") == "anthropic:claude-sonnet-4-5"
    assert read.agents["helper"].limits.max_turns == 3
    assert read.agents["helper"].limits.max_tokens == 4000
    assert read.endpoints["help.v1"].mode == "async-queue"
    price = read.models["fast"].price
    assert price is not None
    assert [str(part) for part in price] == ["0.25", "2"]


def test_camel_case_and_snake_case_mean_the_same() -> None:
    camel = """
    agents:
      helper: {version: 1, instructions: Help., model: demo, limits: {maxTurns: 3, wallClockS: 6, expectedLatencyMs: 9}}
    endpoints:
      help.v1: {agent: helper, mode: async-queue, requestSize: {max: 3}}
    lanes: {queue: {maxDepth: 7}}
    """
    snake = (
        camel.replace("maxTurns", "max_turns").replace("wallClockS", "wall_clock_s").replace("maxDepth", "max_depth")
    ).replace("expectedLatencyMs", "expected_latency_ms")
    one, other = config(camel), config(snake.replace("requestSize", "request_size"))
    assert (one.agents, one.endpoints, one.lanes) == (other.agents, other.endpoints, other.lanes)
    assert one.lanes["queue"].max_depth == 7


def test_an_empty_file_declares_nothing() -> None:
    assert not config("").agents
    assert not config("# only a comment\n").endpoints


def test_names_of_ones_own_are_never_respelled() -> None:
    read = config("models: {myModel: demo, my_model: demo}\n")
    assert set(read.models) == {"myModel", "my_model"}


def test_a_key_that_yaml_reads_as_a_truth_value_stays_a_key() -> None:
    assert faults("on: 1\n") == [
        "1: on: unknown key; known here: agents, approvals, endpoints, lanes, models, programs, tools"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (changed("max_turns", "max_turn"), "10: agents.helper.limits.max_turn: unknown key; did you mean max_turns?"),
        (changed("max_turns", "maxTurn"), "10: agents.helper.limits.maxTurn: unknown key; did you mean maxTurns?"),
        (changed("agents:", "agnets:"), "4: agnets: unknown key; did you mean agents?"),
        (changed("    version: 1\n", ""), "5: agents.helper: the key version is missing"),
        (changed("version: 1", "version: one"), "6: agents.helper.version: input should be a valid integer, not 'one'"),
        (changed("version: 1", "version: yes"), "6: agents.helper.version: input should be a valid integer, not True"),
        (changed("version: 1", 'version: "1"'), "6: agents.helper.version: input should be a valid integer, not '1'"),
        (changed("Help.", '" "'), "7: agents.helper.instructions: it is empty, not ' '"),
        (
            changed("default: strong", "default: stong"),
            "8: agents.helper.model.default: 'stong' is neither an alias nor a model; did you mean 'strong'?",
        ),
        (
            changed("anthropic:", "antropic:"),
            "2: models.strong: 'antropic:claude-sonnet-4-5': there is no provider 'antropic'; did you",
        ),
        (
            changed("fallback: [fast]", "fallback: [fast, strong]"),
            "8: agents.helper.model.fallback[1]: the fallback comes back to anthropic:claude-sonnet-4-5, which",
        ),
        (
            changed("[web_crawl]", "[web_craw]"),
            "9: agents.helper.tools[0]: there is no tool 'web_craw'; did you mean web_crawl?",
        ),
        (changed("[web_crawl]", "[web_crawl, web_crawl]"), "9: agents.helper.tools[1]: web_crawl stands here twice"),
        (
            changed("    tools:", "    program: loob\n    tools:"),
            "9: agents.helper.program: there is no program 'loob'; did you mean loop?",
        ),
        (
            changed("agent: helper", "agent: halper"),
            "12: endpoints[help.v1].agent: there is no agent 'halper'; did you mean helper?",
        ),
        (
            changed("mode: async-queue", "mode: async"),
            "12: endpoints[help.v1].mode: there is no mode 'async'; did you mean async-queue?",
        ),
        (
            changed(", output_usd_per_mtok: 2", ""),
            "3: models.fast: give both input_usd_per_mtok and",
        ),
        (changed("max_turns: 3", "max_turns: 0"), "10: agents.helper.limits.max_turns: input should be greater than"),
        (changed("max_turns: 3", "wall_clock_s: .inf"), "10: agents.helper.limits.wall_clock_s: .inf is not a finite"),
        (changed("help.v1", "help"), "12: endpoints.help: a name here looks like research.v1"),
        (changed("  helper:", "  Helper@1:"), "5: agents.Helper@1: a name here looks like assistant"),
        (GOOD + "lanes: {queu: {slots: 1}}\n", "13: lanes.queu: there is no lane 'queu'; did you mean queue?"),
        (
            GOOD + "programs: [agents.nowhere]\n",
            "13: programs[0]: agents.nowhere can't be imported: Module",
        ),
        (GOOD + "programs: loop\n", "13: programs: this must be a list of Python modules"),
        (GOOD + "tools: {catalog: [{id: shell}]}\n", "13: tools.catalog[0].id: there is no tool 'shell'"),
        (
            GOOD + "tools: {catalog: [{id: web_crawl}, {id: web_crawl}]}\n",
            "13: tools.catalog[1].id: web_crawl stands here twice",
        ),
        ("agents: [helper]\n", "1: agents: this must be a mapping from names, not ['helper']"),
        ("- agents\n", "1: the file must be a mapping of sections"),
        ("agents: {a: {version: 1}\n", "2: this is not YAML"),
        ("agents: {a: 2020-01-01}\n", "1: agents.a: '2020-01-01' reads as a date; put it in quotes"),
        ("a: &a [*a]\n", "1: a[0]: this alias contains itself"),
        ('models: {m: "a\\0b"}\n', "1: models.m: text may not hold the character U+0000"),
        ('models: {m: "\\ud800"}\n', "1: models.m: text may not hold the character U+D800"),
        ('models: {"a\\0b": c}\n', "1: models: a key must be plain text"),
        ("agents: {a: 2020-13-01}\n", "1: agents.a: '2020-13-01' is not what it looks like; put it in quotes"),
        ("agents: {a: !!int b}\n", "1: agents.a: 'b' is not what it looks like; put it in quotes"),
        ("agents: {a: !!bool b}\n", "1: agents.a: 'b' is not what it looks like; put it in quotes"),
        (f"agents: {{a: {'9' * 5000}}}\n", "1: agents.a: '999"),
        (f"agents: {{a: 0x{'f' * 5000}}}\n", "1: agents.a: the number is too large"),
        (f"agents: {'[' * 5000}{']' * 5000}\n", "1: its values are nested too deep"),
    ],
)
def test_a_fault_is_named_with_its_line_its_key_and_what_was_meant(text: str, expected: str) -> None:
    assert any(fault.startswith(expected) for fault in faults(text)), faults(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "subscriptions: []\n", "13: subscriptions: subscriptions is not supported yet"),
        (GOOD + "quotas: {}\n", "13: quotas: quotas is not supported yet"),
        (GOOD + "rubrics: {}\n", "13: rubrics: rubrics is not supported yet"),
        (GOOD + "breaker: {}\n", "13: breaker: breaker is not supported yet"),
        (GOOD + "retention: {}\n", "13: retention: retention is not supported yet"),
        (GOOD + "hooks: {}\n", "13: hooks: hooks is not supported yet"),
        (GOOD + "timeZone: Europe/Madrid\n", "13: timeZone: timeZone is not supported yet"),
        (GOOD + "tools: {mcp: []}\n", "13: tools.mcp: mcp is not supported yet"),
        (GOOD + "tools: {batching: {maxWaitMs: 5}}\n", "13: tools.batching.maxWaitMs: maxWaitMs is not supported yet"),
        (
            GOOD + "tools: {catalog: [{id: web_crawl, async: true}]}\n",
            "13: tools.catalog[0].async: async is not supported yet",
        ),
        (changed("tools:", "verify: draft\n    tools:"), "9: agents.helper.verify: draft is not supported yet"),
        (
            changed("tools:", "verify: buffered\n    tools:"),
            "9: agents.helper.verify: the program loop brings no check",
        ),
        (changed("tools:", "dailyBudgetUsd: 2\n    tools:"), "9: agents.helper.dailyBudgetUsd: dailyBudgetUsd is not"),
        (
            changed("mode: async-queue", "mode: async-queue, target: x"),
            "12: endpoints[help.v1].target: target is not supported yet",
        ),
        (changed("async-queue", "batch-window"), "12: endpoints[help.v1].mode: mode batch-window is not supported yet"),
        (changed("async-queue", "scheduled-trigger"), "12: endpoints[help.v1].mode: mode scheduled-trigger is not"),
    ],
)
def test_what_is_not_built_yet_is_refused_by_name(text: str, expected: str) -> None:
    assert any(fault.startswith(expected) for fault in faults(text)), faults(text)


def test_aliases_that_go_round_in_a_circle_are_refused() -> None:
    found = faults("models: {a: b, b: c, c: a}\n")
    assert len(found) == 3
    assert "a → b → c → a" in found[0]


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = changed("max_turns", "max_turn").replace("agent: helper", "agent: nobody")
    found = faults(text + "subscriptions: []\n")
    assert [fault.split(":")[0] for fault in found] == ["10", "12", "13"]


def test_one_agents_fault_does_not_hide_anothers() -> None:
    text = GOOD.replace("endpoints:", "  other: {version: 1, instructions: x, model: nope, tool: [x]}\nendpoints:")
    found = faults(text.replace("[web_crawl]", "[nope]"))
    assert any(fault.startswith("9: agents.helper.tools[0]") for fault in found)
    assert any(fault.startswith("11: agents.other.tool: unknown key; did you mean tools?") for fault in found)


def test_an_agent_at_fault_is_not_called_unknown_where_it_is_used() -> None:
    assert len(faults(changed("version: 1", "version: x"))) == 1


def test_a_model_at_fault_is_not_called_unknown_where_it_is_used() -> None:
    assert len(faults(changed("anthropic:claude-sonnet-4-5", "[1]"))) == 1


def test_a_key_that_stands_twice_is_refused_in_either_spelling() -> None:
    same = faults("models: {a: demo}\nmodels: {b: demo}\n")
    assert same == ["2: models: the same key stands already on line 1"]
    spelled = faults(changed("max_turns: 3", "max_turns: 3, maxTurns: 4"))
    assert spelled == ["10: agents.helper.limits.maxTurns: the same key stands already on line 10 as max_turns"]


SCHEMA = """\
agents: {helper: {version: 1, instructions: Help., model: demo}}
endpoints:
  help.v1:
    agent: helper
    mode: async-queue
    input: {SCHEMA}
"""


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("type: strng", "6: endpoints[help.v1].input.type: this is no JSON schema: 'strng' is not valid"),
        ('pattern: "("', "6: endpoints[help.v1].input.pattern: this is no JSON schema"),
        (
            '$schema: "http://json-schema.org/draft-04/schema#"',
            "6: endpoints[help.v1].input.$schema: only https://json-",
        ),
        ('$ref: "#/$defs/nope"', "6: endpoints[help.v1].input.$ref: '#/$defs/nope' is not in this schema"),
        (
            '$ref: "https://example.com/s.json"',
            "6: endpoints[help.v1].input.$ref: 'https://example.com/s.json' is",
        ),
    ],
)
def test_a_schema_that_is_none_is_refused(schema: str, expected: str) -> None:
    assert faults(SCHEMA.replace("SCHEMA", schema))[0].startswith(expected)


def test_a_schema_keeps_its_own_spelling_of_keys() -> None:
    text = SCHEMA.replace("SCHEMA", "type: object, properties: {maxItems: {maxLength: 3}, max_items: {type: string}}")
    assert set(config(text).endpoints["help.v1"].input["properties"]) == {"maxItems", "max_items"}  # type: ignore[index]


def test_a_request_size_that_counts_a_field_the_input_has_not_is_refused() -> None:
    found = faults(BASE.replace("of: things}\n  count-more", "of: thing}\n  count-more"))
    assert found[0].endswith("the input has no field 'thing'; did you mean things?")


CHAT = """\
agents: {helper: {version: 1, instructions: Help., model: demo}}
endpoints:
  chat.v1: {agent: helper, mode: streaming-sync, escape: help.v1}
  help.v1: {agent: helper, mode: async-queue}
"""


def test_an_endpoint_to_chat_with_may_name_one_that_takes_over_when_an_answer_fails() -> None:
    assert config(CHAT).endpoints["chat.v1"].escape == "help.v1"
    assert config(CHAT.replace(", escape: help.v1", "")).endpoints["chat.v1"].escape is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "async-queue}",
            "async-queue, escape: chat.v1}",
            "4: endpoints[help.v1].escape: an endpoint of mode async-queue hands nothing over",
        ),
        ("help.v1}", "halp.v1}", "3: endpoints[chat.v1].escape: there is no endpoint 'halp.v1'; did you mean help.v1?"),
        (
            "help.v1}",
            "chat.v1}",
            "3: endpoints[chat.v1].escape: chat.v1 is of mode streaming-sync; name an endpoint that takes tasks",
        ),
        (
            "async-queue}",
            "async-queue, input: {type: object, required: [url]}}",
            "3: endpoints[chat.v1].escape: help.v1 does not take a message of 32000 characters, as chat.v1 does",
        ),
        (
            "async-queue}",
            "async-queue, input: {type: string, maxLength: 31999}}",
            "3: endpoints[chat.v1].escape: help.v1 does not take a message of 32000 characters",
        ),
        (
            "streaming-sync,",
            "streaming-sync, input: {type: object, required: [question]},",
            "3: endpoints[chat.v1].input: a chat sends a message of up to 32000 characters",
        ),
    ],
)
def test_an_endpoint_to_chat_with_that_could_not_work_is_refused(old: str, new: str, expected: str) -> None:
    assert old in CHAT
    found = faults(CHAT.replace(old, new))
    assert len(found) == 1
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    "input",
    [
        "{type: string}",
        "{type: object, properties: {message: {type: string, maxLength: 40}}, required: [message]}",
        "{type: object, properties: {question: {type: string, maxLength: 40}}, required: [question]}",
    ],
)
def test_a_message_may_be_handed_over_in_any_form_that_a_text_has(input: str) -> None:
    short = CHAT.replace("streaming-sync,", "streaming-sync, input: {type: string, maxLength: 40},")
    assert "help.v1" in config(short.replace("async-queue}", f"async-queue, input: {input}}}")).endpoints


def test_what_takes_over_is_not_spoken_of_where_its_own_section_is_at_fault() -> None:
    assert len(faults(CHAT.replace("async-queue", "async-queu"))) == 1
    assert len(faults(CHAT.replace("async-queue}", "async-queue, input: {type: strng}}"))) == 1
    assert len(faults(CHAT.replace("async-queue}", "async-queue, outputs: {}}"))) == 1


def test_the_lane_of_chats_has_slots_and_no_depth() -> None:
    assert config(CHAT + "lanes: {chat: {slots: 3}}\n").lanes["chat"].slots == 3
    (found,) = faults(CHAT + "lanes: {chat: {maxDepth: 3}}\n")
    assert found.startswith("5: lanes.chat.maxDepth: nobody waits in this lane")


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path / "nowhere.yml")
    path = tmp_path / "astra.yml"
    path.write_bytes(b"models: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_a_bomb_of_aliases_is_refused() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{other}: &{other} [{', '.join([f'*{one}'] * 10)}]\n"
    with pytest.raises(ConfigError, match="unfolds"):
        config(bomb)


def test_a_file_beyond_all_measure_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "astra.yml"
    path.write_bytes(b"# \xc3\xa9\n" * (MAX_BYTES // 5 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_config(path)
