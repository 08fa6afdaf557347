"""Stored trials for other programs: tables in files, TensorBoard, MLflow."""
