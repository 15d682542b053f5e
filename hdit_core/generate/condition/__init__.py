"""Condition images and vectors of samples: from files, as the network was trained to take them."""
