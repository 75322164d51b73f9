"""The app of roles, tokens and preferences."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    """Roles and tokens. The groups of the roles are made after each migration, so that they are always there."""

    name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Ask for the groups after each migration, and hear of everybody who signs out."""
        from django.contrib.auth.signals import user_logged_out

        from accounts import login, roles

        post_migrate.connect(roles.make_groups, sender=self)
        user_logged_out.connect(login.note_sign_out, dispatch_uid="accounts.note_sign_out")
