import django.db.models.deletion
from django.db import migrations, models

REFUSE = """
CREATE FUNCTION audit_refuse_change_of_seal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the chain of the audit trail is append-only: % of link % is refused', TG_OP, OLD.place
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_seal_append_only BEFORE UPDATE OR DELETE ON audit_auditseal
    FOR EACH ROW EXECUTE FUNCTION audit_refuse_change_of_seal();
"""
ALLOW = """
DROP TRIGGER audit_seal_append_only ON audit_auditseal;
DROP FUNCTION audit_refuse_change_of_seal();
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0004_add_token_and_request")]

    operations = [
        migrations.CreateModel(
            name="AuditSeal",
            fields=[
                (
                    "place",
                    models.BigIntegerField(help_text="1, 2, 3 …, without a gap.", primary_key=True, serialize=False),
                ),
                (
                    "digest",
                    models.CharField(help_text="SHA-256 over the link before and the entry.", max_length=64),
                ),
                ("at", models.DateTimeField(auto_now_add=True)),
                (
                    "entry",
                    models.OneToOneField(
                        db_constraint=False,
                        help_text="The entry.",
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="seal",
                        to="audit.auditentry",
                    ),
                ),
            ],
            options={"ordering": ["-place"]},
        ),
        migrations.RunSQL(REFUSE, ALLOW),
    ]
