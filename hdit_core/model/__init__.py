"""The network: an hourglass of transformer levels over image patches (HDiT paper, section 3)."""
