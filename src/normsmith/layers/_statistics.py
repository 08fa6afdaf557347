"""The module path under which models that were pickled by normsmith 0.1 name the policy of a frozen layer."""

from normsmith.layers.policy import Policy

__all__ = ["Policy"]
