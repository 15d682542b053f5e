"""What updates the weights: optimizers, learning-rate schedule, EMA, gradient norms."""
