"""Let a redrive repeat what was done outside, and keep when a version of an agent first succeeded."""

from django.db import migrations, models

FIRST_SUCCESSES = """
UPDATE agents_agentversion v SET first_succeeded_at = (
    SELECT min(j.finished_at) FROM agents_run r JOIN jobs_job j ON j.id = r.job_id
    WHERE r.agent_id = v.id AND j.state = 'succeeded'
)
"""


class Migration(migrations.Migration):
    dependencies = [
        ("agents", "0007_add_the_shop"),
        ("jobs", "0002_add_console"),
    ]

    operations = [
        migrations.AddField(
            model_name="agentversion",
            name="first_succeeded_at",
            field=models.DateTimeField(help_text="When a run of this version first did.", null=True),
        ),
        migrations.RunSQL(FIRST_SUCCESSES, migrations.RunSQL.noop),
        migrations.AddField(
            model_name="run",
            name="effects_epoch",
            field=models.PositiveIntegerField(
                db_default=1, help_text="A part of the keys of effects. Raised by a redrive that repeats what was done."
            ),
        ),
        migrations.AlterField(
            model_name="effect",
            name="key",
            field=models.CharField(
                help_text="Of run, step, tool and arguments; and of the repetition.", max_length=64, unique=True
            ),
        ),
    ]
