"""What Terraform's documents mean: plan JSON, event stream and configuration, judged without touching the world."""
