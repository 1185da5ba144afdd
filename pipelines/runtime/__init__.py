"""What stages share and what shapes no result: Ray, MLflow, resources."""
