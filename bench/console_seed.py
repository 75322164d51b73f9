"""Write the tables of a house that has worked for a month: tasks in any number, their journals, the trail.

All of it by SQL, and without the foreign keys' checks and the indexes until the end: a million tasks take a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.stage import ROOT

CONFIG = ROOT / "bench" / "console.yml"
PEOPLE = 200
#: Who has four in ten of the tasks, who has only twenty, the oldest of all, and the operator who looks.
MOST_TASKS, FEW_TASKS, OPERATOR = "person-1", f"person-{PEOPLE}", "olga"
DAYS = 30
#: Words of inputs: in all; in a tenth; in one of 250, all of it old; in fifty; in none.
FREQUENT, COMMON, OLD, RARE, ABSENT = "report", "invoice", "quarterly", "zebra", "xylophone"
#: Words of a failure that a fifth of the failed have, and of one that few have.
FAILED_OFTEN, FAILED_RARELY = "provider", "checksum"

_TABLES = (
    "jobs_job",
    "jobs_jobevent",
    "jobs_wait",
    "jobs_worker",
    "jobs_bulkoperation",
    "jobs_lanesample",
    "jobs_idempotencykey",
    "agents_run",
    "agents_step",
    "agents_score",
    "agents_conversation",
    "agents_message",
    "agents_memory",
    "agents_runstat",
    "audit_auditentry",
    "audit_auditseal",
)

# The newest are under way; before them 95 in a hundred succeeded. The first person has four in ten of the tasks, the
# last one twenty, the oldest of all.
_TASKS = """
CREATE UNLOGGED TABLE bench_task AS
SELECT n, uuidv7(at - now()) AS id, at, state, mode, endpoint,
       CASE WHEN n <= 20 THEN {people} WHEN n % 5 < 2 THEN 1 ELSE 2 + (n / 7) % ({people} - 2) END AS person,
       CASE WHEN mode = 'streaming-sync' THEN 'chat' WHEN n % 10000 = 103 THEN 'suspect' ELSE 'queue' END AS lane,
       CASE WHEN state IN ('dead', 'discarded') OR state = 'cancelled' AND n % 3 = 0
              OR state IN ('scheduled', 'queued') AND n % 10 = 0 THEN
           CASE WHEN (n / 100) % 64 < 40 THEN (n / 100) % 64 ELSE 0 END END AS failure
FROM generate_series(1, {tasks}) n,
LATERAL (SELECT now() - make_interval(secs => ({tasks} - n + 1) * {days} * 86400.0 / {tasks}) AS at) t,
LATERAL (SELECT CASE WHEN n > {tasks} * 0.995 THEN (ARRAY['queued', 'queued', 'queued', 'queued', 'queued', 'queued',
                     'blocked', 'blocked', 'scheduled', 'waiting', 'running', 'queued'])[1 + n % 12]
                 WHEN n % 100 = 3 THEN 'dead' WHEN n % 100 = 5 THEN 'cancelled' WHEN n % 200 = 7 THEN 'discarded'
                 WHEN n % 100 = 9 THEN 'blocked' ELSE 'succeeded' END AS state) s,
LATERAL (SELECT CASE WHEN n <= {tasks} * 0.01 THEN 'retired.v1' WHEN n % 10 < 2 THEN 'chat.v1'
                 WHEN n % 10 = 2 THEN 'file.v1' WHEN n % 100 = 53 THEN 'watch.v1' WHEN n % 100 = 63 THEN 'dig.v1'
                 ELSE 'answer.v1' END AS endpoint) e,
LATERAL (SELECT CASE endpoint WHEN 'chat.v1' THEN 'streaming-sync' ELSE 'async-queue' END AS mode) m
"""
_WORKERS = """
INSERT INTO jobs_worker (id, hostname, pid, slots, lanes, capabilities, version, started_at, seen_at, lease_until,
    ended_at, "end")
SELECT gen_random_uuid(), 'host-' || n % 20, n, '{{"queue": 16, "chat": 16}}', '{{queue,chat}}', '{{}}',
       '0.1.0', at, at, CASE WHEN n > 8 THEN at ELSE now() + interval '1 day' END,
       CASE WHEN n > 8 THEN at END, CASE WHEN n > 8 THEN (ARRAY['stopped', 'lost', 'died'])[1 + n % 3] ELSE '' END
FROM generate_series(1, {workers}) n, LATERAL (SELECT now() - make_interval(mins => n * 10) AS at) t
"""
_JOBS = """
INSERT INTO jobs_job (id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag, partition_key,
    hold_keys, blocked_on, run_at, attempt, max_attempts, crashes, generation, fence, worker_id, error,
    created_at, queued_at, claimed_at, started_at, finished_at)
SELECT t.id, 'agent-run', '{{}}', p.id, state, lane, lane, 1, n / 100,
       CASE WHEN n % 50 = 0 THEN 'thread-' || n END,
       ARRAY['all', 'lane:' || lane, 'endpoint:' || endpoint],
       CASE WHEN state = 'blocked' THEN ARRAY[CASE n % 3 WHEN 0 THEN 'partition' ELSE 'hold:agent:helper:paused' END]
            ELSE '{{}}' END,
       CASE WHEN state = 'scheduled' THEN now() + interval '1 hour' END,
       CASE WHEN failure IS NULL THEN 0 ELSE 3 END, 3, 0, 1, 1,
       CASE WHEN state = 'running' THEN w.id END,
       CASE WHEN failure IS NOT NULL THEN jsonb_build_object(
           'type', '/problems/' || CASE failure % 5 WHEN 0 THEN 'model-unavailable' ELSE 'task-failed' END,
           'title', CASE failure % 5 WHEN 0 THEN 'The model is not available now' ELSE 'The task failed' END,
           'detail', CASE WHEN failure % 5 = 0 THEN 'The {often} answered 503 three times.'
                          WHEN n % 20000 = 203 THEN 'The {rarely} of the file is another one.'
                          ELSE 'Step ' || failure || ' raised an error nobody expected.' END,
           'fingerprint', md5('failure ' || failure), 'retriable', true) END,
       at, at, CASE WHEN done OR state IN ('running', 'waiting') THEN at + interval '1 s' END,
       CASE WHEN done OR state IN ('running', 'waiting') THEN at + interval '1 s' END,
       CASE WHEN done THEN at + make_interval(secs => 2 + n % 50) END
FROM bench_task t
JOIN (SELECT id, row_number() OVER (ORDER BY id) AS nth FROM auth_user WHERE username LIKE 'person-%') p
    ON p.nth = t.person
CROSS JOIN LATERAL (SELECT state IN ('succeeded', 'dead', 'cancelled', 'discarded') AS done) d
LEFT JOIN (SELECT id, row_number() OVER (ORDER BY id) AS nth FROM jobs_worker WHERE ended_at IS NULL) w
    ON w.nth = 1 + t.n % 8
ORDER BY n
"""
_RUNS = """
INSERT INTO agents_run (job_id, endpoint_id, agent_id, mode, user_id, input, output, budget, seed, journal_epoch,
    steps_done, turns, input_tokens, output_tokens, cost_usd, cost_known, first_token_ms, created_at)
SELECT t.id, e.id, e.agent_id, t.mode, j.user_id,
       to_jsonb('Write the {frequent} ' || n || ' of ' || md5(n::text) || ' for town ' || n % 5000
           || CASE WHEN n % 10 = 0 THEN ' with each {common} that we sent' ELSE '' END
           || CASE WHEN n % 10 = 0 AND n <= {tasks} * 0.04 THEN ' in the {old} style' ELSE '' END
           || CASE WHEN n % ({tasks} / 50) = 11 THEN ' and mind the {rare}' ELSE '' END),
       CASE t.state WHEN 'succeeded' THEN jsonb_build_object('text', repeat('Here it is, ' || n || '. ', 10)) END,
       '{{}}', n, 1, 3, 1, 1200, 300, 0.004, n % 50 > 0,
       CASE WHEN t.mode = 'streaming-sync' THEN 300 + n % 900 END, at
FROM bench_task t JOIN agents_endpoint e ON e.name = t.endpoint JOIN jobs_job j ON j.id = t.id
ORDER BY n
"""
_EVENTS = """
INSERT INTO jobs_jobevent (job_id, at, kind, old, new, fence, actor, reason)
SELECT t.id, t.at, 'state', life.old, CASE life.new WHEN '' THEN t.state ELSE life.new END, 1, '', life.reason
FROM bench_task t,
    (VALUES ('', 'queued', 'submitted'), ('queued', 'running', 'claimed'), ('running', '', 'finished'))
        life (old, new, reason)
WHERE n > {tasks} * 2 / 3 ORDER BY n
"""
_STEPS = """
INSERT INTO agents_step (run_id, epoch, key, name, kind, input_hash, input, output, fence, model, input_tokens,
    output_tokens, cost_usd, started_at, finished_at)
SELECT t.id, 1, s.name || '#0', s.name, s.kind, repeat('0', 64), '{{"arguments": {{"text": "of the step"}}}}',
       jsonb_build_object('text', repeat('what came out ', 20)), 1, CASE s.kind WHEN 'model' THEN 'demo' ELSE '' END,
       400, 100, 0.001, t.at, t.at + interval '1 s'
FROM bench_task t, (VALUES ('plan', 'model'), ('read', 'tool'), ('write', 'model')) s (name, kind)
WHERE n > {tasks} * 2 / 3 AND t.state <> 'queued' ORDER BY n
"""
_SCORES = """
INSERT INTO agents_score (run_id, rubric, value, judge, reason, mode, created_at)
SELECT id, 'quality', (n % 100) / 100.0, 'demo', '', mode, at FROM bench_task WHERE n % 20 = 0
"""
_WAITS = """
INSERT INTO jobs_wait (job_id, kind, key, created_at, resolved_at)
SELECT id, 'person', 'approve', at, CASE state WHEN 'waiting' THEN NULL ELSE at END
FROM bench_task WHERE state = 'waiting' OR n % 50 = 1 AND state = 'succeeded'
"""
_AUDIT = """
INSERT INTO audit_auditentry (at, actor_id, actor_name, action, target_type, target_id, note, before, after, address,
    request_id)
SELECT t.at, p.id, p.username,
       CASE WHEN n % 50 = 0 THEN 'job.redrive' WHEN n % 50 = 1 THEN 'job.cancel' WHEN n % 2000 = 3 THEN 'hold.place'
            ELSE 'task.submit' END,
       CASE WHEN n % 2000 = 3 THEN 'hold' ELSE 'job' END,
       CASE WHEN n % 2000 = 3 THEN 'agent:helper' ELSE t.id::text END, '',
       NULL, '{{"state": "queued"}}', '10.0.0.1', md5(n::text)
FROM bench_task t
JOIN (SELECT id, username, row_number() OVER (ORDER BY id) AS nth FROM auth_user WHERE username LIKE 'person-%') p
    ON p.nth = t.person
ORDER BY n
"""
_SEALS = """
INSERT INTO audit_auditseal (place, entry_id, digest, at)
SELECT row_number() OVER (ORDER BY id), id, md5(id::text) || md5(id::text), at FROM audit_auditentry
"""
_CHATS = """
WITH chats AS (
    INSERT INTO agents_conversation (id, user_id, endpoint_id, title, created_at, updated_at, summary, summary_through)
    SELECT uuidv7(t.at - now()), j.user_id, r.endpoint_id, 'About ' || n, t.at, t.at, '', 0
    FROM bench_task t JOIN jobs_job j ON j.id = t.id JOIN agents_run r ON r.job_id = t.id
    WHERE t.mode = 'streaming-sync' AND n % 4 = 0
    RETURNING id, created_at
)
INSERT INTO agents_message (id, conversation_id, place, role, text, status, seq, created_at)
SELECT uuidv7(created_at - now()), id, place, CASE place WHEN 1 THEN 'user' ELSE 'assistant' END,
       repeat('Something was said. ', 20), 'done', 0, created_at
FROM chats, generate_series(1, 2) place
"""
_MEMORIES = """
INSERT INTO agents_memory (user_id, agent, text, created_at)
SELECT j.user_id, 'helper', 'likes tea number ' || n, t.at
FROM bench_task t JOIN jobs_job j ON j.id = t.id WHERE n % 100 = 1
"""
_OPERATIONS = """
INSERT INTO jobs_bulkoperation (id, verb, options, selector, selection, words, state, expected, expected_more, changed,
    refused, refusals, problem, asked_by_name, request_id, created_at, finished_at)
SELECT uuidv7(at - now()), 'redrive', '{{}}', 'tasks', '{{"state": "dead"}}', 'Dead letters', 'finished', 1000, true,
       990, 10, '{{}}', '', 'person-1', '', at, at
FROM generate_series(1, {operations}) n, LATERAL (SELECT now() - make_interval(mins => n * 30) AS at) t
"""
_SAMPLES = """
INSERT INTO jobs_lanesample (lane, minute, queued, oldest_s, running, slots)
SELECT lane, date_trunc('minute', now()) - make_interval(mins => n), n % 50, n % 20, n % 16, 16
FROM generate_series(0, {minutes}) n, unnest(ARRAY['chat', 'queue', 'scheduled', 'batch', 'tools', 'delivery', 'evals',
    'suspect']) lane
"""


# What was counted of the last two days, by the minute, and of everything.
_STATS = """
INSERT INTO agents_runstat (minute, lane, mode, outcome, runs, wait_sum_s, wait_buckets, run_sum_s, run_buckets,
    first_tokens, first_token_sum_s, first_token_buckets, input_tokens, output_tokens, cost_usd)
SELECT at, lane, mode, outcome, 9, 9, b, 90, b, 9, 9, b, 9000, 900, 0.9
FROM (SELECT date_trunc('minute', now()) - make_interval(mins => n) AS at FROM generate_series(2, {minutes}) n
      UNION ALL SELECT 'epoch') m,
    (VALUES ('chat', 'streaming-sync'), ('queue', 'async-queue')) l (lane, mode),
    unnest(ARRAY['succeeded', 'dead', 'cancelled']) outcome,
    LATERAL (SELECT array_agg(least(n, 9)) AS b FROM generate_series(1, {buckets}) n) buckets
"""
_COUNTED = """
INSERT INTO agents_runstatcursor (id, counted_until) VALUES (1, date_trunc('minute', now()) - interval '1 minute')
ON CONFLICT (id) DO UPDATE SET counted_until = excluded.counted_until
"""


def seed(tasks: int) -> None:
    """Empty the tables and fill them. No statistics are gathered, and none will be until `analyse`."""
    from django.db import connection

    from agents.run_stats import BOUNDS_S

    people = _people()
    sizes = {
        "tasks": tasks,
        "people": people,
        "days": DAYS,
        "workers": max(40, tasks // 500),
        "operations": max(10, tasks // 1000),
        "minutes": min(60 * 48, tasks),
        "buckets": len(BOUNDS_S) + 1,
        "frequent": FREQUENT,
        "common": COMMON,
        "old": OLD,
        "rare": RARE,
        "often": FAILED_OFTEN,
        "rarely": FAILED_RARELY,
    }
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(_TABLES)} RESTART IDENTITY CASCADE")
        for table in _TABLES:
            cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        cursor.execute("DROP TABLE IF EXISTS bench_task")
        cursor.execute("SET synchronous_commit = off; SET maintenance_work_mem = '1GB'; SET work_mem = '256MB'")
        cursor.execute("SET session_replication_role = replica")  # the foreign keys hold: the SQL says so
        with _without_indexes():
            for sql in (
                _TASKS, _WORKERS, _JOBS, _RUNS, _EVENTS, _STEPS, _SCORES, _WAITS, _AUDIT, _SEALS, _CHATS, _MEMORIES,
                _OPERATIONS, _SAMPLES, _STATS, _COUNTED,
            ):  # fmt: skip
                cursor.execute(sql.format(**sizes))
        cursor.execute("DROP TABLE bench_task")
        for setting in ("session_replication_role", "work_mem", "maintenance_work_mem", "synchronous_commit"):
            cursor.execute(f"RESET {setting}")
        cursor.execute("CHECKPOINT")


def analyse() -> None:
    """Gather the statistics that autovacuum would have gathered by and by."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM (ANALYZE) {', '.join(_TABLES)}")
        cursor.execute("CHECKPOINT")


def _people() -> int:
    """Make the people and the endpoints, if they are not there."""
    from django.contrib.auth.models import User

    from accounts import roles
    from agents import registry

    registry.load(CONFIG)
    if not User.objects.filter(username=OPERATOR).exists():
        roles.make_groups(using="default")
        User.objects.create_superuser(OPERATOR)
        User.objects.bulk_create(User(username=f"person-{n}") for n in range(1, PEOPLE + 1))
    return PEOPLE


@contextmanager
def _without_indexes() -> Iterator[None]:
    """Drop the indexes that no constraint needs, and build them again at the end: that is many times faster."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE indrelid = ANY(%s::regclass[]) AND NOT indisunique",
            [list(_TABLES)],
        )
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        try:
            yield
        finally:
            for _, definition in indexes:
                cursor.execute(definition)
