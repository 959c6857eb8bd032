"""What both processes need: settings, recipes, metrics, health, logging. Imports nothing heavy."""
