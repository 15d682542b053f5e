"""What a run starts from: its directory, initial weights, or the checkpoint of another run."""
