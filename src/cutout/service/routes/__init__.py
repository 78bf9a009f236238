"""The addresses of the service, a module each kind."""
