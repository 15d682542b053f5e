"""Several ranks, one network: DDP, FSDP2, HSDP, and detection of failed ranks."""
