"""The console: what an operator looks at. It composes what the apps say of themselves."""
