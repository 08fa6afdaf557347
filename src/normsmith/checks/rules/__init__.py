"""The rules, in a folder for each family; `normsmith.checks.registry` finds them by walking the folders."""
