"""HTTP: the application, connections, requests, authorization and routes."""
