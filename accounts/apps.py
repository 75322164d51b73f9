"""The app of roles, tokens and preferences."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    """Roles and tokens. The groups of the roles are made after each migration, so that they are always there."""

    name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Ask for the groups after each migration."""
        from accounts import roles

        post_migrate.connect(roles.make_groups, sender=self)
