"""The Kubernetes side of the server: reads objects, keeps identities, proves who connects."""
