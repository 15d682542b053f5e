"""The bill before the run: memory, time, energy and money, from the recipe and what is known of the machine."""
