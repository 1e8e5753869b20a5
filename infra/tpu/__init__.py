"""The trainer on TPU hosts, under Kubernetes."""
