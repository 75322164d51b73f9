from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Give `jobs` the handler of runs, and tell worker processes what they have loaded and must close."""
        from agents import handler, registry, services
        from jobs import handlers
        from jobs.process import hooks

        handlers.register(handler.NAME, handler.RunHandler())
        hooks.capabilities = registry.capabilities
        hooks.before_forks.append(services.preload)
        hooks.on_shutdown.append(services.close)
