from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make known how Django admin selects jobs."""
        from jobs import bulk, selection

        bulk.register_selector(selection.SELECTOR)
