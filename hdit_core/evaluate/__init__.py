"""From images to a score: features, statistics, distances, and what produced them."""
