"""A score for people and for programs: JSON, comparison, HTML report, image sheets."""
