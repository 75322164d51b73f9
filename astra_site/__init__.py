"""The roof: settings, URLs, the embedded servers, the console and the commands that run Astra."""
