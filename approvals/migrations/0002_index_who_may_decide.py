from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("approvals", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name="approval",
            index=GinIndex(fields=["groups"], name="approval_by_groups"),
        ),
        migrations.AddIndex(
            model_name="approval",
            index=GinIndex(fields=["users"], name="approval_by_users"),
        ),
    ]
