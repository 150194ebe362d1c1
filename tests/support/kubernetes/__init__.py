"""What the manifests in ``k8s/`` say, and what can be wrong with them."""
