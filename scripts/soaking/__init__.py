"""What scripts/soak is made of: the system, its troubles, and what is checked at the end."""
