"""Attention over tokens. Each module is handed its parts and carries its own state."""
