"""A real Mosquitto, real clients, and what comes of their messages."""
