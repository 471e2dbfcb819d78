"""notify: durable notifications over WebSockets, on nothing but PostgreSQL."""

__version__ = "0.1.0"
