"""What the machine says of itself: memory, cgroups, power, network."""
