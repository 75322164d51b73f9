"""The app that holds Astra's commands and console."""

from django.apps import AppConfig


class AstraSiteConfig(AppConfig):
    """The site itself."""

    name = "astra_site"
    verbose_name = "Astra"
