"""The app that holds Astra's commands and console."""

from django.apps import AppConfig


class AstraSiteConfig(AppConfig):
    """The site itself."""

    name = "astra_site"
    verbose_name = "Astra"

    def ready(self) -> None:
        """Have the schedulers seal the audit trail: the ground imports nothing, so the roof registers its sweep."""
        from audit import chain
        from jobs.sweeps import register_sweep

        register_sweep("audit chain", chain.seal, every_s=5.0)
        register_sweep("late audit entries", chain.LateSeal().turn, every_s=5.0)
