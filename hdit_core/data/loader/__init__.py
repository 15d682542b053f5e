"""From a prepared data set to training batches: random reads, order, augmentation, workers."""
