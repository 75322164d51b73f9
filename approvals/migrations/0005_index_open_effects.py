from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("approvals", "0004_keep_delegations"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="approval",
            index=models.Index(
                fields=["effect"], condition=models.Q(state="pending", kind="effect"), name="approval_open_effects"
            ),
        ),
    ]
