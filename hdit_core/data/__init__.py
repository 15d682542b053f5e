"""From pictures on a disk to batches: preparation into verified shards, exact order, augmentation."""
