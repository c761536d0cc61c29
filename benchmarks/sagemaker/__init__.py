"""What the sagemaker backend costs AWS."""
