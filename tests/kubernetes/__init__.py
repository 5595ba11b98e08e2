"""The server and the agent against a real Kubernetes API server."""
