"""What the machine at hand does with the network and the data, each figure beside its floor."""
