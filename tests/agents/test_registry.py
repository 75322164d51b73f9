from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from django.db import connection, connections, transaction
from pytest_django import DjangoAssertNumQueries, Settings

from agents import registry
from agents.config import ConfigError
from agents.models import AgentVersion, ConfigLoad, Endpoint
from agents.registry import loading, reading
from agents.runtime import program
from audit.models import AuditEntry
from audit.trail import Actor
from tests.support.configs import BASE, load, write
from tests.support.people import person

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    registry.forget()
    yield
    registry.forget()


class Clock:
    """The process's monotonic clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(reading, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def told(text: str = BASE, *, dry_run: bool = False) -> list[str]:
    return [str(change) for change in load(text, dry_run=dry_run).changes]


def test_a_first_load_registers_everything() -> None:
    assert told() == [
        "new agent helper@1",
        "new endpoint help.v1: async-queue, helper@1",
        "new endpoint count.v1: async-queue, helper@1",
        "new endpoint count-more.v1: async-queue, helper@1",
    ]
    assert set(registry.current().endpoints) == {"help.v1", "count.v1", "count-more.v1"}
    version = AgentVersion.objects.get()
    assert version.definition["model"] == {"default": "demo", "downshift": None, "fallback": []}
    assert version.program_hash == program.get("loop").source_hash


CHAT = """
agents: {helper: {version: 1, instructions: Help., model: demo}}
endpoints:
  chat.v1: {agent: helper, mode: streaming-sync, escape: research.v1, input: {type: string, maxLength: 9}}
  plain.v1: {agent: helper, mode: streaming-sync}
  research.v1:
    agent: helper
    mode: async-queue
    input: {type: object, properties: {question: {type: string}}, required: [question]}
"""


def test_an_endpoint_to_chat_with_knows_what_takes_over_and_how_a_message_is_written() -> None:
    load(CHAT)
    known = registry.current().endpoints
    chat, plain, research = known["chat.v1"], known["plain.v1"], known["research.v1"]
    assert (chat.escape, plain.escape) == ("research.v1", None)
    assert (chat.longest_message, plain.longest_message) == (9, 32_000)
    assert chat.message_input("Hello") == "Hello"
    assert chat.message_input("Far too long") is None
    assert research.message_input("Hello") == {"question": "Hello"}


def test_a_change_of_what_takes_over_is_told() -> None:
    load(CHAT)
    assert told(CHAT.replace("escape: research.v1, ", "")) == ["changed endpoint chat.v1: escape changed"]


def test_a_lane_has_its_usual_slots_unless_the_file_says_otherwise() -> None:
    load(CHAT)
    assert registry.current().slots("chat") == registry.CHAT_SLOTS
    load(CHAT + "lanes: {chat: {slots: 3}}\n")
    assert registry.current().slots("chat") == 3
    assert registry.current().slots("queue") == 4


def test_loading_the_same_again_changes_nothing_and_keeps_no_record() -> None:
    load()
    report = load()
    assert report.changes == ()
    assert {entry.what for entry in report.entries} == {"unchanged"}
    assert ConfigLoad.objects.count() == 1
    assert AuditEntry.objects.filter(action="config.load").count() == 1


def test_a_dry_run_says_what_would_change_and_changes_nothing() -> None:
    load()
    new = BASE.replace("Help.", "Help more.").replace("version: 1", "version: 2")
    assert told(new, dry_run=True) == told(new, dry_run=True) != []
    assert AgentVersion.objects.count() == 1
    assert registry.current().endpoints["help.v1"].agent_version == 1


def test_another_definition_needs_another_version() -> None:
    load()
    with pytest.raises(ConfigError) as caught:
        load(BASE.replace("Help.", "Help more."))
    assert str(caught.value) == (
        "astra.yml:4: agents.helper.version: version 1 is loaded with another definition (instructions); "
        "raise version to 2"
    )
    assert AgentVersion.objects.get().definition["instructions"] == "Help."


def test_a_new_version_is_a_new_row_and_endpoints_move_to_it() -> None:
    load()
    assert told(BASE.replace("Help.", "Help more.").replace("version: 1", "version: 2")) == [
        "new agent helper@2",
        "changed endpoint help.v1: helper@1 → helper@2",
        "changed endpoint count.v1: helper@1 → helper@2",
        "changed endpoint count-more.v1: helper@1 → helper@2",
    ]
    assert list(AgentVersion.objects.values_list("version", flat=True)) == [2, 1]


def test_going_back_to_an_old_version_is_allowed() -> None:
    load()
    load(BASE.replace("Help.", "Help more.").replace("version: 1", "version: 2"))
    load()
    assert registry.current().endpoints["help.v1"].agent_version == 1


def test_another_model_behind_an_alias_is_another_definition() -> None:
    text = BASE.replace("model: demo", "model: strong") + "models: {strong: openai:gpt-5.1}\n"
    load(text)
    with pytest.raises(ConfigError, match=r"another definition \(model\)"):
        load(text.replace("gpt-5.1", "gpt-5.2"))


def test_another_mode_needs_another_name() -> None:
    load()
    Endpoint.objects.filter(name="help.v1").update(mode="scheduled-trigger")
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value) == (
        "astra.yml:8: endpoints[help.v1].mode: help.v1 is of mode scheduled-trigger for ever; "
        "give async-queue a new name, like help.v2"
    )


def test_all_refusals_are_told_together_and_nothing_is_loaded() -> None:
    load()
    Endpoint.objects.filter(name="help.v1").update(mode="scheduled-trigger")
    with pytest.raises(ConfigError) as caught:
        load(BASE.replace("Help.", "Help more.") + "  new.v1: {agent: helper, mode: async-queue}\n")
    assert len(caught.value.faults) == 2
    assert not Endpoint.objects.filter(name="new.v1").exists()


def test_an_undeclared_endpoint_takes_no_new_work_until_it_is_declared_again() -> None:
    load()
    less = BASE[: BASE.index("  count.v1")]
    assert told(less) == [
        "removed endpoint count-more.v1: takes no new work; its tasks finish",
        "removed endpoint count.v1: takes no new work; its tasks finish",
    ]
    assert not registry.current().endpoints["count.v1"].active
    assert "changed endpoint count.v1: declared again" in told()


def test_a_changed_program_is_recorded_under_the_same_version() -> None:
    load()
    AgentVersion.objects.update(program_hash="as it was")
    assert told() == ["changed agent helper@1: the code of its program loop, under the same version"]
    assert AgentVersion.objects.get().program_hash == program.get("loop").source_hash


def test_settings_beside_agents_are_kept_and_told_once() -> None:
    text = BASE + (
        "lanes: {queue: {max_depth: 5}}\n"
        "models: {cheap: {model: openai:own, inputUsdPerMtok: 0.1, outputUsdPerMtok: 0.4}}\n"
        "tools: {batching: {maxBatchSize: 3}, catalog: [{id: web_crawl, timeoutMs: 1500, batchable: false}]}\n"
    )
    assert len(told(text)) == 7
    known = registry.current()
    assert known.max_depth("queue") == 5
    assert known.max_depth("batch") is None
    assert known.prices == {"openai:own": ("0.1", "0.4")}
    assert known.max_batch_size == 3
    assert known.tool_overrides == {"web_crawl": {"timeout_s": 1.5, "batchable": False}}
    assert told(text) == []
    assert len(told(BASE)) == 3
    assert registry.current().max_depth("queue") is None


def test_batching_that_is_switched_off_runs_one_call_at_a_time() -> None:
    load(BASE + "tools: {batching: {enabled: false}}\n")
    assert registry.current().max_batch_size == 1


def test_whoever_loads_is_on_record() -> None:
    registry.load(write(BASE), actor=Actor(person("boss")))
    assert ConfigLoad.objects.get().actor == "boss"
    assert "new agent helper@1" in (AuditEntry.objects.get(action="config.load").after or {})["changes"]


def test_another_process_notices_a_load_within_seconds_and_does_not_ask_each_time(
    clock: Clock, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    load()
    registry.current()
    Endpoint.objects.filter(name="count.v1").update(active=False)  # as a load elsewhere would
    ConfigLoad.objects.create(actor="elsewhere")
    with django_assert_num_queries(0):
        assert registry.current().endpoints["count.v1"].active
    clock.now += reading.FRESH_S
    assert not registry.current().endpoints["count.v1"].active


def test_a_look_without_news_costs_one_small_query(
    clock: Clock, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    load()
    registry.current()
    clock.now += reading.FRESH_S
    with django_assert_num_queries(1):
        registry.current()


def test_a_process_can_run_the_versions_whose_program_and_tools_it_has() -> None:
    load()
    load(BASE.replace("Help.", "Help more.").replace("version: 1", "version: 2"))
    base = {"digest": "", "program_hash": ""}
    AgentVersion.objects.create(name="alien", version=1, program="unheard-of", definition={"tools": []}, **base)
    AgentVersion.objects.create(name="handy", version=1, program="loop", definition={"tools": ["laser"]}, **base)
    assert sorted(registry.capabilities()) == ["agent:helper@1", "agent:helper@2"]


def test_a_process_learns_programs_from_the_modules_that_were_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "programs_of_a_test.py").write_text(
        "from agents.runtime.program import program\n\n\n@program('of-a-test')\nasync def run(ctx):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    AgentVersion.objects.create(
        name="own", version=3, program="of-a-test", definition={"tools": []}, digest="", program_hash=""
    )
    assert registry.capabilities() == []
    ConfigLoad.objects.create(programs=["programs_of_a_test"], actor="elsewhere")
    assert registry.capabilities() == ["agent:own@3"]


def test_a_module_that_can_not_be_imported_takes_no_other_capability_away() -> None:
    load()
    ConfigLoad.objects.create(programs=["not.there.at.all"], actor="elsewhere")
    assert registry.capabilities() == ["agent:helper@1"]


def test_a_module_that_was_mended_is_imported_after_the_next_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "mended_of_a_test.py"
    module.write_text("raise RuntimeError\n")
    AgentVersion.objects.create(
        name="own", version=1, program="mended", definition={"tools": []}, digest="", program_hash=""
    )
    ConfigLoad.objects.create(programs=["mended_of_a_test"], actor="elsewhere")
    assert registry.capabilities() == []
    good = "from agents.runtime.program import program\n\n\n@program('mended')\nasync def run(ctx):\n    return 1\n"
    module.write_text(good)
    assert registry.capabilities() == [], "it is not tried at every heartbeat"
    ConfigLoad.objects.create(programs=["mended_of_a_test"], actor="elsewhere")
    assert registry.capabilities() == ["agent:own@1"]


def test_a_spec_gets_its_models_from_this_processs_environment(settings: Settings) -> None:
    load(
        BASE.replace("model: demo", "model: {default: a, fallback: [b]}")
        + "models: {a: openai:gpt-5.1, b: anthropic:claude-haiku-4-5}\n"
    )
    version = AgentVersion.objects.get()
    settings.ASTRA_MODEL, settings.OPENAI_API_KEY, settings.ANTHROPIC_API_KEY = "", "key", ""
    models = registry.spec_for(version).models
    assert (models.default, models.fallback) == ("openai:gpt-5.1", ("demo",))
    settings.ASTRA_MODEL = "demo"
    assert registry.spec_for(version).models.default == "demo"
    assert registry.spec_for(version).limits.max_turns == 8


@pytest.mark.django_db(transaction=True)
def test_a_load_waits_for_one_that_is_under_way() -> None:
    path, errors = write(BASE), []

    def work() -> None:
        try:
            registry.load(path)
        except Exception as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [loading.LOCK])
        thread.start()
        deadline, waits = monotonic() + 20, 0
        while not waits and monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            waits = cursor.fetchone()[0]
        assert waits == 1
        assert not AgentVersion.objects.exists()
    thread.join(20)
    assert errors == []
    assert AgentVersion.objects.count() == 1
