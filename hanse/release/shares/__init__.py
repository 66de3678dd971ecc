"""What is owed to whom for licensed text."""
