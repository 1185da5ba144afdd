"""Ray, MLflow, resources and views: what the stages of a run share, and what does not affect results."""
